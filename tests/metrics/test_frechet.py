"""Frechet distances against torchmetrics and by hand, their cache and ranks; perceptual distance against LPIPS."""

import logging
import warnings
from pathlib import Path

import hydra
import lpips
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from talkinghead import pretrained
from talkinghead.metrics import frechet
from talkinghead.metrics.features import InceptionFeatures, PooledFeatures, find_features, find_inception
from talkinghead.metrics.frechet import FrechetDistance, find_distance, frechet_distance
from talkinghead.metrics.perceptual import PerceptualDistance, find_perceptual
from talkinghead.models.backbones import RandomFeatures
from tests.helpers.ranks import on_two_ranks

CONF = str(Path(__file__).parents[2] / "conf")


class Pixels(nn.Module):
    """The first `count` numbers of an image, scaled, as its features."""

    def __init__(self, count: int, scale: float = 1.0) -> None:
        super().__init__()
        self.count = count
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, : self.count] * self.scale


def images(count: int, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return (torch.randn(count, 3, 4, 4, generator=source) * 0.3 + shift).clamp(-1, 1)


@pytest.mark.parametrize("count", [60, 10])  # more and fewer than features
def test_frechet_distance_agrees_with_torchmetrics(count: int) -> None:
    ours = FrechetDistance("fd_pixels", Pixels(20))
    reference = FrechetInceptionDistance(Pixels(20), normalize=True, input_img_size=(3, 4, 4))
    for n in range(3):
        ours.update_real(images(count, seed=n))
        ours.update_fake(images(count, 0.1, seed=10 + n))
        reference.update(images(count, seed=n), real=True)
        reference.update(images(count, 0.1, seed=10 + n), real=False)
    assert ours.compute().item() == pytest.approx(reference.compute().item(), rel=1e-4)


def test_frechet_distance_by_hand() -> None:
    ours = FrechetDistance("fd_pixels", Pixels(1))
    for values, add in (([0.0, 0.5, 1.0], ours.add_real), ([-1.0, 0.0, 1.0], ours.add_fake)):
        add(torch.tensor(values)[:, None])
    assert ours.compute().item() == pytest.approx(0.5**2 + (0.5 - 1.0) ** 2)  # means 0.5 and 0, deviations 0.5 and 1
    a, b = torch.diag(torch.tensor([4.0, 9.0])), torch.diag(torch.tensor([1.0, 1.0]))
    distance = frechet_distance(torch.zeros(2), a, torch.tensor([3.0, 0.0]), b)
    assert distance.item() == pytest.approx(9 + (2 - 1) ** 2 + (3 - 1) ** 2, rel=1e-5)


def test_same_images_have_no_distance() -> None:
    ours = FrechetDistance("fd_pixels", Pixels(8))
    ours.update_real(images(40))
    ours.update_fake(images(40))
    assert ours.compute().item() == pytest.approx(0, abs=1e-6)


def test_fresh_ones_share_the_real_images() -> None:
    prototype = FrechetDistance("fd_pixels", Pixels(8))
    near, far = prototype.fresh(), prototype.fresh()
    prototype.update_real(images(40))
    near.update_fake(images(40, 0.1, seed=1))
    far.update_fake(images(40, 0.4, seed=1))
    assert far.compute() > near.compute() > 0
    far.reset()
    far.update_fake(images(40, 0.1, seed=1))
    assert far.compute() == near.compute()
    prototype.reset(real=True)
    with pytest.raises(ValueError, match="0 real and 40 fake"):
        near.compute()


def test_features_can_be_kept_and_added_later() -> None:
    whole, parts = (FrechetDistance("fd_pixels", Pixels(8)) for _ in range(2))
    x, x_hat = images(20), images(20, 0.2, seed=1)
    whole.update_real(x)
    whole.update_fake(x_hat)
    for rows in (slice(0, 3), slice(3, 20)):
        parts.add_real(parts.embed(x)[rows])
        parts.add_fake(parts.embed(x_hat)[rows])
    assert parts.compute().item() == pytest.approx(whole.compute().item(), rel=1e-5)


def test_too_few_images(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "_NOTICED", set())
    ours = FrechetDistance("fd_pixels", Pixels(8))
    ours.update_real(images(1))
    ours.update_fake(images(1))
    with pytest.raises(ValueError, match="more than 8"):
        ours.compute()
    ours.update_real(images(5))
    ours.update_fake(images(5))
    with caplog.at_level(logging.WARNING):
        ours.compute()
        ours.update_fake(images(1))
        ours.compute()
    assert len(caplog.records) == 1
    assert "6 images in 8" in caplog.text


def test_an_output_that_is_not_finite_shows_in_the_distance() -> None:
    ours = FrechetDistance("fd_pixels", Pixels(8))
    ours.update_real(images(20))
    broken = images(20)
    broken[3, 2, 3, 3] = torch.nan  # not among the features
    ours.update_fake(broken)
    assert ours.compute().isnan()


def test_real_statistics_are_kept_by_key_and_network(tmp_path: Path) -> None:
    first = FrechetDistance("fd_pixels", Pixels(8), tmp_path)
    assert not first.load_real("faces/test")
    first.update_real(images(40))
    first.update_fake(images(40, 0.2, seed=1))
    first.save_real("faces/test")
    again = FrechetDistance("fd_pixels", Pixels(8), tmp_path).fresh()
    assert again.load_real("faces/test")
    again.update_real(images(40, 0.5))  # adds nothing
    again.update_fake(images(40, 0.2, seed=1))
    assert again.compute() == first.compute()
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]
    assert not again.load_real("faces/val")
    assert not FrechetDistance("fd_pixels", Pixels(8, scale=2.0), tmp_path).load_real("faces/test")
    assert not FrechetDistance("fd_pixels", Pixels(8)).load_real("faces/test")
    again.reset(real=True)
    again.update_real(images(40, 0.2, seed=1))
    again.update_fake(images(40, 0.2, seed=1))
    assert again.compute().item() == pytest.approx(0, abs=1e-6)


