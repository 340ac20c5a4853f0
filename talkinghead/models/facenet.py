"""FaceNet: a small network for identity, landmarks and facial actions, trained on synthetic heads, part of the package.

It replaces VGG19 and VGGFace in the content loss where their weights cannot be downloaded.
"""

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from talkinghead import pretrained
from talkinghead.models.backbones import Backbone

CHANNELS = (32, 48, 96, 128, 192)
GRID = 4  # the heads see the last activations on a 4 x 4 grid, whatever the image size


class Face(NamedTuple):
    """Outputs of FaceNet. Landmarks are in units of the image side, 0 … 1 from the left and the top."""

    embedding: Float[Tensor, "B D"]
    landmarks: Float[Tensor, "B 68 2"]
    actions: Float[Tensor, "B A"]


class FaceNet(nn.Module):
    """Five blocks of two 3 x 3 convolutions, halving the image between blocks; three linear heads. Images in [-1, 1].

    Args:
        embedding_size: length of the identity embedding
        num_actions: facial actions predicted
        normalise: batch normalisation after each convolution, for training; `fold` removes it
    """

    def __init__(
        self, embedding_size: int, num_actions: int, channels: Sequence[int] = CHANNELS, normalise: bool = True
    ) -> None:
        super().__init__()
        self.first = nn.ModuleList(convolution(a, b, normalise) for a, b in pairwise((3, *channels)))
        self.second = nn.ModuleList(convolution(b, b, normalise) for b in channels)
        features = channels[-1] * GRID * GRID
        self.identity = nn.Linear(features, embedding_size)
        self.landmarks = nn.Linear(features, 68 * 2)
        self.actions = nn.Linear(features, num_actions)

    def activations(self, x: Float[Tensor, "B 3 H W"]) -> tuple[list[Tensor], Tensor]:
        """Activations after the first convolution of each block, and the last activations of all."""
        activations: list[Tensor] = []
        last = x
        for first, second in zip(self.first, self.second, strict=True):
            activations.append(first(F.avg_pool2d(last, 2) if activations else last))
            last = second(activations[-1])
        return activations, last

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Face:
        _, last = self.activations(x)
        features = F.adaptive_avg_pool2d(last, GRID).flatten(1)
        return Face(
            F.normalize(self.identity(features).float(), dim=1),
            self.landmarks(features).float().unflatten(1, (68, 2)),
            self.actions(features).float(),
        )


def convolution(channels_in: int, channels_out: int, normalise: bool) -> nn.Sequential:
    """3 x 3 convolution, optional batch normalisation, ReLU."""
    conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=not normalise)
    return nn.Sequential(conv, *([nn.BatchNorm2d(channels_out)] if normalise else []), nn.ReLU(inplace=True))


def fold(network: FaceNet) -> FaceNet:
    """The same function without batch normalisation: its scales and shifts go into the convolutions."""
    network = deepcopy(network).eval()
    for layers in (network.first, network.second):
        for number, layer in enumerate(layers):
            conv, *norm, relu = layer.children()
            if norm:
                assert isinstance(conv, nn.Conv2d)
                assert isinstance(norm[0], nn.BatchNorm2d)
                layers[number] = nn.Sequential(fuse_conv_bn_eval(conv, norm[0]), relu)
    return network


def to_bytes(network: FaceNet, metadata: dict[str, str]) -> bytes:
    """The folded network as a safetensors file in half precision. `metadata` says how it was made."""
    tensors = {name: value.half().contiguous() for name, value in fold(network).state_dict().items()}
    return save(tensors, metadata)


def load_facenet(path: str | Path | None = None) -> FaceNet:
    """The shipped network, or the one in a file of `to_bytes`: frozen, in eval mode."""
    file = pretrained.find("facenet_synthetic", path)
    with safe_open(file, "pt") as stored:
        tensors = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
    try:
        channels = [tensors[f"first.{n}.0.weight"].shape[0] for n in range(len(CHANNELS))]
        network = FaceNet(len(tensors["identity.bias"]), len(tensors["actions.bias"]), channels, normalise=False)
        network.load_state_dict(tensors)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{file} does not hold a FaceNet: {error}") from error
    return network.requires_grad_(False).eval()


class FaceNetFeatures(Backbone):
    """FaceNet as a backbone of the content loss: activations after the first convolution of each block."""

    def __init__(self, network: FaceNet) -> None:
        super().__init__("unit")
        self.network = network
        self.freeze()

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        return self.network.activations(self.preprocess(x))[0]


def facenet_synthetic(path: str | Path | None = None) -> FaceNetFeatures:
    """The backbone with the shipped weights, or with those of `path`."""
    return FaceNetFeatures(load_facenet(path))
