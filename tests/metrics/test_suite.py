"""Metrics against their reference implementations, hand-computed values and real detections."""

import functools
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from skimage import data as pictures
from skimage.metrics import structural_similarity
from torch import nn

from talkinghead import pretrained
from talkinghead.metrics.landmarks import find_detector, landmark_error
from talkinghead.metrics.lpips import LPIPS, find_lpips
from talkinghead.metrics.suite import MAX_PSNR, ImageMetrics, psnr, ssim
from talkinghead.models.nearest_frame import nearest_frame
from talkinghead.pixels import as_pictures
from talkinghead.types import Episode
from tests.helpers.ranks import on_two_ranks

SHARED = Path(__file__).parents[3] / "shared"


@functools.cache
def face(size: int) -> np.ndarray:
    """A real face of the public domain, cropped to a square of `size` pixels."""
    crop = torch.from_numpy(pictures.astronaut()[0:220, 120:340].copy()).permute(2, 0, 1)[None].float()
    resized = nn.functional.interpolate(crop, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def as_images(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def random_points(count: int) -> torch.Tensor:
    return torch.rand(count, 68, 2, generator=torch.Generator().manual_seed(0)) * 60


class FixedDetector:
    """Answers from a list."""

    def __init__(self, answers: list) -> None:
        self.answers = list(answers)
        self.calls = 0

    def __call__(self, image: np.ndarray) -> np.ndarray | None:
        self.calls += 1
        return self.answers[self.calls - 1]


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.5])
def test_ssim_agrees_with_skimage(noise: float) -> None:
    x = torch.from_numpy(face(64)).permute(2, 0, 1)[None].float() / 255
    x_hat = (x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    reference = structural_similarity(
        x[0].permute(1, 2, 0).numpy(), x_hat[0].permute(1, 2, 0).numpy(), channel_axis=2, data_range=1.0,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert ssim(x_hat, x).item() == pytest.approx(reference, abs=2e-4)


def test_psnr_is_per_image_and_finite() -> None:
    x = torch.zeros(3, 3, 8, 8)
    x_hat = torch.stack([x[0], x[1] + 0.1, x[2] + 0.01])
    assert psnr(x_hat, x).tolist() == pytest.approx([MAX_PSNR, 20.0, 40.0], abs=1e-3)


def test_autocast_does_not_reach_the_metrics() -> None:
    x = as_images(face(64))
    x_hat = (x + 0.05).clamp(-1, 1)
    plain, cast = ImageMetrics(), ImageMetrics()
    plain.update(x_hat, x, random_points(1))
    with torch.autocast("cpu", torch.bfloat16):
        cast.update(x_hat, x, random_points(1))
    assert cast.compute() == plain.compute()


def test_means_over_batches_are_means_over_images() -> None:
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole, parts = ImageMetrics(), ImageMetrics()
    whole.update(x.flip(0), x, random_points(5))
    for rows in (slice(0, 1), slice(1, 5)):
        parts.update(x.flip(0)[rows], x[rows], random_points(5)[rows])
    assert parts.compute()["ssim"].item() == pytest.approx(whole.compute()["ssim"].item(), abs=1e-6)
    assert parts.compute()["psnr"].item() == pytest.approx(whole.compute()["psnr"].item(), abs=1e-5)


def test_nan_outputs_are_not_hidden() -> None:
    metrics = ImageMetrics()
    x = torch.zeros(1, 3, 16, 16)
    metrics.update(x + torch.nan, x, random_points(1))
    assert metrics.compute()["ssim"].isnan()


def test_landmark_error_by_hand() -> None:
    driver = np.zeros((68, 2), np.float32)
    driver[45] = (30, 40)  # 50 px from point 36
    assert landmark_error(driver + np.float32([3, 4]), driver) == pytest.approx(5 / 50)
    with pytest.raises(ValueError, match="eye corners"):
        landmark_error(driver, np.zeros((68, 2), np.float32))


def test_nme_counts_only_faces_that_were_found() -> None:
    points = random_points(4)
    points[:, 36], points[:, 45] = torch.tensor([10.0, 20.0]), torch.tensor([30.0, 20.0])
    answers = [points[0].numpy(), None, points[2].numpy() + np.float32([2, 0]), None]
    metrics = ImageMetrics(FixedDetector(answers))
    x = torch.zeros(4, 3, 16, 16)
    metrics.update(x, x, points)
    values = metrics.compute()
    assert values["nme"].item() == pytest.approx((0 + 2 / 20) / 2)
    assert values["face_found"].item() == pytest.approx(0.5)


def test_no_face_at_all_is_nan_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    metrics = ImageMetrics(FixedDetector([None, None]))
    metrics.update(torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 16, 16), random_points(2))
    values = metrics.compute()
    assert values["nme"].isnan()
    assert values["face_found"] == 0
    assert not recwarn.list


def test_detections_are_capped_between_resets() -> None:
    detector = FixedDetector([None] * 10)
    metrics = ImageMetrics(detector, max_detections=3)
    x = torch.zeros(2, 3, 16, 16)
    for _ in range(3):
        metrics.update(x, x, random_points(2))
    assert detector.calls == 3
    metrics.reset()
    metrics.update(x, x, random_points(2))
    assert detector.calls == 5


def test_fresh_suite_shares_parts_but_no_counts() -> None:
    metrics = ImageMetrics(
        FixedDetector([None]), {"lpips": lambda x_hat, x: (x_hat - x).mean((1, 2, 3)), "absent": None}
    )
    metrics.update(torch.ones(1, 3, 16, 16), torch.zeros(1, 3, 16, 16), random_points(1))
    fresh = metrics.fresh()
    assert fresh.detector is metrics.detector
    assert set(fresh.compute()) == {"ssim", "psnr", "lpips", "nme", "face_found"}
    assert fresh.compute()["lpips"].isnan()
    assert metrics.compute()["lpips"] == 1
    assert not list(ImageMetrics(distances={"lpips": nn.Linear(1, 1)}).parameters())


def test_nearest_frame_takes_the_nearest_of_the_first_shots() -> None:
    shots = torch.arange(3.0)[None, :, None, None, None].expand(2, 3, 3, 4, 4)
    points = torch.zeros(2, 3, 68, 2)
    points[0, :, :, 0] = torch.tensor([5.0, 2.0, 1.0])[:, None]
    points[1, :, :, 0] = torch.tensor([1.0, 9.0, 0.0])[:, None]
    x = torch.zeros(2, 3, 4, 4)
    episode = Episode(shots, shots, x, x, points, torch.zeros(2, 68, 2), torch.zeros(2, dtype=torch.long), ["a", "b"])
    assert nearest_frame(episode, 3)[:, 0, 0, 0].tolist() == [2, 2]
    assert nearest_frame(episode, 2)[:, 0, 0, 0].tolist() == [1, 0]
    with pytest.raises(ValueError, match="shots"):
        nearest_frame(episode, 4)


def test_dlib_finds_the_same_points_at_every_size() -> None:
    pytest.importorskip("dlib")
    detector = find_detector()
    small, large = detector(face(64)), detector(face(192))
    assert small is not None
    assert large is not None
    scaled = (small + 0.5) * 3 - 0.5
    assert landmark_error(scaled, large) < 0.04
    assert np.array_equal(small, detector(face(64)))


def test_dlib_sees_no_face_in_noise_and_follows_a_shift() -> None:
    pytest.importorskip("dlib")
    detector = find_detector()
    assert detector(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)) is None
    picture = face(96)
    points = detector(picture)
    shifted = detector(np.roll(picture, 6, axis=1))
    assert points is not None
    assert shifted is not None
    assert (shifted - points).mean(0) == pytest.approx([6, 0], abs=1.0)


