"""Memory format of pictures and convolutions: a measured choice by device, precision and size."""

import torch
from torch import nn

LARGE = 128  # pixels; side from which a picture counts as large


def training_layout(device: torch.device | str, bf16: bool, size: int) -> torch.memory_format:
    """The memory format in which forward and backward pass together are fastest, for pictures of `size` px.

    Channels last on GPUs, in bf16, and for small pictures. Contiguous for large ones in fp32 on CPUs without AVX512,
    where channels last makes the backward pass of convolutions slower, though not the forward pass.
    """
    if size < LARGE or torch.device(device).type != "cpu" or bf16 or torch.cpu._is_avx512_supported():
        return torch.channels_last
    return torch.contiguous_format


def layout_of(network: nn.Module) -> torch.memory_format:
    """The format of its first convolution with a kernel above 1 x 1, which its input should have too."""
    for weight in network.parameters():
        if weight.dim() == 4 and min(weight.shape[1], weight.shape[2] * weight.shape[3]) > 1:
            last = weight.is_contiguous(memory_format=torch.channels_last)
            return torch.channels_last if last else torch.contiguous_format
    return torch.channels_last


def lay_out(network: nn.Module, layout: torch.memory_format) -> nn.Module:
    """The network itself, its convolutions converted to that format in place; optimizers keep their parameters."""
    return network.to(memory_format=layout)  # type: ignore[call-overload]
