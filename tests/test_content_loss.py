"""L_CNT: the formula, the input conventions, and its scale per backbone as golden values on a fixed pair of images."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models import vgg as torchvision_vgg

from talkinghead.losses import ContentLoss, activation_distance
from talkinghead.models import backbones
from talkinghead.models.backbones import VGG, VGG16_BLOCKS, VGG16_LAYERS, VGG19_BLOCKS, VGG19_LAYERS, Backbone

WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"
VGG16_FILE = WEIGHTS / "vgg16_imagenet_keras_features_tvnorm_fp16.pth"
MOBILENET_FILE = WEIGHTS / "mobilenet_v2-b0353104.pth"


def image_pair(size: int = 64) -> tuple[Tensor, Tensor]:
    """Two fixed pictures in [-1, 1]: a skin-coloured oval with eyes on a ramp, and the same moved and paler."""

    def picture(shift: float, pale: float) -> Tensor:
        y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
        ramp = torch.stack([0.6 * x, 0.5 * y, -0.4 * x * y])
        face = (((x - shift) / 0.5) ** 2 + (y / 0.7) ** 2 < 1).float()
        skin = torch.tensor([0.6, 0.1, -0.2]).view(3, 1, 1) * pale + 0.1 * torch.sin(20 * y)
        eyes = sum((((x - shift - side) ** 2 + (y + 0.2) ** 2) < 0.01).float() for side in (-0.2, 0.2))
        return (ramp * (1 - face) + skin * face * (1 - eyes) - 0.9 * face * eyes).unsqueeze(0)

    return picture(0.0, 1.0), picture(0.08, 0.8)


def fill(network: nn.Module, gain: float = 1.0) -> None:
    """Weights from a formula, the same with every version of torch: He's scale times `gain`, no biases."""
    for name, value in network.named_parameters():
        phase = torch.arange(value.numel(), dtype=torch.float64)
        noise = torch.frac(torch.sin(phase * 12.9898 + 1) * 43758.5453) * 1.7320508  # close to uniform, variance one
        scale = gain * (2 / value[0].numel()) ** 0.5 if value.ndim == 4 else 0.0
        value.data.copy_((noise * scale).view(value.shape).float())
        assert name


class Toy(Backbone):
    """Activations 2 x and mean over columns, with one weight."""

    def __init__(self) -> None:
        super().__init__("unit")
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.weight * x, x.mean(dim=3, keepdim=True)]


def test_formula_by_hand() -> None:
    x, x_hat = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    by_hand = 2 * (x - x_hat).abs().mean() + (x.mean(3) - x_hat.mean(3)).abs().mean()
    loss = ContentLoss({"a": Toy(), "b": Toy(), "off": Toy()}, {"a": 3.0, "b": 0.5, "off": 0})
    torch.testing.assert_close(loss(x, x_hat), 3.5 * by_hand)
    assert list(loss.backbones) == ["a", "b"]
    assert loss(x, x) == 0


def test_gradient_reaches_the_fake_image_only() -> None:
    x, x_hat = torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(1, 3, 8, 8, requires_grad=True)
    loss = ContentLoss({"a": Toy()}, {"a": 1.0}).train()
    loss(x, x_hat).backward()
    assert x.grad is None
    assert x_hat.grad is not None
    assert x_hat.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())
    assert not loss.backbones["a"].training


def test_names_must_agree() -> None:
    with pytest.raises(ValueError, match="must have the same names"):
        ContentLoss({"a": Toy()}, {"b": 1.0})


def test_conventions_in_numbers() -> None:
    """Red 255, green 0, blue 127.5, as each network wants it."""
    x = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)
    expected = {
        "caffe": [127.5 - 103.939, 0 - 116.779, 255 - 123.68],  # blue, green, red
        "caffe_face": [127.5 - 93.594, 0 - 104.7624, 255 - 129.1863],
        "torchvision": [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.5 - 0.406) / 0.225],
        "caffe_folded": [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.5 - 0.406) / 0.225],
        "unit": [1.0, -1.0, 0.0],
    }
    assert set(expected) == set(backbones.CONVENTIONS)
    for convention, values in expected.items():
        found = VGG(VGG16_BLOCKS, [1], convention).preprocess(x).flatten()
        torch.testing.assert_close(found, torch.tensor(values), atol=1e-4, rtol=1e-5)
    with pytest.raises(ValueError, match="caffe_folded"):
        VGG(VGG16_BLOCKS, [1], "bgr")


@pytest.mark.parametrize(
    ("column", "blocks", "layers"), [("D", VGG16_BLOCKS, VGG16_LAYERS), ("E", VGG19_BLOCKS, VGG19_LAYERS)]
)
def test_layers_are_torchvisions(column: str, blocks: tuple[int, ...], layers: tuple[int, ...]) -> None:
    network = VGG(blocks, layers, "torchvision")
    reference = torchvision_vgg.make_layers(torchvision_vgg.cfgs[column])
    fill(reference)
    backbones.load_features(network.features, reference.state_dict(), Path("reference"))
    assert all(isinstance(reference[layer], nn.ReLU) for layer in layers)
    x = h = network.preprocess(image_pair(32)[0])
    found = network(image_pair(32)[0])
    for number, layer in enumerate(reference[: layers[-1] + 1]):
        h = layer(h)
        if number in layers:
            torch.testing.assert_close(found[layers.index(number)], h)
    assert len(network.features) == layers[-1] + 1
    assert x.shape == (1, 3, 32, 32)


