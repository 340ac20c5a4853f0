"""Synthetic heads: frames per second and core, and agreement with dlib.

`python benchmarks/synthetic.py [--people 8] [--frames 32] [--sizes 64 128 256] [--device cpu] [--looks 1] [--dlib 100]`

Caches are excluded: the head model and the kernels are built before the clock runs. "On people already made"
counts motion, mesh, picture and JPEG; "with people" also making each person, for one clip of that many frames. On a
CPU the clock is the process's CPU time, so that a busy machine does not spoil the numbers much.
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("benchmarks/synthetic.py")

import argparse
import time
from dataclasses import replace

import cv2
import numpy as np

from talkinghead.faces.landmark_image import interocular
from talkinghead.synthetic.body import load_body
from talkinghead.synthetic.dataset import ClipPlan, RenderPlan, render_clip
from talkinghead.synthetic.motion import make_motion
from talkinghead.synthetic.person import make_person
from talkinghead.synthetic.renderer import Renderer
from talkinghead.synthetic.scene import film, make_head

PARTS = {"jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68)}


def speed(size: int, people: int, frames: int, device: str, looks: int = 1) -> None:
    """Print frames per second of one process at one size."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    plan = RenderPlan(size, supersampling=2, fps=5.0, seed=0, quality=95, device=device, looks=looks)
    clips = [ClipPlan("train", n, n, 0, n, frames) for n in range(people)]
    render_clip(replace(clips[0], person=people), plan)
    start = clock()
    for clip in clips:
        render_clip(clip, plan)
    with_people = people * frames / (clock() - start)
    start = clock()
    for clip in clips:
        render_clip(replace(clips[-1], mover=clip.person), plan)
    per_frame = people * frames / (clock() - start)
    print(
        f"{size} px: {per_frame:.0f} frames/s on people already made, "
        f"{with_people:.0f} frames/s with people of {frames} frames"
    )


def agreement(people: int, frames: int = 6, first: int = 5_000_000) -> None:
    """Print dlib's detection rate within 30 degrees and the mean distance to its landmarks within 20 degrees."""
    import dlib  # noqa: PLC0415  (the `offline` extra)
    import face_recognition_models  # noqa: PLC0415

    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())
    body, renderer = load_body(), Renderer(256)
    hits: list[bool] = []
    distances: list[np.ndarray] = []
    for seed in range(first, first + people):
        head = make_head(make_person(seed, body), body, 512)
        motion = make_motion(head.person.personality, seed, 0, frames, 1.0, body.action_names.tolist())
        picture = film(head, motion, renderer, room=seed)
        for frame, points, pose in zip(picture.frames, picture.landmarks, motion.pose, strict=True):
            if np.abs(pose).max() > 30:
                continue
            boxes = detector(frame, 1)
            hits.append(bool(boxes))
            if boxes and np.abs(pose).max() <= 20:
                parts = predictor(frame, max(boxes, key=lambda box: box.area())).parts()
                found = np.array([(p.x, p.y) for p in parts])
                distances.append(np.linalg.norm(found - points, axis=1) / interocular(points))
    error = np.stack(distances)
    print(f"dlib finds {100 * np.mean(hits):.1f} % of {len(hits)} faces within 30 degrees")
    print(f"distance of the landmarks within 20 degrees, {len(error)} faces, % of the inter-ocular distance:")
    print(f"  mean {100 * error.mean():.2f}", *(f"{k} {100 * error[:, a:b].mean():.2f}" for k, (a, b) in PARTS.items()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dlib", type=int, default=0, metavar="PEOPLE", help="also compare landmarks on so many people"
    )
    parser.add_argument("--looks", type=int, default=1, help="2: with what people wear")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    load_body()
    for size in arguments.sizes:
        speed(size, arguments.people, arguments.frames, arguments.device, arguments.looks)
    if arguments.dlib:
        agreement(arguments.dlib)


if __name__ == "__main__":
    main()
