"""What smoothing takes and what it leaves: `python experiments/cross_reenactment/jitter.py` writes jitter.csv."""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/cross_reenactment/jitter.py")

import argparse
import csv
from pathlib import Path

import numpy as np
from jaxtyping import Float
from landmarks import landmarks_of, seed_of

from talkinghead.faces.landmark_image import interocular
from talkinghead.reenactment.smoothing import smooth
from talkinghead.synthetic.body import load_body
from talkinghead.synthetic.motion import make_motion
from talkinghead.synthetic.person import make_person
from talkinghead.synthetic.scene import frame_face, make_head, rotations

FIELDS = ["person", "noise", "smooth", "acceleration", "error", "blink_kept", "mouth_kept"]
FRAMES, RATE, SIZE = 200, 25.0, 256
LEVEL = np.repeat([1.8, 1.0, 1.3], [17, 19, 32])  # jaw, brows and nose, eyes and mouth: as dlib's noise differs
Points = Float[np.ndarray, "F 68 2"]


def main() -> None:
    """Exact landmarks of moving synthetic people, noise of several strengths added, smoothed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("jitter.csv"))
    given = parser.parse_args()
    rows = []
    for number in range(16):
        clean = clip(f"test{number:05d}")
        unit = interocular(clean).mean()
        for noise in (0.0, 0.0025, 0.005, 0.01):
            rng = np.random.default_rng(number)
            noisy = clean + (rng.normal(0, noise * unit, clean.shape) * LEVEL[:, None]).astype(np.float32)
            for strength in (0.0, 0.5, 1.0, 2.0):
                rows.append({"person": number, "noise": noise, "smooth": strength, **measure(noisy, clean, strength)})
    with given.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def clip(identity: str) -> Points:
    """A test person's exact landmarks at the frame rate of a film."""
    body, seed = load_body(), seed_of(identity)
    person = make_person(seed, body)
    motion = make_motion(person.personality, seed, 0, FRAMES, RATE, body.action_names.tolist())
    points = landmarks_of(make_head(person, body, 16), motion.actions, rotations(motion.pose), motion.sway)
    return frame_face(points, 1.2, np.random.default_rng(0)).project(points, SIZE).astype(np.float32)


def measure(noisy: Points, clean: Points, strength: float) -> dict[str, float]:
    """Acceleration and error in inter-ocular distances, and the share left of each blink and of the widest mouth."""
    steady = smooth(noisy, RATE, strength)
    unit = float(interocular(clean).mean())
    values = {
        "acceleration": rms(np.diff(steady, 2, axis=0)) / unit,
        "error": rms(steady - clean) / unit,
        "mouth_kept": kept(mouth_opening(clean), mouth_opening(steady), [int(mouth_opening(clean).argmax())]),
    }
    eyes = eye_opening(clean)
    low = (eyes < 0.5 * np.median(eyes)) & (eyes <= np.roll(eyes, 1)) & (eyes < np.roll(eyes, -1))
    return {**values, "blink_kept": kept(eyes, eye_opening(steady), np.flatnonzero(low).tolist())}


def kept(clean: np.ndarray, steady: np.ndarray, moments: list[int]) -> float:
    """Amplitude from the median, as a share of the clean one; NaN where nothing happens."""
    usual = np.median(clean)
    shares = [(steady[moment] - usual) / (clean[moment] - usual) for moment in moments]
    return float(np.mean(shares)) if shares else float("nan")


def rms(vectors: Float[np.ndarray, "F 68 2"]) -> float:
    """Of their lengths."""
    return float(np.sqrt((vectors**2).sum(-1).mean()))


def eye_opening(points: Points) -> Float[np.ndarray, " F"]:
    """Distance of the lids across the eye, so that noise does not make it larger."""
    return sum(across(points, upper, lower) for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46))) / 4


def mouth_opening(points: Points) -> Float[np.ndarray, " F"]:
    """Distance of the inner lips across the mouth, so that noise does not make it larger."""
    return across(points, 62, 66)


def across(points: Points, upper: int, lower: int) -> Float[np.ndarray, " F"]:
    """How far `lower` lies below `upper`, along the tilted face."""
    level = points[:, 45] - points[:, 36]
    down = np.stack([-level[:, 1], level[:, 0]], -1) / np.linalg.norm(level, axis=-1, keepdims=True)
    return ((points[:, lower] - points[:, upper]) * down).sum(-1)


if __name__ == "__main__":
    main()
