"""What warp_256 makes of poses far from its one picture: `python experiments/warp_256/poses.py SHEET.jpg`.

Two of the rendered people whose portraits ship, from one calm frame; upper rows: the renderer's own picture, lower
rows: the model's, given the exact landmarks. Columns: the frame that is shown, 15, 30 and 45 degrees of turning,
looking down, a wide open mouth, shut eyes.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg
import torch

import talkinghead
from talkinghead.evaluation.tasks import draw_frames
from talkinghead.pixels import as_pictures
from talkinghead.provenance import OriginStatement, marked
from talkinghead.storage import write_atomic
from talkinghead.synthetic.body import load_body
from talkinghead.synthetic.motion import Motion
from talkinghead.tools.render_examples import PORTRAITS, show, still
from talkinghead.types import Frames

SIDE, RATIO = 256, 2.5
TURNS = ((15, 0), (30, 0), (45, 0), (0, -20))  # degrees of yaw and pitch
ACTIONS = (
    {"jawOpen": 0.9, "mouthStretchLeft": 0.3, "mouthStretchRight": 0.3},
    {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0},
)


def poses(person: int) -> Motion:
    """The calm frame, and from it each pose by itself."""
    names, calm = load_body().action_names.tolist(), still(person)
    count = 1 + len(TURNS) + len(ACTIONS)
    motion = Motion(*(np.repeat(part, count, 0) for part in (calm.actions, calm.pose, calm.sway)))
    for n, (yaw, pitch) in enumerate(TURNS, start=1):
        motion.pose[n, :2] += yaw, pitch
    for n, action in enumerate(ACTIONS, start=1 + len(TURNS)):
        for name, weight in action.items():
            motion.actions[n, names.index(name)] = weight
    return motion


@torch.no_grad()
def rows(person: int) -> list[np.ndarray]:
    """The renderer's pictures in a row, and below them the model's."""
    picture = show(person, poses(person), SIDE, RATIO, show(person, still(person), SIDE, RATIO).camera)
    frames = draw_frames(np.ascontiguousarray(picture.frames), picture.landmarks)
    shot = Frames(*(part[:1] for part in frames))
    reenact = talkinghead.load("warp_256", device="cpu").method().learn(shot)
    drawn = as_pictures(reenact(frames))
    return [np.concatenate(list(some), 1) for some in (picture.frames, [picture.frames[0], *drawn[1:]])]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sheet", type=Path)
    sheet = np.concatenate([row for name in ("anna", "dayo") for row in rows(PORTRAITS[name])])
    content = simplejpeg.encode_jpeg(np.ascontiguousarray(sheet), quality=85, colorspace="RGB")
    card = replace(OriginStatement(), about={"method": "warp_256, feed-forward, one rendered frame"})
    write_atomic(parser.parse_args().sheet, marked(content, card))
