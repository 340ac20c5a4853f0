"""Frames of one person as one PNG, one below the other: no loss but the rounding to 8 bits."""

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from talkinghead.data.shards import write_atomic


def save_strip(path: Path, images: Float[Tensor, "M 3 H W"]) -> None:
    """Write images in [-1, 1], whole or not at all; NaN becomes black."""
    levels = ((images.detach().float().nan_to_num(-1.0).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = levels.permute(0, 2, 3, 1).flatten(0, 1).cpu().numpy()
    _, content = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))
    write_atomic(path, content.tobytes())


def load_strip(path: Path) -> Float[Tensor, "M 3 H W"]:
    """Square frames in [-1, 1]."""
    pixels = cv2.imread(str(path))
    if pixels is None or pixels.shape[0] % pixels.shape[1]:
        raise ValueError(f"{path} is no strip of square frames: delete it, and its row in results.csv")
    side = pixels.shape[1]
    frames = np.ascontiguousarray(pixels[..., ::-1]).reshape(-1, side, side, 3)
    return torch.from_numpy(frames).movedim(-1, 1).float().div_(127.5).sub_(1)
