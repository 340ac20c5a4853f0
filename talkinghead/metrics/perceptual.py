"""Perceptual distance of two images on a network's activations, named after it: pd_facenet_synthetic, pd_vgg16, …"""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from talkinghead.pretrained import locate_for

EPS = 1e-10  # avoids a division by zero for activations of zeros


class PerceptualDistance(nn.Module):
    """Mean over layers and pixels of | u(x_hat) - u(x) |^2, u an activation divided by its length over the channels.

    This is LPIPS (arXiv 1801.03924, Sec. 3) without its learned weights, hence its name; 0 where the images agree, at
    most 2 where no activation is negative. `backbone` maps images in [-1, 1] to activations, shallow to deep.

    >>> from talkinghead.models.backbones import Pixels  # one activation: the image itself
    >>> red, dark_red, yellow = torch.tensor([[1.0, 0, 0], [0.5, 0, 0], [1, 1, 0]]).view(3, 1, 3, 1, 1)
    >>> distance = PerceptualDistance(Pixels())
    >>> distance(red, dark_red), distance(red, yellow)  # only directions count; 2 - 2 cos(45 degrees)
    (tensor([0.]), tensor([0.5858]))
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()

    def forward(self, x_hat: Float[Tensor, "B 3 H W"], x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
        """Distance of each pair of images in [-1, 1]."""
        layers = zip(self.backbone(x_hat), self.backbone(x), strict=True)
        distances = [(unit(fake) - unit(real)).square().sum(dim=1).mean(dim=(1, 2)) for fake, real in layers]
        return torch.stack(distances).mean(dim=0)


def unit(activation: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    """Divide the channel vector of each pixel by its length.

    >>> unit(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)).flatten()
    tensor([0.6000, 0.8000])
    """
    activation = activation.float()
    return activation / (activation.square().sum(dim=1, keepdim=True).sqrt() + EPS)


def find_perceptual(
    metric: str, network: str, build: Callable[..., nn.Module], path: str | Path | None = None,
) -> PerceptualDistance | None:  # fmt: skip
    """The distance on a pretrained network whose file is found, else None and one notice; downloads nothing.

    Args:
        metric: its log name, for the notice
        network: name of the network in `talkinghead.pretrained`
        build: makes the backbone; called with `path`
    """
    file = locate_for(metric, network, path)
    return PerceptualDistance(build(path=file)) if file is not None else None
