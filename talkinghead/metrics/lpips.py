"""LPIPS (arXiv 1801.03924): the published linear layers on a trunk whose ImageNet weights are given as a file."""

import functools
import warnings
from pathlib import Path

import lpips
import torch
from jaxtyping import Float
from torch import Tensor, nn

from talkinghead.pretrained import find, locate_for

TRUNKS = {"alex": "alexnet", "vgg": "vgg16"}  # trunk -> name of the pretrained network


class LPIPS(nn.Module):
    """Perceptual distance of two images, 0 where they agree; frozen.

    `trunk`: papers report alex as LPIPS. `weights`: torchvision's state dict of that classifier, of which `features.*`
    are used.
    """

    def __init__(self, weights: Path | str, trunk: str = "alex") -> None:
        super().__init__()
        check_trunk(trunk)
        with warnings.catch_warnings():  # the package calls torchvision in a deprecated way
            warnings.filterwarnings("ignore", module="torchvision.models._utils")
            self.network = lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False)
        load_trunk(self.network.net, torch.load(weights, map_location="cpu", weights_only=True), str(weights))
        self.network.requires_grad_(False).eval()

    def forward(self, x_hat: Float[Tensor, "B 3 H W"], x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
        """Distance of each pair of images in [-1, 1]; at least 0."""
        return self.network(x_hat, x).flatten()


def check_trunk(trunk: str) -> None:
    """Raise ValueError for a trunk that LPIPS has no linear layers for here.

    >>> check_trunk("resnet")
    Traceback (most recent call last):
    ValueError: LPIPS has no trunk 'resnet': take one of alex, vgg
    """
    if trunk not in TRUNKS:
        raise ValueError(f"LPIPS has no trunk {trunk!r}: take one of {', '.join(TRUNKS)}")


def load_trunk(trunk: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Copy `features.<n>.*` of a torchvision classifier into the slices of the trunk, which keep the numbers <n>.

    >>> trunk = nn.ModuleDict({"slice2": nn.ModuleDict({"3": nn.Conv2d(1, 1, 1, bias=False)})})
    >>> load_trunk(trunk, {"features.3.weight": torch.full((1, 1, 1, 1), 7.0)}, "alexnet.pth")
    >>> trunk.state_dict()["slice2.3.weight"].item()
    7.0
    """
    for name, parameter in trunk.named_parameters():
        source = f"features.{name.split('.', 1)[1]}"
        if source not in state or state[source].shape != parameter.shape:
            raise ValueError(f"{where} is not the torchvision network that LPIPS needs: {source} is absent or differs")
        with torch.no_grad():
            parameter.copy_(state[source])


@functools.cache
def find_lpips(trunk: str = "alex", download: bool = False) -> LPIPS | None:
    """LPIPS if its trunk is in the weights folder or torch's hub cache, else None and one notice.

    It downloads only on request: a metric must not delay a training run without a network connection.
    """
    check_trunk(trunk)
    name = TRUNKS[trunk]
    file = find(name) if download else locate_for("lpips", name)
    return LPIPS(file, trunk) if file is not None else None