def test_networks_and_sums_stay_out_of_checkpoints() -> None:
    ours = FrechetDistance("fd_pixels", Pixels(8))
    assert not list(ours.parameters())
    assert not ours.state_dict()
    assert find_distance("fid", None) is None


def measure(rank: int, cache: Path) -> list[bool | float]:
    ours = FrechetDistance("fd_pixels", Pixels(8), cache)
    missing = ours.load_real("k")
    for n in range(3 if rank == 0 else 0):  # one rank without a person
        ours.update_real(images(10, seed=n))
        ours.update_fake(images(10, 0.2, seed=10 + n))
    ours.save_real("k")
    computed = ours.compute()
    again = FrechetDistance("fd_pixels", Pixels(8), cache)
    loaded = again.load_real("k")
    again.update_fake(torch.cat([images(10, 0.2, seed=10 + n) for n in range(3)])[rank::2])
    return [missing, loaded, computed.item(), again.compute().item()]


@pytest.mark.slow
def test_ranks_agree_and_share_the_cache(tmp_path: Path) -> None:
    first, second = on_two_ranks(measure, tmp_path, tmp_path / "cache")
    alone = FrechetDistance("fd_pixels", Pixels(8))
    for n in range(3):
        alone.update_real(images(10, seed=n))
        alone.update_fake(images(10, 0.2, seed=10 + n))
    assert first == second
    assert first[:2] == [False, True]
    assert first[2:] == pytest.approx([alone.compute().item()] * 2, rel=1e-5)


def test_pooled_features_are_the_mean_of_the_deepest_activation() -> None:
    backbone, x = RandomFeatures((4, 6)), torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.allclose(PooledFeatures(backbone)(x), backbone(x)[-1].mean((2, 3)))


