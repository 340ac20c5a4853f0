"""Renders the portraits and driving videos of synthetic people that ship with the package.

`python -m talkinghead.tools.render_examples FOLDER` renders them again: the same command gives the same pictures.
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("talkinghead.tools.render_examples")

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import simplejpeg

from talkinghead.provenance import OriginStatement, marked
from talkinghead.reenactment.output_paths import keep_others
from talkinghead.storage import in_one_line, write_atomic
from talkinghead.synthetic.body import load_body
from talkinghead.synthetic.motion import Motion, make_motion
from talkinghead.synthetic.person import make_person
from talkinghead.synthetic.renderer import Camera, Renderer
from talkinghead.synthetic.scene import Picture, film, make_head
from talkinghead.video.writer import VideoWriter

FIRST_PERSON = 800_000  # outside the data set's splits
PORTRAITS = {"anna": 11, "bela": 6, "dayo": 3, "mira": 16}  # file name -> person
DRIVERS = {"calm": 7, "cheerful": 15, "lively": 10}
PORTRAIT_SIZE, DRIVER_SIZE = 512, 256  # pixels
WIDE, CLOSE = 2.7, 2.2  # picture sides over the face's extent: a portrait shows shoulders, a driver comes closer
FPS, SECONDS = 25, 4


def portrait(person: int, size: int = PORTRAIT_SIZE) -> Picture:
    """One calm frame of example person number `person`."""
    return show(person, still(person), size, WIDE)


def still(person: int) -> Motion:
    """The frame of a portrait: a calm face, the head close to its usual pose."""
    body = load_body()
    pose = 0.7 * np.array([make_person(FIRST_PERSON + person, body).personality.rest_pose], np.float32)
    return Motion(np.zeros((1, len(body.action_names)), np.float32), pose, np.zeros((1, 3), np.float32))


def motion_of(mover: int) -> Motion:
    """What example person number `mover` does in their clip."""
    body, seed = load_body(), FIRST_PERSON + mover
    names = body.action_names.tolist()
    return make_motion(make_person(seed, body).personality, seed, 0, SECONDS * FPS, FPS, names)


def show(person: int, motion: Motion, size: int, ratio: float = CLOSE, camera: Camera | None = None) -> Picture:
    """Example person number `person` doing something, in their own room."""
    body = load_body()
    who = make_person(FIRST_PERSON + person, body)
    return film(make_head(who, body, 512), motion, Renderer(size, 2), who.seed * 64, ratio, camera)


def write_all(folder: Path) -> None:
    """Write `portraits/*.jpg` and `drivers/*.mp4`, marked as drawn. Raises ValueError if other files are there."""
    portraits = {name: folder / "portraits" / f"{name}.jpg" for name in PORTRAITS}
    drivers = {name: folder / "drivers" / f"{name}.mp4" for name in DRIVERS}
    for path in (*portraits.values(), *drivers.values()):
        keep_others(path)
    card = OriginStatement(about={"method": "rendered"}, learned=False)
    for name, person in PORTRAITS.items():
        image = np.ascontiguousarray(portrait(person).frames[0])
        content = simplejpeg.encode_jpeg(image, quality=92, colorspace="RGB", colorsubsampling="444")
        write_atomic(portraits[name], marked(content, card))
    for name, person in DRIVERS.items():
        with VideoWriter(drivers[name], DRIVER_SIZE, DRIVER_SIZE, Fraction(FPS), Fraction(1, FPS), card=card) as movie:
            for n, image in enumerate(show(person, motion_of(person), DRIVER_SIZE).frames):
                movie.write(np.ascontiguousarray(image), n)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m talkinghead.tools.render_examples", description=__doc__)
    parser.add_argument("folder", type=Path, help="where portraits/ and drivers/ are written")
    try:
        write_all(parser.parse_args().folder)
    except (ValueError, OSError) as error:
        sys.exit(f"examples: {in_one_line(error)}")
