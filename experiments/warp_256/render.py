"""Synthetic people for warp_256: `python render.py FIRST LAST FOLDER`, 100 people a file, 12 frames of 256 px each.

Frames differ in what they show (`motion.widen`), 80 % of the rooms are in focus, and skin and hair of two in three have
a relief painted on them, as pores, brush strokes and cracks are, which moves with them. Stored as H.264.
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/warp_256/render.py")

import dataclasses
import io
import sys
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import Float, UInt8

from talkinghead.atomic import write_atomic
from talkinghead.synthetic.body import load_body
from talkinghead.synthetic.motion import make_motion, widen
from talkinghead.synthetic.person import make_person
from talkinghead.synthetic.renderer import Renderer
from talkinghead.synthetic.scene import Head, film, make_head

FRAMES, SIZE, CRF, CHUNK = 12, 256, 20, 100


def relief(texture: Float[np.ndarray, "H W 3"], strength: float, rng: np.random.Generator) -> np.ndarray:
    """The texture in [0, 1], lighter and darker by noise of six scales; in three of ten along one direction."""
    height, width = texture.shape[:2]
    total = np.zeros((height, width, 3), np.float32)
    for scale in (1, 2, 4, 8, 16, 32):
        colours = 1 if rng.uniform() < 0.7 else 3
        noise = rng.normal(0, 1, (max(2, height // scale), max(2, width // scale), colours)).astype(np.float32)
        if rng.uniform() < 0.3:
            noise = np.sign(noise) * np.abs(noise) ** 1.5
        noise = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, -1)
        total += noise * rng.uniform() ** 2
    if rng.uniform() < 0.3:
        angle, stroke = rng.uniform(0, np.pi), np.zeros((15, 15), np.float32)
        cv2.line(stroke, (int(7 - 7 * np.cos(angle)), int(7 - 7 * np.sin(angle))),
                 (int(7 + 7 * np.cos(angle)), int(7 + 7 * np.sin(angle))), 1.0, 1)  # fmt: skip
        total = cv2.filter2D(total, -1, stroke / stroke.sum()) * 2.5
    return np.clip(texture * np.exp(total * strength), 0, 1).astype(np.float32)


def textured(head: Head, person: int) -> Head:
    """The head with relief on skin and hair, or as it is."""
    rng = np.random.default_rng([person, 78])
    if rng.uniform() < 0.35:
        return head
    strength = rng.uniform(0.02, 0.16)
    surface = head.surface
    skin, hair = relief(surface.skin, strength, rng), relief(surface.hair, 1.5 * strength, rng)
    return dataclasses.replace(head, surface=dataclasses.replace(surface, skin=skin, hair=hair))


def encoded(frames: UInt8[np.ndarray, "F H W 3"]) -> bytes:
    """An MP4."""
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        options = {"crf": str(CRF), "preset": "veryslow", "bf": "3", "g": str(FRAMES)}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()


def main(first: int, last: int, folder: Path) -> None:
    """Files that are there are not made again."""
    body, renderer = load_body(), Renderer(SIZE, 2)
    names = body.action_names.tolist()
    folder.mkdir(parents=True, exist_ok=True)
    for chunk in range(first, last, CHUNK):
        if (path := folder / f"{chunk:06d}.npz").exists():
            continue
        clips, points = [], []
        for number in range(chunk, min(chunk + CHUNK, last)):
            person = make_person(number, body)
            motion = widen(make_motion(person.personality, number, 1, FRAMES, 1.6, names), number, names)
            in_focus = bool(np.random.default_rng([number, 77]).uniform() < 0.8)
            head = textured(make_head(person, body, 512), number)
            clip = film(head, motion, renderer, room=number * 64 + 1, in_focus=in_focus)
            clips.append(np.frombuffer(encoded(clip.frames), np.uint8))
            points.append(clip.landmarks)
        content = io.BytesIO()
        sizes = np.array([len(clip) for clip in clips])
        np.savez(content, video=np.concatenate(clips), sizes=sizes, points=np.stack(points).astype(np.float16))
        write_atomic(path, content.getvalue())
        print(path, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
