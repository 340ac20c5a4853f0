"""Test people as folders of pictures, as the paper's public evaluation images: 50 people x (32 + 32) pictures."""

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from random import Random
from typing import final

import numpy as np
from jaxtyping import Float, UInt8

from talkinghead.data.datasets import Skipped
from talkinghead.data.reader import UnusableClip
from talkinghead.evaluation.frame_choice import FrameChoice, evenly
from talkinghead.evaluation.tasks import draw_frames, first_usable
from talkinghead.images import IMAGE_SUFFIXES, UnreadableImage, read_image, rescale_points, resize
from talkinghead.types import Frames, Person

_logger = logging.getLogger(__name__)
LEARN = ("train", "shots", "source", "learn", "finetune", "few_shot")  # names of folders, in any case
REPRODUCE = ("test", "target", "hold_out", "holdout", "driving", "eval")

Detector = Callable[[UInt8[np.ndarray, "H W 3"]], Float[np.ndarray, "68 2"] | None]


@final
class StillsReenactment:
    """Folders of square face pictures, whose landmarks are detected; pictures without a face are left out.

    Layouts below `root`, with pictures at any depth:
        <person>/train/*.png and <person>/test/*.png   (or shots, source, learn; target, hold_out, driving, eval)
        train/<person>/*.png and test/<person>/*.png
        <person>/*.png      hold-out frames are chosen as from a clip

    If fewer than `max_shots`, but at least half as many, pictures to learn from show a face, the first are used twice.

    Args:
        detector: finds the 68 points in an RGB picture, as `metrics.landmarks.DlibLandmarks` does
    """

    def __init__(
        self, root: str | Path, size: int, choice: FrameChoice, detector: Detector | None,
        num_people: int | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        if detector is None:
            raise ValueError("pictures without landmarks need a detector: pip install 'talkinghead[offline]' for dlib")
        self.root, self.size, self.choice, self.detector = Path(root), size, choice, detector
        self.num_people = num_people
        self.name = f"{name or self.root.name}/test"
        self.unusable: dict[Path, str] = {}  # picture -> reason

    def prepare(self) -> None:
        """Do nothing: pictures cannot be built."""
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root}: set people.root to the folder of people")

    @property
    def protocol(self) -> str:
        """`stills_given_…` where the folders of any person are split into shots and targets."""
        given = any(self._parts(person)[1] for person in {self._person(path) for path in self._pictures})
        choice = f"{self.choice}"
        return f"stills_{choice.replace(self.choice.split, 'given', 1) if given else choice}"

    def keys(self) -> tuple[list[str], list[Skipped]]:
        """The people, sorted by name. Raises ValueError where there is none."""
        people = sorted({self._person(path) for path in self._pictures})
        if not people:
            raise ValueError(f"no pictures below {self.root}: set people.root to the folder of people")
        return first_usable(people, self.num_people, self._check)

    def load(self, key: str) -> Person:
        """Detect faces in as many pictures as are needed. UnusableClip where too few show one."""
        learn, reproduce = self._parts(key)
        if reproduce:
            shots = self._detect(self._order(learn, key), self.choice.max_shots)
            held_out = self._detect(reproduce, self.choice.num_targets)
            if 2 * len(shots) >= self.choice.max_shots:  # a few missed faces should not cost the person
                shots = (2 * shots)[: self.choice.max_shots]
        else:
            found = self._detect(learn, len(learn))
            first, second = self.choice(range(len(found)), key) if len(found) >= self.choice.needed else ((), ())
            shots, held_out = ([found[n] for n in numbers] for numbers in (first, second))
            if not first:
                shots = found
        enough = len(shots) >= self.choice.max_shots and len(held_out) >= self.choice.min_targets
        if not enough:
            counts = f"{len(shots)} to learn from, {len(held_out)} to reproduce"
            bad = [reason for path, reason in self.unusable.items() if path in {*learn, *reproduce}]
            because = f"; {len(bad)} unusable, the first: {bad[0]}" if bad else ""
            raise UnusableClip("too few pictures with a face", f"{self.root / key}: {counts}{because}")
        target = self._draw(held_out)
        return Person(key, self._draw(shots), driving=target, target=target, identity=key)

    def _order(self, pictures: list[Path], key: str) -> list[Path]:
        """Pictures to learn from, in the order of their use."""
        if self.choice.shots == "even":
            return [pictures[n] for n in evenly(range(len(pictures)), len(pictures))]
        return Random(repr((self.choice.seed, key))).sample(pictures, len(pictures))

    @cached_property
    def _pictures(self) -> list[Path]:
        found = (path.relative_to(self.root) for path in self.root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        return sorted(path for path in found if len(path.parts) > 1 and not path.name.startswith("."))

    def _person(self, picture: Path) -> str:
        """The person: the first folder that is not named like a part."""
        names = [name for name in picture.parts[:-1] if name.lower() not in (*LEARN, *REPRODUCE)]
        return names[0] if names else picture.parts[0]

    def _parts(self, key: str) -> tuple[list[Path], list[Path]]:
        """Pictures to learn from, and to reproduce; the latter are empty where folders do not separate them."""
        mine = [path for path in self._pictures if self._person(path) == key]
        parts = {path: {name.lower() for name in path.parts[:-1]} for path in mine}
        reproduce = [path for path in mine if parts[path] & set(REPRODUCE)]
        learn = [path for path in mine if path not in reproduce]
        return (learn, reproduce) if learn else (reproduce, [])

    def _check(self, key: str) -> None:
        learn, reproduce = self._parts(key)
        if len(learn) + len(reproduce) < self.choice.needed:
            counts = f"{len(learn)} + {len(reproduce)} pictures, the protocol needs {self.choice.needed}"
            raise UnusableClip("too few pictures", f"{self.root / key}: {counts}")

    def _detect(self, pictures: list[Path], count: int) -> list["Still"]:
        """The first `count` pictures that show a face, resized to `size`; unusable ones are logged and left out."""
        stills: list[Still] = []
        for path in pictures:
            if len(stills) == count:
                break
            try:
                image = read_square(self.root / path)
            except UnusableClip as error:
                if path not in self.unusable:
                    _logger.warning("%s is left out: %s", self.root / path, error)
                self.unusable[path] = f"{error}"
                continue
            points = self.detector(image)
            if points is not None:
                factor = self.size / len(image)
                resized = resize(image, self.size, self.size)
                stills.append((resized, rescale_points(points, factor).astype(np.float32)))
        return stills

    def _draw(self, stills: list["Still"]) -> Frames:
        images, points = zip(*stills, strict=True)
        return draw_frames(np.stack(images), np.stack(points))


Still = tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "68 2"]]


def read_square(path: Path) -> UInt8[np.ndarray, "H H 3"]:
    """An RGB picture; UnusableClip when it cannot be read or is not square."""
    try:
        image = read_image(path)
    except UnreadableImage as error:
        raise UnusableClip("unreadable picture", str(error)) from error
    if image.shape[0] != image.shape[1]:
        raise UnusableClip(
            "picture not square",
            f"{path}: {image.shape[1]}x{image.shape[0]}; prepare such pictures: python prepare.py source=stills",
        )
    return image
