"""Pix2pixHD: landmark image to picture (Wang et al., CVPR 2018, arXiv 1711.11585, Sec. 3.2, appendix)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from talkinghead.models.layers import IMAGE_CHANNELS, NormalizeInstances
from talkinghead.models.memory_format import layout_of

EPS = 1e-5  # of instance norm
LEAK = 0.2  # of D's activations
MAX_WIDTH = 512  # of D
INITIAL_STD = 0.02  # of the weights


class PlainInstanceNorm(nn.Module):
    """Zero mean and unit variance per image and channel; no affine."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        scale = torch.ones(1, x.shape[1], 1, 1, device=x.device)
        return NormalizeInstances.apply(x, scale, torch.zeros_like(scale), EPS)


def reflected(in_channels: int, out_channels: int, kernel: int, bias: bool = False) -> nn.Conv2d:
    """A convolution with reflection padding that keeps the size; `bias` only where no norm follows."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, padding_mode="reflect", bias=bias)


def entry(in_channels: int, width: int) -> list[nn.Module]:
    """`c7s1-width`: 7 x 7 convolution, norm, ReLU."""
    return [reflected(in_channels, width, 7), PlainInstanceNorm(), nn.ReLU(inplace=True)]


def down(width: int) -> list[nn.Module]:
    """`d(2 width)`: half the size, twice the channels."""
    halve = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
    return [halve, PlainInstanceNorm(), nn.ReLU(inplace=True)]


def up(width: int) -> list[nn.Module]:
    """`u(width / 2)`: twice the size, half the channels."""
    double = nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1, bias=False)
    return [double, PlainInstanceNorm(), nn.ReLU(inplace=True)]


class ResidualBlock(nn.Module):
    """`R(width)`: two 3 x 3 convolutions, added to the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = reflected(width, width, 3), reflected(width, width, 3)
        self.norm = PlainInstanceNorm()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return x + self.norm(self.conv2(F.relu(self.norm(self.conv1(x)))))


class Trunk(nn.Sequential):
    """G1 without its last convolution: landmark image -> `width` feature maps of the same size."""

    def __init__(self, width: int, num_down: int, num_residual: int) -> None:
        widths = [width * 2**n for n in range(num_down + 1)]
        layers = entry(IMAGE_CHANNELS, width)
        for before in widths[:-1]:
            layers += down(before)
        layers += [ResidualBlock(widths[-1]) for _ in range(num_residual)]
        for before in reversed(widths[1:]):
            layers += up(before)
        super().__init__(*layers)


class GlobalGenerator(nn.Module):
    """G1(y) -> x_hat: convolutions down, residual blocks, convolutions up (Sec. 3.2)."""

    def __init__(self, width: int = 64, num_down: int = 4, num_residual: int = 9) -> None:
        super().__init__()
        self.trunk = Trunk(width, num_down, num_residual)
        self.to_image = reflected(width, IMAGE_CHANNELS, 7, bias=True)
        self.apply(initialize)

    def forward(self, y: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        h = self.trunk(y.contiguous(memory_format=layout_of(self)))
        return torch.tanh(self.to_image(h).float())


class LocalEnhancer(nn.Module):
    """{G1, G2}(y) -> x_hat: G1 works at half the size; G2, at full size, adds G1's features to its own (Sec. 3.2).

    Args:
        width: of G2; G1 has twice as many channels
        num_down: halvings of G1
        num_residual: residual blocks of G1
        num_residual_local: of G2
    """

    def __init__(self, width: int = 32, num_down: int = 4, num_residual: int = 9, num_residual_local: int = 3) -> None:
        super().__init__()
        self.trunk = Trunk(2 * width, num_down, num_residual)
        self.down = nn.Sequential(*entry(IMAGE_CHANNELS, width), *down(width))
        self.up = nn.Sequential(*(ResidualBlock(2 * width) for _ in range(num_residual_local)), *up(2 * width))
        self.to_image = reflected(width, IMAGE_CHANNELS, 7, bias=True)
        self.apply(initialize)

    def forward(self, y: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        y = y.contiguous(memory_format=layout_of(self))
        h = self.up(self.down(y) + self.trunk(half(y)))
        return torch.tanh(self.to_image(h).float())


class MultiScaleOutput(NamedTuple):
    """Output of D, per scale: a realism score for each patch, and the activations of its layers."""

    scores: list[Tensor]  # [B, 1, h, w] each
    features: list[list[Tensor]]  # shallow to deep, without the scores


class PatchDiscriminator(nn.Module):
    """D_k: C64-C128-C256-C512 and a score for each patch, of 70 x 70 px with three layers (Sec. 3.2, appendix).

    Args:
        num_layers: convolutions that halve the size
    """

    def __init__(self, width: int = 64, num_layers: int = 3) -> None:
        super().__init__()
        widths = [min(width * 2**n, MAX_WIDTH) for n in range(num_layers + 1)]
        before = 2 * IMAGE_CHANNELS
        self.layers = nn.ModuleList()
        for n, after in enumerate(widths):
            stride = 2 if n < num_layers else 1
            conv = nn.Conv2d(before, after, 4, stride, padding=2, bias=n == 0)
            norm = PlainInstanceNorm() if n > 0 else nn.Identity()
            self.layers.append(nn.Sequential(conv, norm, nn.LeakyReLU(LEAK, inplace=True)))
            before = after
        self.to_score = nn.Conv2d(before, 1, 4, padding=2)

    def forward(self, h: Float[Tensor, "B 6 H W"]) -> tuple[Float[Tensor, "B 1 h w"], list[Tensor]]:
        """Picture and landmark image -> the scores of the patches, and the activations of the layers."""
        features: list[Tensor] = []
        for layer in self.layers:
            h = layer(h)
            features.append(h)
        return self.to_score(h).float(), features


class MultiScaleDiscriminator(nn.Module):
    """D_1, D_2, …: identical discriminators for pictures of full size, half the size and so on (Sec. 3.2)."""

    def __init__(self, num_scales: int = 3, width: int = 64, num_layers: int = 3) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(width, num_layers) for _ in range(num_scales))
        self.apply(initialize)

    def forward(self, x: Float[Tensor, "B 3 H W"], y: Float[Tensor, "B 3 H W"]) -> MultiScaleOutput:
        h = torch.cat([x, y], dim=1).contiguous(memory_format=layout_of(self))
        verdict = MultiScaleOutput([], [])
        for n, scale in enumerate(self.scales):
            h = half(h) if n > 0 else h
            scores, features = scale(h)
            verdict.scores.append(scores)
            verdict.features.append(features)
        return verdict


class WeightedLayers(nn.Module):
    """A content-loss network whose activations are multiplied by a weight per layer, and so is their L1 distance."""

    def __init__(self, network: nn.Module, weights: Sequence[float | int]) -> None:
        super().__init__()
        self.network, self.weights = network, tuple(weights)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Raises ValueError where the network has another number of layers."""
        activations = self.network(x)
        if len(activations) != len(self.weights):
            raise ValueError(f"{len(self.weights)} weights for the {len(activations)} layers of the content network")
        return [weight * activation for weight, activation in zip(self.weights, activations, strict=True)]


def half(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
    """Half the size, by average pooling over 3 x 3 pixels with stride 2."""
    return F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)


def initialize(module: nn.Module) -> None:
    """Weights of convolutions from N(0, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=INITIAL_STD)