# Sum over layers of the mean absolute difference on `image_pair(64)`, weights from `fill`. A change here is a change of
# the scale of L_CNT: the weights in conf/loss belong to these scales.
GOLDEN = {
    ("vgg19", "caffe", "max"): 18.5545,
    ("vgg19", "torchvision", "max"): 0.33227,
    ("vgg19", "caffe", "avg"): 12.2639,
    ("vggface", "caffe_face", "max"): 20.1988,
    ("vggface", "caffe", "avg"): 12.531,
    ("vggface", "torchvision", "max"): 0.344161,
}


@pytest.mark.parametrize(("name", "convention", "pooling"), GOLDEN)
def test_golden_scale_per_convention(name: str, convention: str, pooling: str) -> None:
    blocks, layers = (VGG19_BLOCKS, VGG19_LAYERS) if name == "vgg19" else (VGG16_BLOCKS, VGG16_LAYERS)
    network = VGG(blocks, layers, convention, pooling)
    fill(network)
    with torch.no_grad():
        found = activation_distance(network, *image_pair()).item()
    assert found == pytest.approx(GOLDEN[name, convention, pooling], rel=1e-3)


def test_channels_last_and_bf16_agree_with_fp32() -> None:
    network = VGG(VGG16_BLOCKS, VGG16_LAYERS, "caffe")
    fill(network)
    x, x_hat = image_pair()
    loss = ContentLoss({"vgg16": network}, {"vgg16": 1.0})
    exact = loss(x, x_hat)
    torch.testing.assert_close(
        loss(x.to(memory_format=torch.channels_last), x_hat.to(memory_format=torch.channels_last)),
        exact,
        rtol=1e-4,
        atol=0,
    )
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(x, x_hat)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.03, atol=0)


def save_vgg(path: Path, gain: float) -> Path:
    network = VGG(VGG16_BLOCKS, VGG16_LAYERS, "caffe")
    fill(network, gain)
    torch.save({f"features.{name}": value for name, value in network.features.state_dict().items()}, path)
    return path


def test_weights_of_the_wrong_scale_are_refused(tmp_path: Path) -> None:
    unit, large = save_vgg(tmp_path / "unit.pth", 1), save_vgg(tmp_path / "large.pth", 100)
    assert backbones.vgg16("torchvision", unit).layers == VGG16_LAYERS
    assert backbones.vgg16("caffe", unit).layers == VGG16_LAYERS  # 0-255 input makes its activations large
    assert backbones.vgg16("caffe_folded", large).layers == VGG16_LAYERS
    with pytest.raises(ValueError, match="scale of torchvision's weights"):
        backbones.vgg16("caffe_folded", unit)
    with pytest.raises(ValueError, match="scale of Caffe's weights"):
        backbones.vgg16("torchvision", large)
    with pytest.raises(ValueError, match="path=FILE"):
        backbones.vgg19("caffe_folded")
    with pytest.raises(ValueError, match="does not hold the weights"):
        backbones.mobilenet_v2(unit)


REAL_GOLDEN = {"vgg16": 223.325, "mobilenet_v2": 0.904678}


@pytest.mark.shared
@pytest.mark.skipif(not VGG16_FILE.exists(), reason="no weights beside the checkout")
def test_golden_values_of_trained_networks() -> None:
    networks = {
        "vgg16": backbones.vgg16("caffe_folded", VGG16_FILE),
        "mobilenet_v2": backbones.mobilenet_v2(MOBILENET_FILE),
    }
    for name, network in networks.items():
        with torch.no_grad():
            assert activation_distance(network, *image_pair()).item() == pytest.approx(REAL_GOLDEN[name], rel=1e-3), (
                name
            )


# What the paper and its authors' code use: (VGG19, VGGFace, fm, mch).
PUBLISHED = {"v1": (1e-2, 2e-3, 10, 80), "v2": (1.5e-1, 2.5e-2, 10, 10), "authors": (1e-2, 2e-3, 10, 1e-2)}
LOSS_SETS = sorted(file.stem for file in (Path(__file__).parents[1] / "conf" / "loss").glob("*.yaml"))


@pytest.mark.parametrize("name", LOSS_SETS)
def test_loss_sets(name: str) -> None:
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        config = compose("config", [f"loss={name}"])
        loss = OmegaConf.to_container(OmegaConf.select(config, "loss"), resolve=False)
    assert isinstance(loss, dict)
    content = loss["content"]
    assert set(loss["weights"]) - {"parts", "close_ups"} == {"cnt", "adv", "fm", "mch"}  # those two: warp-guided only
    assert set(content["weights"]) == set(content["backbones"])
    for backbone in content["backbones"].values():
        assert callable(get_method(backbone["_target_"]))
    if name in PUBLISHED:
        vgg19, vggface, fm, mch = PUBLISHED[name]
        assert content["weights"] == {"vgg19": vgg19, "vggface": vggface}
        assert (loss["weights"]["fm"], loss["weights"]["mch"]) == (fm, mch)
        assert content["backbones"]["vgg19"]["convention"] == "caffe"
    if name == "synthetic":
        built = instantiate(content)
        x, x_hat = image_pair()
        assert 1 < built(x, x_hat) < 200


def test_random_features_are_the_same_everywhere_and_mind_blur_more_than_brightness() -> None:
    one, other = backbones.RandomFeatures(), backbones.RandomFeatures(seed=1)
    torch.manual_seed(5)
    again = backbones.RandomFeatures()
    x = torch.rand(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(one(x), again(x), strict=True))
    assert not torch.equal(one(x)[0], other(x)[0])
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert activation_distance(one, x, blurred) > activation_distance(one, x, x + 0.1)
