"""Conversion between stored pictures, bytes from 0 to 255 with channels last, and network inputs in [-1, 1]."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_float(images: UInt8[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
    """Bytes to [-1, 1], in the same memory format.

    >>> to_float(torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 1, 2))[0, 0]
    tensor([[-1.,  1.]])
    """
    return images.float().div_(127.5).sub_(1)


def to_uint8(x: Float[Tensor, "*B 3 H W"]) -> UInt8[Tensor, "*B 3 H W"]:
    """[-1, 1] to bytes, rounded; values outside are clamped, and NaN becomes black.

    >>> to_uint8(torch.tensor([-1.0, 1.5, torch.nan]).expand(1, 3, 1, 3))[0, 0]
    tensor([[  0, 255,   0]], dtype=torch.uint8)
    """
    return ((x.detach().float().nan_to_num(-1.0).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def as_tensor(pictures: UInt8[np.ndarray, "*B H W 3"]) -> Float[Tensor, "*B 3 H W"]:
    """Pictures to [-1, 1]; the channels stay last in memory, the fastest layout for convolutions."""
    return to_float(torch.from_numpy(pictures).movedim(-1, -3))


def as_pictures(x: Float[Tensor, "*B 3 H W"]) -> UInt8[np.ndarray, "*B H W 3"]:
    """[-1, 1] to pictures, on any device; NaN becomes black."""
    return np.ascontiguousarray(to_uint8(x).movedim(-3, -1).cpu().numpy())
