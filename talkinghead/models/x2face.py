"""The networks of X2Face: a picture warped to a face without pose, then as the driver is (arXiv 1807.10550, Sec. 3)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from talkinghead.models.layers import IMAGE_CHANNELS, resample
from talkinghead.models.memory_format import layout_of

Sampler = Float[Tensor, "B H W 2"]  # place of each output pixel in the input: (x, y), -1 and 1 are the outermost pixels


def identity(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "1 H W 2"]:
    """The sampler that changes nothing."""
    rows, columns = (torch.linspace(-1, 1, length, device=x.device) for length in x.shape[2:])
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1)[None]


def warp(x: Float[Tensor, "B 3 H W"], sampler: Sampler) -> Float[Tensor, "B 3 H W"]:
    """Sample x bilinearly, in fp32; beyond the border, border pixels are repeated."""
    with torch.autocast(x.device.type, enabled=False):
        return resample(x.float(), sampler, align_corners=True)


class Down(nn.Module):
    """[leaky relu] - conv4 with stride 2 - [batch norm]."""

    def __init__(self, in_channels: int, out_channels: int, *, first: bool, norm: bool) -> None:
        super().__init__()
        self.first = first
        self.conv = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()

    def forward(self, h: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.norm(self.conv(h if self.first else F.leaky_relu(h, 0.2)))


class Up(nn.Module):
    """relu - bilinear to twice the size - conv3 - batch norm."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, h: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D H W"]:
        return self.norm(self.conv(double(F.relu(h))))


def double(h: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C H W"]:
    """Upsample to twice the size, bilinearly."""
    return F.interpolate(h, scale_factor=2.0, mode="bilinear", align_corners=False)


class SamplerNetwork(nn.Module):
    """Picture to sampler: the identity plus offsets in (-1, 1). A new network gives the identity itself.

    Args:
        channels: widths on the way down, where each layer halves the size, to 1 px; the last one is the latent's
        skips: layers of the way up also get the activations of the way down at their size (U-Net)
    """

    def __init__(self, image_size: int, channels: Sequence[int], skips: bool) -> None:
        super().__init__()
        if image_size != 2 ** len(channels):
            raise ValueError(f"{len(channels)} layers bring {2 ** len(channels)} px to one pixel, not {image_size} px")
        self.skips = skips
        last = len(channels) - 1
        widths = enumerate(pairwise([IMAGE_CHANNELS, *channels]))
        self.down = nn.ModuleList(Down(a, b, first=n == 0, norm=0 < n < last) for n, (a, b) in widths)
        channels = tuple(channels)  # OmegaConf's lists do not support negative steps
        inner = [channels[-1], *((1 + skips) * width for width in channels[-2::-1])]
        self.up = nn.ModuleList(Up(a, b) for a, b in zip(inner[:-1], channels[-2::-1], strict=True))
        self.to_offsets = nn.Conv2d(inner[-1], 2, 3, padding=1)
        nn.init.zeros_(self.to_offsets.weight)
        nn.init.zeros_(self.to_offsets.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Sampler:
        h = x.contiguous(memory_format=layout_of(self))
        seen = []
        for down in self.down:
            h = down(h)
            seen.append(h)
        for n, up in enumerate(self.up):
            h = up(h)
            if self.skips:
                h = torch.cat([h, seen[-2 - n]], dim=1)
        offsets = self.to_offsets(double(F.relu(h)))
        return identity(x) + offsets.float().tanh().permute(0, 2, 3, 1)


class EmbeddingNetwork(nn.Module):
    """Source frame -> embedded face: its pixels, rearranged to a face without pose. A U-Net."""

    def __init__(self, image_size: int = 256, channels: Sequence[int] = (64, 128, 256, *[512] * 5)) -> None:
        super().__init__()
        self.network = SamplerNetwork(image_size, channels, skips=True)

    def forward(self, source: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        return warp(source, self.network(source))


class DrivingNetwork(nn.Module):
    """Driving frame -> sampler from an embedded face to it, all through a latent of `channels[-1]` numbers."""

    def __init__(self, image_size: int = 256, channels: Sequence[int] = (64, 128, 256, *[512] * 4, 128)) -> None:
        super().__init__()
        self.network = SamplerNetwork(image_size, channels, skips=False)

    def forward(self, driving: Float[Tensor, "B 3 H W"]) -> Sampler:
        return self.network(driving)
