"""In which order pictures and convolutions lie in memory: a measured choice of device and precision."""

import torch
from torch import nn

LARGE = 128  # pixels a side


def training_layout(device: torch.device | str, bf16: bool, size: int) -> torch.memory_format:
    """The layout in which forward and backward are fastest together, for pictures of `size` px.

    GPUs, whatever computes in bf16, and small pictures: channels last. Large ones in fp32 on CPUs without AVX512:
    contiguous, for there channels last makes the backward pass of convolutions slower, though not the forward pass.
    """
    if size < LARGE or torch.device(device).type != "cpu" or bf16 or torch.cpu._is_avx512_supported():
        return torch.channels_last
    return torch.contiguous_format


def layout_of(network: nn.Module) -> torch.memory_format:
    """That of its first convolution that has one: pictures should come in the same."""
    for weight in network.parameters():
        if weight.dim() == 4 and min(weight.shape[1], weight.shape[2] * weight.shape[3]) > 1:
            last = weight.is_contiguous(memory_format=torch.channels_last)
            return torch.channels_last if last else torch.contiguous_format
    return torch.channels_last


def lay_out(network: nn.Module, layout: torch.memory_format) -> nn.Module:
    """The network with all its convolutions in that layout; the weights stay the same parameters."""
    return network.to(memory_format=layout)  # type: ignore[call-overload]
