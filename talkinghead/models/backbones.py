"""Frozen networks whose activations L_CNT compares: VGG19, VGGFace, VGG16, MobileNetV2 (arXiv 1905.08233, Sec. 4)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import mobilenet_v2 as torchvision_mobilenet_v2

from talkinghead import pretrained


class Convention(NamedTuple):
    """The input that a network expects: `(x in [0, scale] - mean) / std`; `mean` and `std` in that channel order."""

    scale: float
    bgr: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

CONVENTIONS = {
    # Networks trained with Caffe: 0-255, BGR, means subtracted. Activations about a hundred times torchvision's.
    "caffe": Convention(255.0, True, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    # The same with the mean of the VGGFace data set.
    "caffe_face": Convention(255.0, True, (93.5940, 104.7624, 129.1863), (1.0, 1.0, 1.0)),
    "torchvision": Convention(1.0, False, _IMAGENET_MEAN, _IMAGENET_STD),
    # Caffe's weights with Caffe's preprocessing folded into the first layer: torchvision's input, Caffe's activations.
    "caffe_folded": Convention(1.0, False, _IMAGENET_MEAN, _IMAGENET_STD),
    "unit": Convention(1.0, False, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class Backbone(nn.Module, ABC):
    """A frozen network: images in [-1, 1] -> activations of a few layers, shallow to deep.

    Always in eval mode; its weights take no gradient, its input does.
    """

    gain: Tensor
    offset: Tensor

    def __init__(self, convention: str) -> None:
        super().__init__()
        if convention not in CONVENTIONS:
            raise ValueError(f"input convention {convention!r} is not one of {', '.join(CONVENTIONS)}")
        scale, self.bgr, means, stds = CONVENTIONS[convention]
        mean, std = torch.tensor(means).view(1, 3, 1, 1), torch.tensor(stds).view(1, 3, 1, 1)
        self.register_buffer("gain", scale / 2 / std, persistent=False)
        self.register_buffer("offset", (scale / 2 - mean) / std, persistent=False)

    def preprocess(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [-1, 1], RGB -> the network's convention: range, channel order, mean and standard deviation."""
        x = x.flip(1) if self.bgr else x
        return torch.addcmul(self.offset, x.float(), self.gain)

    @abstractmethod
    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]: ...

    def freeze(self) -> "Backbone":
        """Set eval mode, channels last, and weights without gradient; returns the backbone itself."""
        return self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode whatever `mode` is, because a parent's `train()` must not change it; returns itself."""
        return super().train(False)


class Pixels(Backbone):
    """The image itself: a plain L1 on colours beside the activations (not in the paper)."""

    def __init__(self) -> None:
        super().__init__("unit")

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        return [x]


class LaplacianPyramid(Backbone):
    """The image split by scale: `num_levels` band-passes, fine to coarse, and what is left.

    L1 on them is the Lap1 loss (arXiv 1707.05776, Sec. 3): colours as in `Pixels`, with edges. Not in the paper.
    """

    def __init__(self, num_levels: int = 4) -> None:
        super().__init__("unit")
        self.num_levels = num_levels

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        bands = []
        for _ in range(self.num_levels):
            coarse = F.avg_pool2d(x, 2)
            bands.append(x - F.interpolate(coarse, scale_factor=2, mode="bilinear"))
            x = coarse
        return [*bands, x]


class RandomFeatures(Backbone):
    """Five blocks of two 3 x 3 convolutions with random weights, the same for the same seed on every machine.

    Untrained features are not specific to faces, but compare textures and edges on all scales as an ImageNet network
    does: relative to another person, a blur of 1 px is as large a distance as for VGG16 (see arXiv 1606.04801).
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 96, 128, 128), seed: int = 0) -> None:
        super().__init__("unit")
        source = torch.Generator().manual_seed(seed)
        self.first, self.second = nn.ModuleList(), nn.ModuleList()
        for before, after in pairwise((3, *channels)):
            for convs, width in ((self.first, before), (self.second, after)):
                conv = nn.Conv2d(width, after, 3, padding=1)
                nn.init.kaiming_normal_(conv.weight, generator=source)
                conv.bias = nn.Parameter(torch.zeros(after))
                convs.append(conv)
        self.freeze()

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        activations: list[Tensor] = []
        for first, second in zip(self.first, self.second, strict=True):
            activations.append(F.relu(first(F.max_pool2d(x, 2) if activations else x)))
            x = F.relu(second(activations[-1]))
        return activations


# Convolutions per block of the VGG networks (arXiv 1409.1556, Table 1, columns D and E).
VGG16_BLOCKS, VGG19_BLOCKS = (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)
_VGG_CHANNELS = (64, 128, 256, 512, 512)
# After the ReLU of the first convolution of each block, in torchvision's numbering of `features`.
VGG19_LAYERS, VGG16_LAYERS = (1, 6, 11, 20, 29), (1, 6, 11, 18, 25)
# Threshold of the mean first activation between Caffe's weights (20 on a grey ramp) and torchvision's (below 1).
UNIT_LEVEL = 3.0


def activations_of(features: nn.Module, layers: Sequence[int], x: Tensor) -> list[Tensor]:
    """The outputs of the children of `features` with the numbers `layers`, shallow to deep."""
    activations = []
    for number, layer in enumerate(features.children()):
        x = layer(x)
        if number in layers:
            activations.append(x)
    return activations


class VGG(Backbone):
    """The convolutions of a VGG network, up to the deepest layer asked for; random until loaded (`vgg19`, …).

    Args:
        blocks: convolutions per block
        layers: layers whose activations are returned, in torchvision's numbering of `features`
        pooling: "max" as trained, or "avg" as in the authors' later code
    """

    def __init__(self, blocks: Sequence[int], layers: Sequence[int], convention: str, pooling: str = "max") -> None:
        super().__init__(convention)
        if pooling not in ("max", "avg"):
            raise ValueError(f"pooling {pooling!r} of a VGG must be max or avg")
        features: list[nn.Module] = []
        channels = 3
        for width, num_convs in zip(_VGG_CHANNELS, blocks, strict=True):
            for _ in range(num_convs):
                features += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            features.append(nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2))
        self.layers = tuple(sorted(layers))
        self.features = nn.Sequential(*features[: self.layers[-1] + 1])
        self.freeze()

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        return activations_of(self.features, self.layers, self.preprocess(x))


class MobileNetV2(Backbone):
    """torchvision's MobileNetV2 up to the deepest of `layers` (numbers of blocks in its `features`)."""

    def __init__(self, layers: Sequence[int] = (0, 3, 6, 13, 17)) -> None:
        super().__init__("torchvision")
        self.layers = tuple(sorted(layers))
        self.features = torchvision_mobilenet_v2().features[: self.layers[-1] + 1]
        self.freeze()

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        return activations_of(self.features, self.layers, self.preprocess(x))


