"""G' for inference (arXiv 1905.08233, Sec. 4): the pictures of `PersonalGenerator` with two thirds of the arithmetic.

Convolution and resampling are both linear, so each pair of them is fused into one convolution: 3 x 3 followed by 2 x 2
average pooling is 4 x 4 with stride 2; nearest upsampling followed by 3 x 3 is four convolutions of 2 x 2, one for each
pixel of the 2 x 2 that an input pixel becomes, because two of three taps then read the same pixel. Scales and shifts
are constants, attention is two matrix products, and there are no gradients.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from talkinghead.models.fsth import PersonalGenerator
from talkinghead.models.layers import (
    AdaptiveBlock,
    DownBlock,
    InstanceNorm,
    SelfAttention,
    at_least_fp32,
)
from talkinghead.models.warp_guided import SEEN, PersonalWarpGuidedGenerator

PIXELS_AT_ONCE = 8 * 64 * 64  # per pass: small pictures share one read of the weights, large ones stay in the caches


class FastGenerator(nn.Module):
    """Draws the same pictures as `person`; weights and activations have type `dtype`, statistics fp32.

    For CPUs. It shares no memory with `person`.
    """

    def __init__(self, person: PersonalGenerator, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        person = person.fold()
        psi = iter(person.psi.detach().split(person.psi_sizes, dim=1))
        layers: list[nn.Module] = []
        for n, down in enumerate(person.down):
            layers += [FastDown(down), *attention(person.down_attention, n)]  # type: ignore[arg-type]
        layers += [FastUp(block, next(psi), next(psi)) for block in person.middle]  # type: ignore[arg-type]
        for n, up in enumerate(person.up):
            layers += [FastUp(up, next(psi), next(psi)), *attention(person.up_attention, n)]  # type: ignore[arg-type]
        self.layers = nn.Sequential(*layers, Norm(person.norm, next(psi)), person.to_image)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                layer.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = dtype
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, y: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        at_once = max(1, PIXELS_AT_ONCE // y[0, 0].numel())
        with torch.autocast(y.device.type, enabled=False):
            y = y.to(self.dtype).contiguous(memory_format=torch.channels_last)
            return torch.cat([torch.tanh(at_least_fp32(self.layers(some))) for some in y.split(at_once)])


class FastWarpGuidedGenerator(nn.Module):
    """Draws the same pictures as a warp-guided `person`; masks and resampling stay in fp32."""

    def __init__(self, person: PersonalWarpGuidedGenerator, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        person = person.fold()
        psi = iter(person.psi.detach().split(person.psi_sizes, dim=1))
        self.from_guide = person.from_guide
        self.down = nn.ModuleList(FastDown(block) for block in person.down)  # type: ignore[arg-type]
        blocks = [*person.middle, *person.up, person.last]
        self.blocks = nn.ModuleList(FastUp(block, next(psi), next(psi)) for block in blocks)  # type: ignore[arg-type]
        self.norm, self.to_parts = Norm(person.norm, next(psi)), person.to_parts
        self.first_up, self.compose = len(person.middle), person.compose
        self.condition, self.distances = person.condition, person.distances
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                layer.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = dtype
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, y: Float[Tensor, "B 13 H W"]) -> Float[Tensor, "B 3 H W"]:
        """One picture at a time: larger batches do not fit the caches."""
        with torch.autocast(y.device.type, enabled=False):
            return torch.cat([self.compose(some, self.parts(some)) for some in y.float().split(1)])

    def parts(self, y: Float[Tensor, "B 13 H W"]) -> Float[Tensor, "B 26 h w"]:
        """The network's output at half size, of which `compose` makes the picture."""
        h = self.from_guide(F.pixel_unshuffle(y[:, :SEEN], 2).to(self.dtype, memory_format=torch.channels_last))
        skips = [h]
        for block in self.down:
            h = block(h)
            skips.append(h)
        skips.pop()
        for number, block in enumerate(self.blocks):
            h = block(h)
            if number >= self.first_up and skips:
                h = torch.cat([h, skips.pop()], 1)
        return self.to_parts(self.norm(h)).float()


def attention(layers: nn.ModuleDict, n: int) -> list[nn.Module]:
    """The self-attention after the n-th block, or nothing."""
    return [FastAttention(layers[str(n)])] if str(n) in layers else []  # type: ignore[arg-type]


