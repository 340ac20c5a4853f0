"""How far adapted landmarks are from exact ones: `python experiments/cross_reenactment/landmarks.py data/synthetic`."""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/cross_reenactment/landmarks.py")

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.evaluation.frame_choice import FrameChoice
from talkinghead.evaluation.tasks import CrossReenactment
from talkinghead.faces.landmark_image import interocular
from talkinghead.metrics.landmarks import find_detector
from talkinghead.pixels import as_pictures
from talkinghead.reenactment.adaptation import MODES, adapt, face_of, most_alike
from talkinghead.reenactment.face_model import load_face_model
from talkinghead.reenactment.fitting import fit_clip
from talkinghead.synthetic.body import load_body
from talkinghead.synthetic.dataset import person_seed
from talkinghead.synthetic.landmarks import landmark_points
from talkinghead.synthetic.motion import Motion, make_motion
from talkinghead.synthetic.person import make_person
from talkinghead.synthetic.renderer import Camera
from talkinghead.synthetic.scene import Head, make_head, rotations
from talkinghead.types import Frames, Person

FIELDS = ["clip", "landmarks", "T", "truth", "mode", "nme", "nme_placed"]
TRUTHS = ("the driver's pose and expression", "its own, moved as the driver's")
MIDDLE = np.array([0.5, 0.56])  # of the crop rule
Points = Float[np.ndarray, "F 68 2"]