def test_suite_on_a_face() -> None:
    pytest.importorskip("dlib")
    picture = face(96)
    points = torch.from_numpy(find_detector()(picture))[None]
    values = {}
    for shift in (0, 4, 8):
        metrics = ImageMetrics(find_detector())
        metrics.update(as_images(np.roll(picture, shift, axis=1)), as_images(picture), points)
        values[shift] = metrics.compute()
    assert values[0]["nme"] == 0
    assert values[0]["nme"] < values[4]["nme"] < values[8]["nme"]
    assert values[0]["ssim"] > values[4]["ssim"] > values[8]["ssim"]


def test_pictures_are_the_images() -> None:
    picture = face(32)
    assert np.array_equal(as_pictures(as_images(picture))[0], picture)


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    features = torchvision.models.alexnet(weights=None).features
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, path)
    return path


def test_lpips_trunk_is_the_given_network(alexnet_file: Path) -> None:
    distance = LPIPS(alexnet_file)
    features = torchvision.models.alexnet(weights=None).features
    state = torch.load(alexnet_file, weights_only=True)
    features.load_state_dict({name.removeprefix("features."): value for name, value in state.items()})
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    assert torch.allclose(distance.network.net(x).relu5, features[:12](x), atol=1e-6)
    assert distance(x, x).tolist() == [0, 0]
    assert (distance(x, x.roll(3, 3)) > 0).all()
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_lpips_refuses_another_network(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"features\.0\.weight"):
        LPIPS(tmp_path / "other.pth")
    with pytest.raises(ValueError, match="alex"):
        find_lpips("resnet")