def test_inception_is_fed_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    (tmp_path / "inception.pth").touch()
    fed: list[torch.Tensor] = []

    class Network(nn.Module):
        def __init__(self, name: str, features: list[str], path: str) -> None:
            super().__init__()
            assert features == ["2048"]
            assert path == str(tmp_path / "inception.pth")

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            fed.append(x)
            return (torch.zeros(len(x), 2048),)

    monkeypatch.setattr(extractor, "FeatureExtractorInceptionV3", Network)
    features = find_inception(path=tmp_path / "inception.pth")
    assert isinstance(features, InceptionFeatures)
    assert features(torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)).shape == (1, 2048)
    assert fed[0].dtype == torch.uint8
    assert fed[0].flatten().tolist() == [0, 128, 255]


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_perceptual_distance_is_lpips_without_its_weights(trunk: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision.models._utils")
        reference = lpips.LPIPS(net=trunk, pnet_rand=True, lpips=False, verbose=False)

    class Trunk(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return list(reference.net(reference.scaling_layer(x)))

    x, x_hat = (torch.rand(2, 3, 48, 48) * 2 - 1 for _ in range(2))
    ours = PerceptualDistance(Trunk())(x_hat, x)
    assert torch.allclose(ours, reference(x_hat, x).flatten() / 5, rtol=1e-4, atol=1e-7)


def test_perceptual_distance_by_hand() -> None:
    distance = PerceptualDistance(nn.Sequential())  # an image is a list of one "activation" of each pixel
    distance.backbone.forward = lambda x: [x, x[:, :2]]  # type: ignore[method-assign]
    x, x_hat = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    x[0, :, 0, 0], x_hat[0, :, 0, 0] = torch.tensor([3.0, 0, 4]), torch.tensor([3.0, 4, 0])  # unit: .6 0 .8, .6 .8 0
    first, second = (0.8**2 + 0.8**2) / 2, ((1 - 0.6) ** 2 + 0.8**2) / 2  # the other pixel is zero in both
    assert distance(x_hat, x).item() == pytest.approx((first + second) / 2)


def test_networks_that_are_not_there_are_left_out_with_one_notice_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv(pretrained.WEIGHTS_VARIABLE, str(tmp_path))
    monkeypatch.setattr(pretrained, "_NOTICED", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert find_perceptual("pd_vgg16", "vgg16", RandomFeatures) is None
            assert find_features("fd_vgg16", "vgg16", RandomFeatures) is None
            assert find_inception() is None
    assert [record.message.split(":")[0] for record in caplog.records] == ["no pd_vgg16", "no fd_vgg16", "no fid"]


def test_a_network_that_is_there_is_built_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    file.touch()
    paths: list[Path] = []

    def build(path: Path) -> nn.Module:
        paths.append(path)
        return RandomFeatures((4,))

    distance = find_perceptual("pd_vgg16", "vgg16", build, path=file)
    assert distance is not None
    assert find_features("fd_vgg16", "vgg16", build, path=file) is not None
    assert paths == [file, file]
    x = torch.rand(1, 3, 8, 8)
    assert distance(x, x).item() == 0
    assert distance(x + 0.2 * torch.randn_like(x), x).item() > 0


def test_evaluation_config_works_without_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv(pretrained.WEIGHTS_VARIABLE, str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(pretrained, "_NOTICED", set())
    overrides = ["metrics=evaluation", "+set_metrics=frechet", f"paths.root_dir={tmp_path}"]
    with initialize_config_dir(CONF, version_base=None):
        config = compose("config", overrides)
    metrics = hydra.utils.instantiate(config.metrics)
    sets = hydra.utils.instantiate(config.set_metrics, _convert_="all")
    offline = {"csim_dlib", "nme", "face_found"} if metrics.detector is not None else set()
    assert set(metrics.compute()) == {"ssim", "psnr", "pd_facenet_synthetic", *offline}
    assert [name for name, part in sets.items() if part is not None] == ["fd_facenet_synthetic"]
    assert set(sets) == {"fid", "fd_facenet_synthetic", "fd_mobilenetv2"}
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32))
    points = torch.rand(2, 68, 2) * 32
    values = metrics.average(metrics.measure(x, x, points))
    assert values["ssim"] == pytest.approx(1)
    assert values["pd_facenet_synthetic"] == 0
    sets["fd_facenet_synthetic"].update_fake(x)
