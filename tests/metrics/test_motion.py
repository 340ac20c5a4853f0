"""Motion fidelity, stillness and flicker: right values of clips whose motion is known."""

import numpy as np
import pytest
import torch

from talkinghead.metrics.motion import LIDS, LIPS, MOTION, flicker, motion, opening, stillness
from talkinghead.metrics.suite import ImageMetrics

TIMES = np.linspace(0, 6, 24)


def faces(lips: np.ndarray, lids: np.ndarray, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """Faces of an eye distance of 40 pixels; openings in eye distances."""
    points = np.zeros((len(lips), 68, 2), np.float32)
    points[:, 36], points[:, 45] = (12, 30), (52, 30)
    for pairs, openings, y in ((LIPS, lips, 50.0), (LIDS, lids, 30.0)):
        for a, b in pairs:
            points[:, a], points[:, b] = (32, y), (32, y)
            points[:, b, 1] += 40 * openings
    return points + np.asarray(shift).reshape(-1, 1, 1)


DRIVER = faces(0.1 + 0.1 * np.sin(TIMES), 0.1 + 0.05 * np.cos(TIMES))


def test_openings_are_in_eye_distances() -> None:
    assert opening(faces(np.full(3, 0.25), np.full(3, 0.125)), LIPS) == pytest.approx([0.25] * 3)
    assert opening(2 * faces(np.full(3, 0.25), np.full(3, 0.125)), LIDS) == pytest.approx([0.125] * 3)


def test_what_follows_the_driver_has_correlation_and_gain_one() -> None:
    values = motion(DRIVER + 3, DRIVER)
    assert [values[name] for name in MOTION] == pytest.approx([1, 1, 1, 1, 0], abs=1e-4)


def test_half_the_opening_is_half_the_gain_and_a_shut_mouth_none() -> None:
    half = motion(faces(0.1 + 0.05 * np.sin(TIMES), 0.1 - 0.05 * np.cos(TIMES)), DRIVER)
    assert half["lip_correlation"] == pytest.approx(1, abs=1e-4)
    assert half["lip_gain"] == pytest.approx(0.5, abs=1e-3)
    assert half["lid_correlation"] == pytest.approx(-1, abs=1e-4)
    shut = motion(faces(np.full(24, 0.02), np.full(24, 0.1)), DRIVER)
    assert (shut["lip_correlation"], shut["lip_gain"]) == pytest.approx((0, 0), abs=1e-5)


def test_frames_without_a_face_are_left_out_and_a_still_driver_tells_nothing() -> None:
    found = DRIVER.copy()
    found[5] = np.nan
    assert motion(found, DRIVER)["lip_gain"] == pytest.approx(1, abs=1e-4)
    still = faces(np.full(24, 0.1), np.full(24, 0.1))
    assert np.isnan(motion(DRIVER, still)["lip_correlation"])
    assert np.isnan(list(motion(np.full_like(DRIVER, np.nan), DRIVER).values())).all()


def test_flicker_is_what_jumps_and_not_what_is_off() -> None:
    assert flicker(DRIVER + 7, DRIVER) == pytest.approx(0, abs=1e-6)
    drift = faces(0.1 + 0.1 * np.sin(TIMES), 0.1 + 0.05 * np.cos(TIMES), np.arange(24) * 0.5)
    assert flicker(drift, DRIVER) == pytest.approx(0, abs=1e-5)
    jumps = faces(0.1 + 0.1 * np.sin(TIMES), 0.1 + 0.05 * np.cos(TIMES), np.arange(24) % 2 * 2.0)
    assert flicker(jumps, DRIVER) == pytest.approx(4 * 2**0.5 / 40, rel=1e-4)
    assert np.isnan(flicker(DRIVER[:2], DRIVER[:2]))


def test_stillness_looks_where_the_target_stands_still_outside_the_head() -> None:
    x = torch.zeros(4, 3, 64, 64)
    x[:, :, 56:] = torch.rand(4, 3, 8, 64, generator=torch.Generator().manual_seed(0))  # water below
    points = torch.tensor([32.0, 32.0]).expand(4, 68, 2) + torch.linspace(-5, 5, 68)[:, None]
    x_hat = x.clone()
    x_hat[:, :, 28:36, 28:36] = torch.rand(4, 3, 8, 8)  # the face moves
    x_hat[:, :, 56:] = torch.rand(4, 3, 8, 64)
    assert stillness(x_hat, x, points) == 0
    x_hat[1::2, :, :50] += 0.1
    assert stillness(x_hat, x, points) == pytest.approx(0.1, abs=0.01)
    assert np.isnan(stillness(x_hat, torch.rand(4, 3, 64, 64), points))


def test_a_clip_has_the_means_of_its_frames_and_its_motion() -> None:
    class Fixed:
        """Finds what it is told, frame after frame."""

        def __init__(self) -> None:
            self.left = list(DRIVER[:4])

        def __call__(self, image: np.ndarray) -> np.ndarray | None:
            return self.left.pop(0)

    x = torch.rand(4, 3, 64, 64) * 2 - 1
    points = torch.from_numpy(DRIVER[:4])
    metrics = ImageMetrics(Fixed())
    values = metrics.measure_clip(x, x, points)
    assert set(values) == {*metrics.means, *metrics.of_clips}
    assert values["lip_gain"] == pytest.approx(1, abs=1e-3)
    assert values["ssim"] == pytest.approx(1)
    assert values["nme"] == pytest.approx(0)
    assert set(ImageMetrics().measure_clip(x, x, points)) == {"ssim", "psnr", "stillness"}
