"""Features for Frechet distances: one vector per image, from Inception (FID) or any frozen backbone."""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from talkinghead.pixels import to_uint8
from talkinghead.pretrained import locate_for

_logger = logging.getLogger(__name__)


class PooledFeatures(nn.Module):
    """The mean over the pixels of a backbone's deepest activation. Images in [-1, 1].

    >>> import torch
    >>> from talkinghead.models.backbones import Pixels  # one activation: the image itself
    >>> x = torch.zeros(1, 3, 2, 2)
    >>> x[:, 0, 0] = 1  # the upper half is red
    >>> PooledFeatures(Pixels())(x)
    tensor([[0.5000, 0.0000, 0.0000]])
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        return self.backbone(x)[-1].mean(dim=(2, 3))


class InceptionFeatures(nn.Module):
    """The 2,048 pooled activations of the InceptionV3 that FID is defined on (arXiv 1706.08500), images in [-1, 1].

    torch-fidelity's port of the TensorFlow graph: 8-bit images, TensorFlow's resizing to 299 px, (x - 128) / 128.
    """

    def __init__(self, weights: Path | str) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # noqa: PLC0415 (an extra)

        self.network = FeatureExtractorInceptionV3("inception", ["2048"], str(weights))

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2048"]:
        return self.network(to_uint8(x))[0]


def find_inception(metric: str = "fid", path: str | Path | None = None) -> InceptionFeatures | None:
    """Inception where its file is found (and torch-fidelity, the extra `fid`), else None and one notice."""
    file = locate_for(metric, "inception", path)
    if file is None:
        return None
    if importlib.util.find_spec("torch_fidelity") is None:
        if path is not None:
            raise ImportError("Inception needs torch-fidelity: pip install 'talkinghead[fid]'")
        _logger.warning("no %s: %s is there, torch-fidelity is not; pip install 'talkinghead[fid]'", metric, file)
        return None
    return InceptionFeatures(file)


def find_features(
    metric: str, network: str, build: Callable[..., nn.Module], path: str | Path | None = None,
) -> PooledFeatures | None:  # fmt: skip
    """Pooled features of a pretrained network whose file is found, else None and one notice; downloads nothing.

    Args:
        metric: log name of the distance, for the notice
        network: name of the network in `talkinghead.pretrained`
        build: makes the backbone; called with `path`
    """
    file = locate_for(metric, network, path)
    return PooledFeatures(build(path=file)) if file is not None else None
