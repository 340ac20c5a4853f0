"""The encoder over picture and landmark image that E and D share (arXiv 1905.08233, Sec. 3.1 and 4)."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from talkinghead.models.layers import IMAGE_CHANNELS, DownBlock, SelfAttention, without_power_iterations
from talkinghead.models.memory_format import layout_of

Pooling = Literal["sum_relu", "relu_sum", "sum", "max"]


def pool(h: Float[Tensor, "B N h w"], pooling: Pooling) -> Float[Tensor, "B N"]:
    """Feature map to vector, in fp32: "sum_relu" as ICCV, "relu_sum" as the authors' code, "max" as arXiv v1.

    "sum" has no ReLU, so no component can die, and components may be negative (not in the paper).

    >>> h = torch.tensor([[-3.0, 1.0], [1.0, -2.0]])[None, None]  # one channel of 2 x 2
    >>> [float(pool(h, how)) for how in ("sum_relu", "relu_sum", "sum", "max")]
    [0.0, 2.0, -3.0, 1.0]
    """
    h = h.float()
    if pooling == "sum":
        return h.sum((2, 3))
    if pooling == "sum_relu":
        return F.relu(h.sum((2, 3)))
    if pooling == "relu_sum":
        return F.relu(h).sum((2, 3))
    return F.relu(h).amax((2, 3))


class Encoder(nn.Module):
    """Residual down blocks over picture and landmark image, to one vector: E, and with one block more V of D.

    Args:
        channels: width after each block, which halves the size; the last is N
        attention: side of the feature map that self-attention works on; None: no self-attention
        num_flat: residual blocks at the end that keep the size (V of D has one)

    Attributes:
        checkpointing: of the activations, only what a block is given is kept; backward computes the rest once more
    """

    checkpointing = False

    def __init__(
        self, image_size: int, channels: Sequence[int], attention: int | None, pooling: Pooling, spectral_norm: bool,
        num_flat: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if image_size < 2 ** len(channels):
            raise ValueError(f"{len(channels)} down blocks need pictures of {2 ** len(channels)} px, not {image_size}")
        self.pooling = pooling
        self.blocks = nn.ModuleList()
        self.attention_after = -1
        widths = [2 * IMAGE_CHANNELS, *channels]
        for n, (before, after) in enumerate(pairwise(widths)):
            self.blocks.append(DownBlock(before, after, first=n == 0, spectral_norm=spectral_norm))
            if image_size >> (n + 1) == attention:
                self.attention_after = n
        if attention is not None and self.attention_after < 0:
            raise ValueError(f"no block of a {image_size} px encoder gives {attention} px for self-attention; or null")
        for _ in range(num_flat):
            self.blocks.append(DownBlock(channels[-1], channels[-1], downsample=False, spectral_norm=spectral_norm))
        at = channels[self.attention_after]
        self.attention = SelfAttention(at, spectral_norm) if self.attention_after >= 0 else nn.Identity()

    def forward(self, x: Tensor, y: Tensor) -> tuple[Float[Tensor, "B N"], list[Tensor]]:
        """Picture and landmark image, both [B, 3, H, W] in [-1, 1] -> the vector, and the activations of each block."""
        h = torch.cat([x, y], dim=1).contiguous(memory_format=layout_of(self))
        features = []
        for n, block in enumerate(self.blocks):
            h = recomputed(block, h) if self.checkpointing and torch.is_grad_enabled() else block(h)
            if n == self.attention_after:
                h = self.attention(h)
            features.append(h)
        return pool(h, self.pooling), features


def recomputed(block: nn.Module, h: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
    """The output of a block that keeps nothing for backward but `h`, and runs again then, with the weights it had."""

    def contexts() -> tuple[nullcontext[None], AbstractContextManager[None]]:
        return nullcontext(), without_power_iterations(block)  # first run, and second

    return checkpoint(block, h, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)  # type: ignore[no-any-return]