def test_lpips_without_weights_is_left_out_with_one_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv(pretrained.WEIGHTS_VARIABLE, str(tmp_path))
    monkeypatch.setattr(pretrained, "_NOTICED", set())
    with caplog.at_level(logging.WARNING):
        assert find_lpips("alex") is None
        assert find_lpips("alex") is None
    assert len(caplog.records) == 1
    assert "alexnet" in caplog.text


def measure(rank: int) -> dict[str, torch.Tensor]:
    points = random_points(1)
    points[:, 36], points[:, 45] = torch.tensor([10.0, 20.0]), torch.tensor([30.0, 20.0])
    found = [points[0].numpy() + np.float32([4, 0]), None] if rank == 0 else [None]
    metrics = ImageMetrics(FixedDetector(found))
    for _ in found:
        metrics.update(torch.full((1, 3, 16, 16), 0.2 * (rank + 1)), torch.zeros(1, 3, 16, 16), points)
    return metrics.compute()


@pytest.mark.slow
def test_ranks_agree_even_where_one_found_no_face(tmp_path: Path) -> None:
    first, second = on_two_ranks(measure, tmp_path)
    assert first == second
    assert first["nme"].item() == pytest.approx(4 / 20)
    assert first["face_found"].item() == pytest.approx(1 / 3)
    assert first["psnr"].item() == pytest.approx((2 * 20 + 20 - 20 * math.log10(2)) / 3, abs=1e-3)  # MSE 0.1², 0.2²


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "faces").is_dir(), reason="the real clips are not here")
def test_dlib_on_small_real_faces() -> None:
    pytest.importorskip("dlib")
    av = pytest.importorskip("av")
    detector, errors = find_detector(), []
    videos = sorted((SHARED / "faces/test/videos").glob("*/*.mp4"))[:6]
    for video in videos:
        landmarks = np.load(SHARED / "faces/test/landmarks" / video.parent.name / f"{video.stem}.npy")[0].astype("f4")
        frame = next(av.open(str(video)).decode(video=0)).to_ndarray(format="rgb24")
        small = np.asarray(torchvision.transforms.functional.resize(torch.from_numpy(frame).permute(2, 0, 1), [64, 64]))
        found = detector(np.ascontiguousarray(small.transpose(1, 2, 0)))
        if found is not None:
            errors.append(landmark_error((found + 0.5) * 4 - 0.5, landmarks))
    assert len(errors) == len(videos)
    assert np.median(errors) < 0.04
