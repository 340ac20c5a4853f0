"""How a head moves: pose, speech, blinks, gaze and expressions over time, from a personality and a seed."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from talkinghead.synthetic.person import Personality

YAW, PITCH, ROLL = 45.0, 20.0, 15.0  # limits, degrees

# Mouth shapes of speech, as facial actions; drawn in turn at the tempo of syllables.
VISEMES: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.75, "mouthLowerDownLeft": 0.3, "mouthLowerDownRight": 0.3},
    {"jawOpen": 0.45, "mouthStretchLeft": 0.4, "mouthStretchRight": 0.4, "mouthUpperUpLeft": 0.3,
     "mouthUpperUpRight": 0.3},
    {"jawOpen": 0.4, "mouthFunnel": 0.7},
    {"jawOpen": 0.2, "mouthPucker": 0.8},
    {"mouthPressLeft": 0.5, "mouthPressRight": 0.5, "mouthRollLower": 0.3},
    {"jawOpen": 0.15, "mouthLowerDownLeft": 0.5, "mouthLowerDownRight": 0.5, "mouthSmileLeft": 0.2,
     "mouthSmileRight": 0.2},
    {"jawOpen": 0.12, "mouthRollLower": 0.5, "mouthUpperUpLeft": 0.25, "mouthUpperUpRight": 0.25},
    {"jawOpen": 1.0},
)  # fmt: skip
EXPRESSIONS: tuple[dict[str, float], ...] = (
    {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "cheekSquintLeft": 0.6, "cheekSquintRight": 0.6,
     "eyeSquintLeft": 0.4, "eyeSquintRight": 0.4},
    {"browInnerUp": 0.9, "browOuterUpLeft": 0.9, "browOuterUpRight": 0.9, "eyeWideLeft": 0.5, "eyeWideRight": 0.5},
    {"browDownLeft": 0.9, "browDownRight": 0.9, "noseSneerLeft": 0.4, "noseSneerRight": 0.4},
    {"mouthFrownLeft": 0.8, "mouthFrownRight": 0.8, "mouthShrugLower": 0.5},
    {"mouthLeft": 0.35, "browOuterUpLeft": 0.7}, {"mouthRight": 0.35, "browOuterUpRight": 0.7},
    {"cheekPuff": 0.7, "mouthPucker": 0.3},
)  # fmt: skip


@dataclass(frozen=True)
class Motion:
    """A motion of F frames, which any head can perform.

    Attributes:
        pose: degrees of yaw (positive: towards the picture's right), pitch (positive: up), roll (positive: clockwise)
        sway: translation of the head and shoulders, metres
    """

    actions: Float[np.ndarray, "F A"]
    pose: Float[np.ndarray, "F 3"]
    sway: Float[np.ndarray, "F 3"]


def make_motion(
    personality: Personality, seed: int, clip: int, frames: int, fps: float, action_names: list[str]
) -> Motion:
    """`frames` frames of clip number `clip` of the mover `seed`."""
    rng = np.random.default_rng([seed, 3, clip])
    times = np.arange(frames) / fps
    tracks = {name: np.zeros(frames) for name in action_names}
    _add(tracks, personality.habit, np.full(frames, rng.uniform(0.6, 1.0)))
    _speech(tracks, personality, times, rng)
    _expressions(tracks, personality, times, rng)
    pose = _pose(personality, times, rng)
    _gaze(tracks, personality, times, pose, rng)
    _blinks(tracks, personality, times, rng)
    actions = np.clip(np.stack([tracks[name] for name in action_names], 1), 0, 1)
    sway = np.stack([_noise(times, 2.5, rng) for _ in range(3)], 1) * np.array([0.008, 0.004, 0.004])
    return Motion(actions.astype(np.float32), pose.astype(np.float32), sway.astype(np.float32))


def _noise(times: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth random curve of unit variance: a cubic-like blend of random keys, one per `period` seconds."""
    keys = rng.normal(0, 1, int(times[-1] / period) + 4) if len(times) else np.zeros(4)
    position = times / period + rng.uniform(0, 1)
    index = position.astype(int)
    t = position - index
    t = t * t * (3 - 2 * t)
    return (keys[index] * (1 - t) + keys[index + 1] * t) * 1.15


def _add(tracks: dict[str, np.ndarray], shape: dict[str, float], amount: np.ndarray) -> None:
    for name, weight in shape.items():
        tracks[name] += weight * amount


def _pose(personality: Personality, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    slow, quick = 1.6 / personality.tempo, 0.6 / personality.tempo
    spread = np.array([17.0, 7.0, 5.0]) * personality.amplitude
    pose = np.stack([_noise(times, slow, rng) + 0.25 * _noise(times, quick, rng) for _ in range(3)], 1) * spread
    pose += np.array(personality.rest_pose) + rng.normal(0, 1, 3) * np.array([8.0, 2.0, 1.5])
    limits = np.array([YAW, PITCH, ROLL])
    return limits * np.tanh(pose / limits)


def _speech(
    tracks: dict[str, np.ndarray], personality: Personality, times: np.ndarray, rng: np.random.Generator
) -> None:
    syllable = 0.24 / personality.tempo
    position = times / syllable
    index = position.astype(int)
    t = position - index
    t = t * t * (3 - 2 * t)
    talking = np.clip(_noise(times, 1.5, rng) * 1.5 + 0.9, 0, 1) * personality.speech
    count = int(index[-1]) + 2
    chosen = rng.integers(len(VISEMES), size=count)
    strength = rng.uniform(0.35, 1.1, count)
    for k in range(count):
        weight = np.where(index == k, 1 - t, np.where(index == k - 1, t, 0.0))
        _add(tracks, VISEMES[chosen[k]], weight * strength[k] * talking)


def _expressions(
    tracks: dict[str, np.ndarray], personality: Personality, times: np.ndarray, rng: np.random.Generator
) -> None:
    start = rng.uniform(0, 1.5)
    while start < times[-1]:
        length = rng.uniform(0.8, 2.5)
        bump = np.clip(1 - np.abs(times - start - length / 2) / (length / 2), 0, 1)
        shape = EXPRESSIONS[rng.integers(len(EXPRESSIONS))]
        _add(tracks, shape, np.sqrt(bump) * rng.uniform(0.4, 1.0) * personality.amplitude)
        start += length * rng.uniform(0.8, 2.0)


def _gaze(
    tracks: dict[str, np.ndarray],
    personality: Personality,
    times: np.ndarray,
    pose: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Saccades between fixations, and eyes that stay with the camera while the head turns."""
    fixation = 0.7 / personality.tempo
    index = (times / fixation + rng.uniform()).astype(int)
    targets = rng.normal(0, 0.38, (index[-1] + 1, 2)) * personality.gaze * (rng.uniform(size=(index[-1] + 1, 1)) < 0.65)
    right = targets[index, 0] - 0.55 * pose[:, 0] / 30
    up = targets[index, 1] * 0.7 - 0.4 * pose[:, 1] / 25
    right, up = np.clip(right, -1, 1), np.clip(up, -1, 0.9)
    # `right` is towards the picture's right: the person's left.
    tracks["eyeLookOutLeft"] += np.clip(right, 0, 1)
    tracks["eyeLookInRight"] += np.clip(right, 0, 1)
    tracks["eyeLookInLeft"] += np.clip(-right, 0, 1)
    tracks["eyeLookOutRight"] += np.clip(-right, 0, 1)
    for side in ("Left", "Right"):
        tracks[f"eyeLookUp{side}"] += np.clip(up, 0, 1)
        tracks[f"eyeLookDown{side}"] += np.clip(-up, 0, 1)


def _blinks(
    tracks: dict[str, np.ndarray], personality: Personality, times: np.ndarray, rng: np.random.Generator
) -> None:
    start = rng.exponential(1 / personality.blink_rate)
    closed = np.zeros(len(times))
    while start < times[-1]:
        closed = np.maximum(closed, np.clip(1.6 - np.abs(times - start) / 0.1, 0, 1))
        start += 0.3 + rng.exponential(1 / personality.blink_rate)
    for side in ("Left", "Right"):
        tracks[f"eyeBlink{side}"] += closed
        for name in (f"eyeWide{side}", f"eyeSquint{side}"):
            tracks[name] *= 1 - closed
        tracks[f"eyeLookDown{side}"] *= 1 - closed
        tracks[f"eyeLookUp{side}"] *= 1 - closed


def widen(motion: Motion, seed: int, action_names: list[str], speaking: bool = False) -> Motion:
    """A copy of the motion with a share of its frames made extreme: open mouths, closed lids, large turns.

    For training pairs whose two frames differ in what they show; not for movement over time.

    Args:
        speaking: more frames are changed, and more of these show teeth and lids on their way down
    """
    rng = np.random.default_rng([seed, 4])
    actions, pose = motion.actions.copy(), motion.pose.copy()
    index = {name: n for n, name in enumerate(action_names)}
    for frame in np.flatnonzero(rng.uniform(size=len(actions)) < (0.6 if speaking else 0.4)):
        kind = rng.integers(11 if speaking else 7)
        if kind in (0, 1):
            for name, weight in VISEMES[rng.integers(len(VISEMES))].items():
                actions[frame, index[name]] = max(actions[frame, index[name]], weight * rng.uniform(0.5, 1.0))
            actions[frame, index["jawOpen"]] = rng.uniform(0.3, 1.0)
        elif kind in (2, 7, 8):
            closed = rng.uniform(0.5 if kind == 2 else 0.3, 1.0)
            for side in ("Left", "Right"):
                actions[frame, index[f"eyeBlink{side}"]] = closed
                for name in ("eyeWide", "eyeSquint", "eyeLookDown", "eyeLookUp"):
                    actions[frame, index[f"{name}{side}"]] *= 1 - closed
        elif kind == 3:
            pose[frame] = np.array([YAW, PITCH, ROLL]) * rng.uniform(-1, 1, 3)
        elif kind == 4:
            _look_away(actions[frame], index, rng)
        elif kind == 5:
            _shout(actions[frame], index, rng)
        elif kind > 8:
            _bare_teeth(actions[frame], index, rng)
        else:
            for name, weight in EXPRESSIONS[rng.integers(len(EXPRESSIONS))].items():
                actions[frame, index[name]] = weight * rng.uniform(0.6, 1.0)
    return Motion(np.clip(actions, 0, 1), pose.astype(np.float32), motion.sway)


def _look_away(actions: np.ndarray, index: dict[str, int], rng: np.random.Generator) -> None:
    """Eyes to the side, up or down, as far as they go."""
    right, up = rng.uniform(-1, 1, 2)
    for side, towards in (("Left", right), ("Right", -right)):
        actions[index[f"eyeLookOut{side}"]], actions[index[f"eyeLookIn{side}"]] = max(0, towards), max(0, -towards)
        actions[index[f"eyeLookUp{side}"]], actions[index[f"eyeLookDown{side}"]] = max(0, up), max(0, -up)


def _shout(actions: np.ndarray, index: dict[str, int], rng: np.random.Generator) -> None:
    """The mouth as wide as it opens: lips drawn off the teeth, the tongue seen."""
    teeth, tongue = rng.uniform(0, 0.8), rng.uniform(0, 0.6) * (rng.uniform() < 0.4)
    shape = {"jawOpen": rng.uniform(0.7, 1.0), "tongueOut": tongue}
    for side in ("Left", "Right"):
        shape |= {f"mouthUpperUp{side}": teeth, f"mouthLowerDown{side}": teeth * 0.8, f"mouthSmile{side}": teeth * 0.4}
    for name, weight in shape.items():
        actions[index[name]] = weight


def _bare_teeth(actions: np.ndarray, index: dict[str, int], rng: np.random.Generator) -> None:
    """Lips drawn off the teeth, as in smiles and in speech, the jaw nearly shut."""
    up, down, smile = rng.uniform(0.3, 1.0), rng.uniform(0.2, 0.9), rng.uniform(0, 0.9)
    actions[index["jawOpen"]] = rng.uniform(0.05, 0.45)
    for side in ("Left", "Right"):
        for name, weight in {"UpperUp": up, "LowerDown": down, "Smile": smile, "Press": 0}.items():
            actions[index[f"mouth{name}{side}"]] = weight
