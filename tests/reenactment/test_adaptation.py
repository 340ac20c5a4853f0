"""Another person's landmarks on this person's shape, measured on synthetic people who have an exact answer."""

import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from talkinghead.evaluation.protocol import Candidate, FewShotEvaluation
from talkinghead.evaluation.results import Results
from talkinghead.faces.landmark_image import PARTS, draw_landmarks, interocular
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.reenactment import fitting
from talkinghead.reenactment.adaptation import LIDS, MODES, SHIFT, TURN, Mode, adapt, limited, shut, uncrossed
from talkinghead.reenactment.adapted_task import AdaptedDriver
from talkinghead.reenactment.face_model import FILE, FaceModel, load_face_model
from talkinghead.reenactment.fitting import Fit, fit_clip, project, shapes
from talkinghead.reenactment.smoothing import smooth
from talkinghead.types import Frames, Person

MODEL = load_face_model()


@cache
def person(seed: int) -> np.ndarray:
    """A's of a person."""
    return np.random.default_rng([seed, 1]).normal(0, 0.8, MODEL.identity.shape[-1]).astype(np.float32)


def motion(seed: int, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotations, expressions and places of a clip: slow curves, yaw of 20 degrees to either side."""
    rng = np.random.default_rng([seed, 2])
    time = np.linspace(0, 1, frames)[:, None]
    wave = lambda count: np.sin(2 * np.pi * (time * rng.uniform(0.5, 2, count) + rng.uniform(0, 1, count)))  # noqa: E731
    yaw, pitch, roll = (wave(3) * [0.35, 0.15, 0.1]).T
    zero, one = np.zeros(frames), np.ones(frames)
    about_y = np.stack([np.cos(yaw), zero, -np.sin(yaw), zero, one, zero, np.sin(yaw), zero, np.cos(yaw)], -1)
    about_x = np.stack([one, zero, zero, zero, np.cos(pitch), -np.sin(pitch), zero, np.sin(pitch), np.cos(pitch)], -1)
    about_z = np.stack([np.cos(roll), -np.sin(roll), zero, np.sin(roll), np.cos(roll), zero, zero, zero, one], -1)
    x, y, z = (m.reshape(-1, 3, 3).astype(np.float32) for m in (about_x, about_y, about_z))
    expression = 0.8 * wave(MODEL.expression.shape[-1])
    return z @ x @ y, expression.astype(np.float32), (wave(2) * 2).astype(np.float32)


def clip(who: int, mover: int, frames: int = 24, size: float = 16.0) -> np.ndarray:
    """Exact landmarks of person `who` doing what `mover` does."""
    rotation, expression, place = motion(mover, frames)
    fit = Fit(person(who), 0.06, rotation, np.full(frames, size, np.float32), place + 32, expression)
    return project(fit, shapes(MODEL, fit))


def nme(points: np.ndarray, truth: np.ndarray) -> float:
    return float((np.linalg.norm(points - truth, axis=-1).mean(-1) / interocular(truth)).mean())


def placed(points: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """One shift and one scale for the whole clip: that of the camera, which nobody can know."""
    a, b = points - points.mean((0, 1)), truth - truth.mean((0, 1))
    return a * (a * b).sum() / (a * a).sum() + truth.mean((0, 1))


@pytest.mark.parametrize("shots", [1, 8])
def test_the_error_is_far_below_that_of_raw_landmarks(shots: int) -> None:
    errors: dict[str, list[float]] = {mode: [] for mode in MODES}
    for who, mover in [(1, 2), (3, 4), (5, 6), (7, 8)]:
        truth, driver, source = clip(who, mover), clip(mover, mover, size=19), clip(who, 100 + who)[:shots]
        for mode in MODES:
            errors[mode].append(nme(placed(adapt(driver, source, mode), truth), truth))
    assert np.mean(errors["raw"]) > 0.03, "people differ"
    assert np.mean(errors["absolute"]) < 0.5 * np.mean(errors["raw"])


def test_relative_landmarks_start_as_the_source_and_move_as_the_driver() -> None:
    """Exact answer: the source's own frame, and the driver's motion since the reference added to it."""
    driver, source = clip(2, 2), clip(1, 101)[:1]
    moved = adapt(driver, source, "relative", reference=5, anchor=0)
    assert nme(moved[[5]], source) < 0.01, "the reference frame is the source frame"
    rotation, expression, place = motion(2, 24)
    own_rotation, own_expression, own_place = (part[:1] for part in motion(101, 24))
    fit = Fit(
        person(1), 0.06, rotation @ rotation[5].T @ own_rotation[0], np.full(24, 16, np.float32),
        own_place + 32 + place - place[5], own_expression + expression - expression[5],
    )  # fmt: skip
    truth = project(fit, shapes(MODEL, fit))
    assert nme(moved, truth) < 0.5 * nme(placed(driver, truth), truth)


def test_the_head_goes_no_further_than_one_picture_can_show() -> None:
    still = Fit(person(1), 0.06, np.eye(3, dtype=np.float32)[None], np.full(1, 16, np.float32),
                np.full((1, 2), 32, np.float32), np.zeros((1, 32), np.float32))  # fmt: skip
    angles = np.deg2rad([0, 10, 30, 90])
    turns = Rotation.from_rotvec(angles[:, None] * [0, 1, 0]).as_matrix().astype(np.float32)
    shifts = np.array([[0, 0], [2, 0], [0, 12], [160, 0]], np.float32)  # pixels; a unit is 16
    moving = Fit(still.identity, 0.06, turns, np.full(4, 16, np.float32), 32 + shifts, np.zeros((4, 32), np.float32))
    held = limited(moving, still)
    found = np.linalg.norm(Rotation.from_matrix(held.rotation).as_rotvec(), axis=-1)
    np.testing.assert_allclose(found[:2], angles[:2], atol=1e-5)
    assert TURN[0] < found[2] < found[3] <= TURN[1] + 1e-5
    apart = np.linalg.norm(held.place - still.place, axis=-1) / 16
    np.testing.assert_allclose(apart[:2], [0, 0.125], atol=1e-5)
    assert SHIFT[0] < apart[2] < apart[3] <= SHIFT[1] + 1e-5
    np.testing.assert_array_equal(held.expression, moving.expression)


def test_limits_change_nothing_of_a_driver_who_stays_near() -> None:
    driver, source = clip(2, 2)[:3], clip(1, 101)[:1]
    near = driver[:1] + 0.2 * (driver - driver[:1])
    free, held = (adapt(near, source, anchor=0, limits=limits) for limits in (False, True))
    np.testing.assert_allclose(held, free, atol=1e-3)
    far = driver[:1] + np.array([[[40, 0]], [[0, 0]], [[-40, 0]]], np.float32)
    free, held = (np.ptp(adapt(far, source, anchor=0, limits=limits)[:, 30, 0]) for limits in (False, True))
    assert held < 0.5 * free


@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_a_driver_that_is_the_source_stays_as_it_is(mode) -> None:
    frames = clip(1, 1)
    assert nme(adapt(frames, frames, mode), frames) < 0.01
    assert np.array_equal(adapt(frames, frames, "raw"), frames)


def test_the_frame_that_is_most_alike_is_the_reference() -> None:
    driver = clip(2, 2)
    for frame in (3, 17):
        still = adapt(driver, clip(1, 2)[[frame]], "relative", anchor=0)
        assert nme(still[[frame]], clip(1, 2)[[frame]]) < 0.02
    chosen = adapt(driver, clip(1, 101), "relative", anchor=4, reference=9)
    assert nme(chosen[[9]], clip(1, 101)[[4]]) < 0.02


def test_a_still_driver_leaves_the_source_as_it_is() -> None:
    still = np.repeat(clip(2, 2)[:1], 4, axis=0)
    source = clip(1, 101)[0]
    np.testing.assert_allclose(adapt(still, source), np.repeat(source[None], 4, axis=0), atol=0.25)


@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_size_and_place_of_the_driver_do_not_matter(mode) -> None:
    driver, source = clip(2, 2), clip(1, 101)[:2]
    elsewhere = adapt(driver * np.float32(2.5) + np.float32(40), source, mode)
    np.testing.assert_allclose(elsewhere, adapt(driver, source, mode), atol=0.05)


@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_the_face_is_where_the_source_has_it_or_the_crop_rule(mode) -> None:
    box = lambda points: ((points.min(1) + points.max(1)) / 2).mean(0)  # noqa: E731
    driver, source, middle = clip(2, 2), clip(1, 101)[:5] + np.float32(7), np.array([20.0, 20.0])
    np.testing.assert_allclose(box(adapt(driver, source, mode)), box(source), atol=0.1)
    between = box(adapt(driver, source, mode, middle=middle))
    np.testing.assert_allclose(between, (box(source) + middle) / 2, atol=0.1)


def person_of(shots: np.ndarray, driving: np.ndarray) -> Person:
    """A test person of grey pictures."""
    frames = lambda points: Frames(  # noqa: E731
        torch.zeros(len(points), 3, 64, 64), torch.zeros(len(points), 3, 64, 64), torch.from_numpy(points)
    )
    return Person("somebody", frames(shots), frames(driving), frames(driving))


def test_the_protocol_drives_a_person_with_adapted_landmarks_drawn_anew() -> None:
    person = person_of(clip(1, 101)[:4], clip(2, 2))
    adapted = AdaptedDriver("absolute", middle=[0.5, 0.5])(person)
    expected = adapt(clip(2, 2), clip(1, 101)[:4], "absolute", middle=np.array([31.5, 31.5]))
    np.testing.assert_array_equal(adapted.driving.points.numpy(), expected)
    drawn = (torch.from_numpy(draw_landmarks(expected[3], 64)).movedim(-1, 0).float() / 127.5) - 1
    torch.testing.assert_close(adapted.driving.landmarks[3], drawn)
    assert adapted.driving.images is person.driving.images
    assert adapted.target is person.target
    assert AdaptedDriver("raw")(person) is person


class Counting:
    """A method that counts how often it learns, and returns the landmark images it was driven with."""

    def __init__(self) -> None:
        self.learned = 0

    def learn(self, shots: Frames):
        self.learned += 1
        return lambda driving: driving.landmarks


def test_a_person_is_learned_once_for_all_adaptations(tmp_path: Path) -> None:
    method, person = Counting(), person_of(clip(1, 101)[:4], clip(2, 2)[:3])
    candidates = [
        Candidate(method, "ours", "FF", config=mode, adaptation=mode, adapt=AdaptedDriver(mode)) for mode in MODES
    ]
    results = Results(tmp_path / "results.csv")
    learner = FewShotEvaluation(candidates, "synthetic/cross", [1, 2], ImageMetrics(), results)
    outputs = learner.test_step(person, 0)
    assert method.learned == 2, "once for each T"
    assert {row["config"] for row in results.rows()} == set(MODES)
    assert set(outputs) == {f"T={shots}/FF-{mode}" for shots in (1, 2) for mode in MODES}
    assert not torch.equal(outputs["T=1/FF-absolute"], outputs["T=1/FF-raw"])
    assert not torch.equal(outputs["T=1/FF-absolute"], outputs["T=2/FF-absolute"]), "more shots tell more"


def test_lids_and_lips_meet_and_never_cross() -> None:
    crossed = clip(1, 1)
    gap = crossed[:, LIDS[:, 1]] - crossed[:, LIDS[:, 0]]
    crossed[:, LIDS[:, 0]] += 1.5 * gap
    level = crossed[:, 45] - crossed[:, 36]
    down = np.stack([-level[:, 1], level[:, 0]], -1)[:, None]
    gaps = lambda points: ((points[:, LIDS[:, 1]] - points[:, LIDS[:, 0]]) * down).sum(-1)  # noqa: E731
    assert gaps(crossed).min() < -1
    assert gaps(uncrossed(crossed)).min() > -1e-2


def test_wide_eyes_close_in_the_blink_of_narrow_ones() -> None:
    driver, source = clip(2, 2, 20), clip(1, 101)[:1]
    for upper, lower in LIDS[:4]:
        driver[10, [upper, lower]] = driver[10, [upper, lower]].mean(0, keepdims=True)
        source[0, upper, 1] -= 2
    driver[:10], driver[11:] = driver[0], driver[0]
    openings = eye_opening(adapt(driver, source, "relative", reference=0, anchor=0))
    assert openings[0] == pytest.approx(eye_opening(source)[0], rel=0.15)
    assert openings[10] < 0.5 * openings[0]


def test_noise_of_the_detector_changes_little_and_a_wild_point_even_less() -> None:
    driver, source = clip(2, 2), clip(1, 101)[:4]
    calm = adapt(driver, source, "absolute")
    noise = np.random.default_rng(0).normal(0, 0.02, driver.shape) * interocular(driver)[:, None, None]
    noisy = adapt((driver + noise).astype(np.float32), source, "absolute")
    assert nme(noisy, calm) < 0.8 * nme(driver + noise, driver)
    wild = driver.copy()
    wild[:, 30] += 15
    assert nme(adapt(wild, source, "absolute"), calm) < 0.5 * nme(wild, driver)


def test_the_same_landmarks_give_the_same_answer() -> None:
    driver, source = clip(2, 2), clip(1, 101)[:2]
    assert np.array_equal(adapt(driver, source), adapt(driver, source))


def test_what_cannot_be_adapted_is_said() -> None:
    driver, source = clip(2, 2), clip(1, 101)[:2]
    broken = driver.copy()
    broken[3, 40] = np.nan
    with pytest.raises(ValueError, match="frame 3 of the driver has no face"):
        adapt(broken, source)
    with pytest.raises(ValueError, match="frame 1 of the source has no face"):
        adapt(driver, np.concatenate([source[:1], np.ones((1, 68, 2), np.float32)]))
    with pytest.raises(ValueError, match="reference=24: there are frames 0 to 23"):
        adapt(driver, source, reference=24)
    with pytest.raises(ValueError, match="anchor=2: there are frames 0 to 1"):
        adapt(driver, source, anchor=2)
    with pytest.raises(ValueError, match="the driver has no frames"):
        adapt(driver[:0], source)


def test_the_shipped_model_is_small_and_of_a_face() -> None:
    assert FILE.stat().st_size < 200_000
    frontal = MODEL.at(MODEL.mean, np.zeros(1))[0]
    assert frontal[30, 2] < frontal[[36, 45], 2].min(), "the nose is nearest to the camera"
    assert frontal[8, 1] > frontal[57, 1] > frontal[33, 1] > frontal[27, 1], "chin, lip, nose, eyes: upwards"
    assert frontal[0, 0] < frontal[36, 0] < 0 < frontal[45, 0] < frontal[16, 0]
    turned = MODEL.at(MODEL.mean, np.array([-30.0, 0.0, 30.0]))
    assert np.abs(np.diff(turned[:, 4], axis=0)).max() > 0.01, "jaw points slide"
    assert np.ptp(turned[:, 17:], axis=0).max() == 0, "others do not"


def test_another_file_is_no_model(tmp_path: Path) -> None:
    from safetensors.numpy import save_file  # noqa: PLC0415

    save_file({"mean": MODEL.mean}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is no face model: it has no expression, identity, knots, pivot"):
        load_face_model(tmp_path / "other.safetensors")


def test_a_fit_finds_pose_and_who_it_is() -> None:
    points = clip(1, 1)
    fit = fit_clip(MODEL, points)
    rotation, _, _ = motion(1, 24)
    apart = np.arccos(np.clip((np.trace(fit.rotation @ rotation.transpose(0, 2, 1), axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert np.rad2deg(apart).mean() < 4
    assert nme(project(fit, shapes(MODEL, fit)), points) < 0.01
    other = fit_clip(MODEL, clip(1, 9))
    stranger = fit_clip(MODEL, clip(3, 9))
    same, different = (np.linalg.norm(fit.identity - one.identity) for one in (other, stranger))
    assert same < 0.6 * different


def eye_opening(points: np.ndarray) -> np.ndarray:
    gap = lambda upper, lower: points[:, lower, 1] - points[:, upper, 1]  # noqa: E731
    return (gap(37, 41) + gap(38, 40) + gap(43, 47) + gap(44, 46)) / 4


def mouth_opening(points: np.ndarray) -> np.ndarray:
    return points[:, 66, 1] - points[:, 62, 1]


def acceleration(points: np.ndarray) -> float:
    return float(np.sqrt((np.diff(points, 2, axis=0) ** 2).sum(-1).mean()))


def blinking() -> np.ndarray:
    """Six seconds at 25 frames per second: a slowly turning head that blinks twice and opens its mouth once."""
    points = clip(1, 1, 150, 60.0)
    for moment in (40, 110):
        shut = np.clip(1.4 - np.abs(np.arange(150) - moment) / 2.5, 0, 1)[:, None, None]
        for upper, lower in LIDS[:4]:
            middle = (points[:, [upper, lower]].mean(1, keepdims=True) - points[:, [upper, lower]]) * shut
            points[:, [upper, lower]] += middle
    opened = np.clip(1 - np.abs(np.arange(150) - 75) / 6, 0, 1)
    points[:, [65, 66, 67, 55, 56, 57, 58, 59], 1] += 20 * opened[:, None]
    return points


def test_smoothing_takes_the_jitter_and_leaves_blinks_and_speech() -> None:
    points = blinking()
    kept = []
    for seed in range(8):
        noisy = points + np.random.default_rng(seed).normal(0, 0.25, points.shape).astype(np.float32)
        steady = smooth(noisy, 25.0)
        rest = slice(45, 62)  # nothing but the head moves
        assert acceleration(steady[rest]) < 0.4 * acceleration(noisy[rest])
        assert np.abs(steady - points).mean() < 0.8 * np.abs(noisy - points).mean()
        for opening, moment in [(eye_opening, 40), (eye_opening, 110), (mouth_opening, 75)]:
            before, after = (opening(one)[moment] - np.median(opening(one)) for one in (points, steady))
            kept.append(after / before)
    eyes, mouth = np.reshape(kept, (8, 3))[:, :2], np.reshape(kept, (8, 3))[:, 2]
    assert 0.95 < eyes.mean() < 1.05
    assert 0.95 < mouth.mean() < 1.05


def test_smoothing_has_no_lag_and_leaves_smooth_motion() -> None:
    points = clip(1, 1, 100, 60.0)
    assert np.abs(smooth(points, 25.0) - points).max() < 0.5
    shifted = [np.abs(smooth(points, 25.0)[5:-5] - points[5 + lag : 95 + lag]).mean() for lag in (-1, 0, 1)]
    assert np.argmin(shifted) == 1


def test_smoothing_of_strength_0_and_of_stills_changes_nothing() -> None:
    points = blinking()
    assert np.array_equal(smooth(points, 25.0, 0.0), points)
    assert np.array_equal(smooth(points[:3], 25.0), points[:3])
    assert np.array_equal(smooth(points, 2.5), points), "frames too far apart to tell noise from motion"
    with pytest.raises(ValueError, match="at least 0"):
        smooth(points, 25.0, -1.0)


def test_learning_the_model(tmp_path: Path) -> None:
    pytest.importorskip("anny")
    from talkinghead.tools.learn_face_model import learn  # noqa: PLC0415

    model = learn(12, 4, 3)
    assert isinstance(model, FaceModel)
    assert model.identity.shape == (*MODEL.mean.shape, 4)
    assert model.expression.shape == (*MODEL.mean.shape, 3)
    jaws = len(MODEL.knots) * len(PARTS["jaw"].points)
    assert len(model.mean) == jaws + 68 - len(PARTS["jaw"].points)
    np.testing.assert_allclose(model.mean, MODEL.mean, atol=0.1)


def test_a_long_clip_is_fitted_in_parts_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the memory of a part: 30,000 frames took 2 GB."""
    driver, source = clip(1, 2), clip(3, 4)[:1]
    whole = adapt(driver, source)
    monkeypatch.setattr(fitting, "BLOCK", 7)
    np.testing.assert_allclose(adapt(driver, source), whole, atol=1e-3)
    monkeypatch.undo()
    long = np.tile(driver, (80, 1, 1))
    tracemalloc.start()
    fit_clip(MODEL, long)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.4 * 70e3 * len(long), "not 70 kB a frame"


def test_eyes_that_a_detector_sees_half_open_are_shut() -> None:
    """A blink of dlib's: 0.6 of the usual opening; 0.9 is no blink, and half-way stays half-way."""
    opening = np.array([10.0, 10.5, 9.0, 7.4, 6.0, 5.5, 10.0, 10.2, 9.8])
    shares = shut(opening)
    np.testing.assert_allclose(shares[[0, 1, 2, 6, 7, 8]], 1)
    np.testing.assert_allclose(shares[[4, 5]], 0)
    assert 0.3 < shares[3] < 0.9
    np.testing.assert_allclose(shut(np.array([10.0, 10.1, 8.0, 7.4, 7.0, 8.2, 10.0, 9.9])), 1)  # a squint is no blink


def dipped(driver: np.ndarray, lids: np.ndarray) -> np.ndarray:
    """The driver with these lids as dlib sees shut ones, in frames 10 to 12; open as usual in all others."""
    dip, driver = np.ones(len(driver)), driver.copy()
    dip[10:13] = 0.58
    for upper, lower in lids:
        middle, across = (driver[:, upper] + driver[:, lower]) / 2, driver[:, lower] - driver[:, upper]
        length = np.linalg.norm(across, axis=-1)
        half = across / length[:, None] * (np.median(length) * dip / 2)[:, None]
        driver[:, upper], driver[:, lower] = middle - half, middle + half
    return driver


def test_one_eye_that_seems_shut_is_no_blink() -> None:
    driver, source = dipped(clip(2, 2, size=19), LIDS[:2]), clip(1, 101)[:1]
    with_blinks, without = (adapt(driver, source, "relative", blinks=blinks) for blinks in (True, False))
    np.testing.assert_allclose(with_blinks, without)


@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_a_blink_shuts_the_eyes_of_the_source(mode: Mode) -> None:
    driver, source = dipped(clip(2, 2, size=19), LIDS[:4]), clip(1, 101)[:1]

    def openings(blinks: bool) -> np.ndarray:
        moved = adapt(driver, source, mode, blinks=blinks)
        return np.linalg.norm(moved[:, LIDS[:4, 1]] - moved[:, LIDS[:4, 0]], axis=-1).mean(1)

    seen, whole = openings(False), openings(True)
    assert seen[11] > 0.4 * np.median(seen)
    assert whole[11] < 0.12 * np.median(whole)
    others = np.r_[0:9, 14:24]
    np.testing.assert_allclose(whole[others], seen[others], rtol=0.02)