def main() -> None:
    """Every person, with exact and with detected landmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("landmarks.csv"))
    given = parser.parse_args()
    data = EpisodeDataModule(
        given.data, size=64, num_shots=1, episodes_per_epoch=1, batch_size=1, num_workers=0, seed=0, source_hint=""
    )
    source = CrossReenactment(data, 64, FrameChoice())
    rows = []
    for key in source.keys()[0]:
        rows += measure(key, source.load(key), source, "exact")
        rows += measure(key, source.load(key), source, "dlib")
        rows += bounds(key, source.load(key))
        print(key, flush=True)
    with given.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: round(v, 5) if isinstance(v, float) else v for name, v in row.items()} for row in rows)


def measure(key: str, person: Person, source: CrossReenactment, landmarks: str) -> list[dict]:
    """Rows of one person: T shots, three ways, against the truth of each."""
    exact, driving, shots = (part.points.numpy() for part in (person.target, person.driving, person.shots))
    if landmarks == "dlib":
        driving, seen = detect(person.driving)
        shots, shown = detect(person.shots)
        exact = exact[seen]
        person = person._replace(driving=take(person.driving, seen), shots=take(person.shots, shown))
    rows = []
    for count in (1, 8, 32):
        some = shots[:count]
        middle = MIDDLE * 64 - 0.5
        start = reference(driving, some)
        free = {mode: adapt(driving, some, mode, middle=middle) for mode in MODES}
        shown = adapt(driving, some, "relative", anchor=start[0], reference=start[1])
        moved = relative_truth(key, person, source, *start)
        for truth, name, adapted in ((exact, TRUTHS[0], free), (moved, TRUTHS[1], {**free, "relative": shown})):
            for mode, points in adapted.items():
                values = {"nme": nme(points, truth), "nme_placed": nme(placed(points, truth), truth)}
                rows.append({"clip": key, "landmarks": landmarks, "T": count, "truth": name, "mode": mode, **values})
    return rows


def bounds(key: str, person: Person) -> list[dict]:
    """What even exact landmarks are apart from the truth: where the crop rule has them, and as dlib finds them."""
    exact = person.target.points.numpy()
    found, seen = detect(person.target)
    ruled = exact + (MIDDLE * 64 - 0.5 - ((exact.min(1) + exact.max(1)) / 2).mean(0))
    rows = []
    for mode, points, truth in (("exact, placed by the crop rule", ruled, exact), ("detected", found, exact[seen])):
        values = {"nme": nme(points, truth), "nme_placed": nme(placed(points, truth), truth)}
        rows.append({"clip": key, "landmarks": "-", "T": "", "truth": TRUTHS[0], "mode": mode, **values})
    return rows


def nme(points: Points, truth: Points) -> float:
    """Mean distance by the distance of the outer eye corners, on average over the frames."""
    return float((np.linalg.norm(points - truth, axis=-1).mean(-1) / interocular(truth)).mean())


def placed(points: Points, truth: Points) -> Points:
    """After the one shift and the one scale of the whole clip that are best: where and how large the crop is."""
    a, b = points - points.mean((0, 1)), truth - truth.mean((0, 1))
    return a * (a * b).sum() / (a * a).sum() + truth.mean((0, 1))


def detect(frames: Frames) -> tuple[Points, np.ndarray]:
    """What dlib finds, and in which frames."""
    detector = find_detector()
    if detector is None:
        raise SystemExit("dlib is needed: pip install 'talkinghead[offline]'")
    found = [detector(picture) for picture in as_pictures(frames.images)]
    seen = np.array([n for n, points in enumerate(found) if points is not None])
    return np.stack([found[n] for n in seen]), seen


def take(frames: Frames, numbers: np.ndarray) -> Frames:
    """Some frames."""
    return Frames(*(part[numbers] for part in frames))


def reference(driving: Points, shots: Points) -> tuple[int, int]:
    """The shot and the driving frame that mode relative starts from."""
    model = load_face_model()
    person, moving = face_of(model, shots), fit_clip(model, driving)
    alike = replace(moving, identity=person.fit.identity, perspective=person.fit.perspective)
    return most_alike(person, alike, None, None)


def relative_truth(key: str, person: Person, source: CrossReenactment, shot: int, start: int) -> Points:
    """Exact landmarks of the person who begins as in a shot and moves as the driver does since its frame `start`."""
    own, driver = key.split("_by_")
    clips = [source.own[f"{name}_0"] for name in (own, driver)]
    frames = [source.shards.frames(clip, range(len(clip.landmarks()))).points.numpy() for clip in clips]
    numbers = [
        [int(np.abs(known - face).sum((1, 2)).argmin()) for face in part.points.numpy()]
        for known, part in zip(frames, (person.shots, person.driving), strict=True)
    ]
    head = make_head(make_person(seed_of(own), load_body()), load_body(), 16)
    still, moving = (motion_of(name, len(known)) for name, known in zip((own, driver), frames, strict=True))
    at, since, moves = numbers[0][shot], numbers[1][start], numbers[1]
    actions = np.clip(still.actions[at] + moving.actions[moves] - moving.actions[since], 0, 1)
    turns = rotations(moving.pose)
    turned = turns[moves] @ turns[since].T @ rotations(still.pose)[at]
    sway = still.sway[at] + moving.sway[moves] - moving.sway[since]
    crop = clips[0].meta()["crop"]
    camera = Camera(crop["distance"], tuple(crop["centre"]), crop["half"])
    return camera.project(landmarks_of(head, actions, turned, sway), 64)


def seed_of(identity: str) -> int:
    """`test00003` -> the seed of that person."""
    return person_seed(0, "test", int(identity.removeprefix("test")))


def motion_of(identity: str, frames: int) -> Motion:
    """How that person moves in the first clip."""
    body, seed = load_body(), seed_of(identity)
    return make_motion(make_person(seed, body).personality, seed, 0, frames, 2.5, body.action_names.tolist())


def landmarks_of(
    head: Head, actions: Float[np.ndarray, "F A"], turned: Float[np.ndarray, "F 3 3"], sway: Float[np.ndarray, "F 3"]
) -> Float[np.ndarray, "F 68 3"]:
    """As `scene.move` places them, for any rotation."""
    count = len(head.body.template)
    offsets = np.tensordot(actions, head.actions, 1)
    moved = np.einsum("fij,fvj->fvi", turned, head.neutral[:count] - head.pivot + offsets)
    yaw = np.rad2deg(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]))
    points = landmark_points(moved.astype(np.float32), yaw, head.body.original_index)
    return points + sway[:, None] - np.array([0, 0, 0.10], np.float32)


if __name__ == "__main__":
    main()
