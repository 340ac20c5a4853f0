"""Looks of photographs and paintings for training episodes: one draw an episode, the same again after a resume."""

from pathlib import Path

import numpy as np
import pytest

from talkinghead.data.augmentation import Augmentation, add_grain, compress, kuwahara, paint, recolour, refocus
from talkinghead.data.datasets import Request
from tests.helpers.data_sets import make_clip, module, write_data_set

NONE = {"colours": 0.0, "soft": 0.0, "grain": 0.0, "jpeg": 0.0, "painted": 0.0, "landmarks": 0.0}


@pytest.fixture
def frames() -> np.ndarray:
    """Twice the same colourful picture with smooth and sharp places."""
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    picture = np.stack([x * 3, y * 3, ((x // 8 + y // 8) % 2) * 200], -1).astype(np.uint8)
    return np.stack([picture, picture])


def test_nothing_drawn_changes_nothing(frames: np.ndarray) -> None:
    points = np.random.default_rng(0).uniform(0, 64, (2, 68, 2)).astype(np.float32)
    assert np.array_equal(Augmentation(**NONE).images(frames, (0, 1)), frames)
    assert np.array_equal(Augmentation(**NONE).points(points, (0, 1)), points)


@pytest.mark.parametrize("kind", ["colours", "soft", "jpeg", "painted"])
def test_every_frame_of_an_episode_has_the_same_looks(kind: str, frames: np.ndarray) -> None:
    first, second = Augmentation(**{**NONE, kind: 1.0}).images(frames, (3, 1, 4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, frames[0])


def test_grain_is_new_in_every_frame_and_as_strong(frames: np.ndarray) -> None:
    noisy = add_grain(np.full_like(frames, 128), np.random.default_rng(0)).astype(float) - 128
    assert abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.1
    assert noisy[0].std() == pytest.approx(noisy[1].std(), rel=1e-6)
    assert 2 < noisy[0].std() < 16


def test_an_episode_is_a_function_of_its_seed(frames: np.ndarray) -> None:
    looks = Augmentation()
    seen = [looks.images(frames, (0, 0, number)) for number in range(12)]
    assert all(np.array_equal(one, looks.images(frames, (0, 0, n))) for n, one in enumerate(seen))
    assert len({one.tobytes() for one in seen}) == 12
    assert {one.dtype for one in seen} == {np.dtype(np.uint8)}
    assert {one.shape for one in seen} == {frames.shape}


def test_one_in_eight_is_black_and_white(frames: np.ndarray) -> None:
    spread = [np.ptp(recolour(frames, np.random.default_rng(n))[0].astype(int), -1).max() for n in range(200)]
    assert 0.04 < np.mean(np.array(spread) <= 1) < 0.25  # some of the grey ones are sepia


def test_blur_and_sharpening(frames: np.ndarray) -> None:
    edges = [
        np.abs(np.diff(refocus(frames, np.random.default_rng(n), 1.0)[0].astype(int), axis=1)).sum() for n in range(30)
    ]
    before = np.abs(np.diff(frames[0].astype(int), axis=1)).sum()
    assert min(edges) < 0.9 * before
    assert max(edges) > 1.02 * before


def test_compression_is_that_of_a_camera(frames: np.ndarray) -> None:
    off = [np.abs(compress(frames[0], quality).astype(int) - frames[0]).mean() for quality in (30, 95)]
    assert off[0] > 2 * off[1] > 0


def test_a_painters_dabs_are_flat_and_keep_their_borders() -> None:
    rng = np.random.default_rng(0)
    halves = np.repeat(np.where(np.arange(48) < 24, 60, 180)[None, :, None], 48, 0).repeat(3, -1)
    noisy = np.clip(halves + rng.normal(0, 12, halves.shape), 0, 255).astype(np.uint8)
    dabs = kuwahara(noisy, 2).astype(int)
    assert (dabs - halves)[:, 4:20].std() < 6
    assert (dabs[:, 25] - dabs[:, 22]).mean() > 100
    assert np.array_equal(*paint(np.stack([noisy, noisy]), np.random.default_rng(1), 1.0))


def test_points_are_as_inexact_as_was_asked() -> None:
    points = np.tile(np.random.default_rng(0).uniform(60, 200, (1, 68, 2)), (200, 1, 1)).astype(np.float32)
    points[:, 36:42], points[:, 42:48] = (100, 120), (160, 120)
    found = Augmentation(landmarks=0.01).points(points, (1, 2))
    off = (found - points).std(0).mean(-1)
    assert off[17:].mean() == pytest.approx(0.01 * 60 * 2**0.5, rel=0.1)
    assert off[:17].mean() > 1.3 * off[17:].mean()  # the jaw's outline


@pytest.mark.parametrize("bad", [{"grain": 1.5}, {"soft": -0.1}, {"landmarks": 1.0}])
def test_numbers_out_of_range_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=f"data.augmentation.{next(iter(bad))}="):
        Augmentation(**bad)


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    return write_data_set(tmp_path / "tiny", {"train": [[make_clip(n) for n in range(4)]], "val": [[make_clip(5)]]})


def test_training_episodes_are_augmented_and_repeat_exactly(data_set: Path) -> None:
    loud = Augmentation(colours=1.0, grain=1.0)
    datasets = [module(data_set, augmentation=a).train_dataloader().loader.dataset for a in (None, loud, loud)]
    plain, first, again = ([d[Request(1, 0, n)].sample for n in range(4)] for d in datasets)
    for before, one, two in zip(plain, first, again, strict=True):
        assert before.key == one.key
        assert not np.array_equal(before.images, one.images)
        assert not np.array_equal(before.points, one.points)
        assert np.array_equal(one.images, two.images)
        assert np.array_equal(one.points, two.points)
        assert np.array_equal(one.landmarks, two.landmarks)


def test_shots_that_cannot_be_drawn_are_refused(data_set: Path) -> None:
    for drawn in ([], [0, 1], [1, 5]):
        with pytest.raises(ValueError, match=r"data\.drawn_shots"):
            module(data_set, num_shots=4, drawn_shots=drawn)