def vgg19(
    convention: str = "caffe",
    path: str | Path | None = None,
    layers: Sequence[int] = VGG19_LAYERS,
    pooling: str = "max",
) -> VGG:
    """VGG19 trained on ImageNet: Caffe's weights (`caffe`, the paper's scale) or torchvision's own (`torchvision`)."""
    file = pretrained.find(source_name("vgg19", convention, path), path)
    return load_vgg(VGG(VGG19_BLOCKS, layers, convention, pooling), file, convention)


def vgg16(
    convention: str = "caffe",
    path: str | Path | None = None,
    layers: Sequence[int] = VGG16_LAYERS,
    pooling: str = "max",
) -> VGG:
    """VGG16 trained on ImageNet; conventions as `vgg19`, and `caffe_folded` for a file given by `path`."""
    file = pretrained.find(source_name("vgg16", convention, path), path)
    return load_vgg(VGG(VGG16_BLOCKS, layers, convention, pooling), file, convention)


def vggface(
    convention: str = "caffe_face",
    path: str | Path | None = None,
    layers: Sequence[int] = VGG16_LAYERS,
    pooling: str = "max",
) -> VGG:
    """VGG16 trained to recognise 2,622 faces (Parkhi et al., BMVC 2015). Its only public weights are Caffe's.

    Args:
        convention: `caffe_face`; `caffe` subtracts ImageNet's means, as the paper's authors do; `torchvision` or
            `caffe_folded` for a file, given by `path`, made for that input.
    """
    file = pretrained.find(source_name("vggface", convention, path), path)
    return load_vgg(VGG(VGG16_BLOCKS, layers, convention, pooling), file, convention)


def mobilenet_v2(
    path: str | Path | None = None,
    layers: Sequence[int] = (0, 3, 6, 13, 17),
) -> MobileNetV2:
    """torchvision's MobileNetV2 trained on ImageNet: the cheapest of the ImageNet networks."""
    file = pretrained.find("mobilenet_v2", path)
    backbone = MobileNetV2(layers)
    load_features(backbone.features, read_weights(file), file)
    return backbone


_OFFICIAL = {
    "vgg19": {"caffe": "vgg19_caffe", "torchvision": "vgg19"},
    "vgg16": {"caffe": "vgg16_caffe", "torchvision": "vgg16"},
    "vggface": {"caffe": "vggface", "caffe_face": "vggface"},
}


def source_name(network: str, convention: str, path: str | Path | None) -> str:
    """The public file with the weights for this convention; ValueError where there is none and no path is given."""
    names = _OFFICIAL[network]
    if convention not in names and path is None:
        raise ValueError(
            f"no public weights of {network} want the input convention {convention!r}: "
            f"say convention={' or '.join(names)}, or give a file that does: path=FILE"
        )
    return names.get(convention, network)


def load_vgg(backbone: VGG, file: Path, convention: str) -> VGG:
    """Load a VGG's weights, and check that the scale of its activations is that of the convention."""
    load_features(backbone.features, read_weights(file), file)
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    with torch.no_grad():
        level = backbone(ramp)[0].mean().item()
    caffe = convention != "torchvision"
    if caffe != (level > UNIT_LEVEL):
        raise ValueError(
            f"{file}: the first activations are {level:.2g} on average, which is the scale of "
            f"{'torchvision' if caffe else 'Caffe'}'s weights, not of the convention {convention!r}; "
            "L_CNT would be wrong by a factor of about a hundred"
        )
    return backbone


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file."""
    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def load_features(features: nn.Module, weights: dict[str, Tensor], file: Path) -> None:
    """Load the `features` of a classification network; its deeper layers are ignored."""
    named = {name.removeprefix("features."): value for name, value in weights.items()}
    try:
        features.load_state_dict({name: named[name] for name in features.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{file} does not hold the weights of this network: {error}") from error