class Norm(nn.Module):
    """Instance norm with constant scale and shift, then ReLU."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.Module, scale_shift: Float[Tensor, "1 S"] | None = None) -> None:
        super().__init__()
        assert isinstance(norm, InstanceNorm)
        given = norm.scale_shift if scale_shift is None else scale_shift
        assert given is not None
        scale, shift = at_least_fp32(given.detach()[0]).chunk(2)
        self.register_buffer("scale", 1 + scale)
        self.register_buffer("shift", shift.clone())
        self.eps = norm.eps

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        result, mean, inverse_std = torch.empty_like(x), torch.empty_like(self.scale), torch.empty_like(self.scale)
        # Batch norm of one picture is instance norm. Group norm would not do: its variance E[x²] - E[x]² is inexact.
        for image, out in zip(x.split(1), result.split(1), strict=True):
            torch.native_batch_norm(
                image, self.scale, self.shift, None, None, True, 0.0, self.eps, out=(out, mean, inverse_std)
            )
        return F.relu_(result)


class FastDown(nn.Module):
    """A `DownBlock` whose second convolution and pooling are fused."""

    def __init__(self, block: DownBlock) -> None:
        super().__init__()
        self.norm1 = nn.Identity() if block.first else Norm(block.norm1)
        self.norm2 = Norm(block.norm2)
        self.conv1, self.conv2, self.skip = block.conv1, fuse_pool(block.conv2), block.skip

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        h = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return h.add_(self.skip(F.avg_pool2d(x, 2)))


class FastUp(nn.Module):
    """An `AdaptiveBlock` of one person; upsampling, if any, is fused with the first convolution."""

    def __init__(self, block: AdaptiveBlock, psi1: Float[Tensor, "1 _"], psi2: Float[Tensor, "1 _"]) -> None:
        super().__init__()
        self.upsample = block.upsample
        self.norm1, self.norm2 = Norm(block.norm1, psi1), Norm(block.norm2, psi2)
        self.conv1 = fuse_upsample(block.conv1) if block.upsample else block.conv1
        self.conv2, self.skip = block.conv2, block.skip

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        h = self.conv1(self.norm1(x))
        h = self.conv2(self.norm2(depth_to_space(h) if self.upsample else h))
        skip = self.skip(x)
        if not self.upsample:
            return h.add_(skip)
        # The skip is added to each of the 2 x 2 pixels in place, without upsampling it.
        upsample_kernels(h).add_(into_rows(skip)[:, :, None, :, None])
        return h


class FastAttention(nn.Module):
    """`SelfAttention`, one picture at a time: on a CPU plain matrix products take a sixth of the time of torch's."""

    def __init__(self, layer: SelfAttention) -> None:
        super().__init__()
        self.query, self.key, self.value = layer.query, layer.key, layer.value
        self.out = scaled(layer.out, layer.gamma)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        queries, keys, values = self.query(x), F.max_pool2d(self.key(x), 2), F.max_pool2d(self.value(x), 2)
        pictures = zip(*map(as_rows, (queries, keys, values)), strict=True)
        attended = torch.stack([torch.softmax(query @ key.T, dim=1) @ value for query, key, value in pictures])
        return x + self.out(attended.mT.unflatten(2, x.shape[2:]))


def fuse_pool(layer: nn.Module) -> nn.Conv2d:
    """One convolution for `avg_pool2d(conv3(x), 2)`."""
    weight, bias = parts_of(layer)
    # The 4 x 4 kernel is the mean of the 3 x 3 one at its four positions, which are windows of the padded kernel.
    return convolution(F.pad(weight, (1, 1, 1, 1)).unfold(2, 4, 1).unfold(3, 4, 1).mean((2, 3)), bias, stride=2)


def fuse_upsample(layer: nn.Module) -> nn.Conv2d:
    """One convolution, four outputs per channel, for `conv3(upsample(x, 2))`; `depth_to_space` puts them in place."""
    weight, bias = parts_of(layer)
    kernels = [halves(halves(weight, row).mT, column).mT for row in (0, 1) for column in (0, 1)]
    return convolution(torch.cat(kernels), bias.repeat(4))


def halves(weight: Float[Tensor, "D C 3 K"], second: int) -> Float[Tensor, "D C 2 K"]:
    """Three taps on upsampled rows as two taps on the rows before: two of the three read the same row.

    `second`: 0 for the first of the two equal rows, whose upper neighbour is another; 1 for the second.
    """
    first, middle, last = weight.unbind(2)
    return torch.stack((first + middle, last) if second else (first, middle + last), 2)


def depth_to_space(h: Float[Tensor, "B D4 H1 W1"]) -> Float[Tensor, "B D H2 W2"]:
    """Interleave the four outputs per channel to twice the size; each belongs to one pixel of 2 x 2.

    The convolution is padded on all sides, so the output for (row, column) starts at that offset.
    """
    rows = into_rows(h).unflatten(3, (2, 2, -1))
    batch, height, width = len(h), h.shape[2] - 1, h.shape[3] - 1
    large = h.new_empty(batch, height, 2, width, 2, h.shape[1] // 4)
    for row in (0, 1):
        for column in (0, 1):
            large[:, :, row, :, column] = rows[:, row : row + height, column : column + width, row, column]
    return large.view(batch, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def parts_of(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution, without gradient."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    return layer.weight.detach(), layer.bias.detach()


def convolution(weight: Tensor, bias: Tensor, stride: int = 1) -> nn.Conv2d:
    """A convolution with these weights, padded by one pixel; 1 x 1 without padding."""
    with torch.device("meta"):
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride, int(weight.shape[2] > 1))
    layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return layer


def scaled(layer: nn.Module, factor: Tensor) -> nn.Conv2d:
    """A convolution whose output is `factor` times that of `layer`."""
    weight, bias = parts_of(layer)
    return convolution(weight * factor.detach(), bias * factor.detach())


def into_rows(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B H W C"]:
    """A view with channels last, as channels-last pictures are stored."""
    return x.permute(0, 2, 3, 1)


def as_rows(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P C"]:
    """A view with one row for each of the P = H * W positions."""
    return into_rows(x).flatten(1, 2)


def upsample_kernels(x: Float[Tensor, "B C H2 W2"]) -> Float[Tensor, "B H 2 W 2 C"]:
    """A view that groups pixels by 2 x 2."""
    return into_rows(x).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
