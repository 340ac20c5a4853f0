"""The whole animation, from files to files, as the verbs, the studio and the API run it."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8

from talkinghead.faces.crop import Framing
from talkinghead.faces.detectors import Detector
from talkinghead.options import Range, check_flags, check_numbers
from talkinghead.precision import fast_dtype
from talkinghead.progress import Reporter
from talkinghead.provenance import Signer
from talkinghead.reenactment.adaptation import MODES
from talkinghead.reenactment.animation import BATCH, Look, animate, drawn, driving_points
from talkinghead.reenactment.driver import Driver, follow_driver, record
from talkinghead.reenactment.same_person import check_one_person, find_recognizer
from talkinghead.reenactment.source import Portrait, points_of, read_source, shots_of
from talkinghead.types import Frames, Reenactor

UNCHECKED = "not checked whether all pictures show one person: that wants pip install -e '.[offline]'"
NUMBERS = {
    "shots": Range(1, optional=True), "face": Range(1), "driving_face": Range(1), "min_face": Range(1),
    "search_every": Range(1), "max_frames": Range(1, optional=True), "seconds": Range(0.1, 3600, whole=False),
    "reference": Range(0, optional=True), "smooth": Range(0, 1000, whole=False), "seed": Range(0, 2**63 - 1),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How faces are found and tracked, and how the driver moves the person.

    Attributes:
        shots: largest number of source frames; None: all pictures, eight frames of a video
        face: 1 is the largest face of the source, 2 the second largest, …
        driving_face: the same for the driver
        min_face: smallest usable face box, pixels; smaller ones are an error
        search_every: the face is detected in every n-th driving frame; landmarks are found in all
        max_frames: of the driver; None: all
        seconds: recorded, if the driver is a camera
        adapt: how the driver's landmarks are adapted to the source, see `adaptation.adapt`
        reference: of adapt=relative: a driving frame; None: the one most similar to the source
        smooth: strength of smoothing of the driving landmarks; 0: none
        blinks: shut eyes that a detector sees half open in blinks; False: as detected (and always with adapt=raw)
        limits: keep turns and shifts of the head within what one picture can show; False: as the driver's
        one_person: refuse source frames of different people; False: they are not compared
        precision: fp32, bf16, or auto: bf16 where the device has units for it
    """

    shots: int | None = None
    face: int = 1
    driving_face: int = 1
    min_face: int = 32
    search_every: int = 5
    max_frames: int | None = None
    seconds: float | int = 10
    adapt: Any = "relative"
    reference: int | None = None
    smooth: float | int = 1.0
    blinks: bool = True
    limits: bool = True
    one_person: bool = True
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for key, allowed in (("precision", ("auto", "fp32", "bf16")), ("adapt", MODES)):
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key}={getattr(self, key)}: choose {' or '.join(allowed)}")
        check_numbers(self, NUMBERS)
        check_flags(self)


@runtime_checkable
class PersonSource(Protocol):
    """Provides the `Reenactor` of a person, new or stored.

    Attributes:
        name: of the method, in the video's statement of origin
        size: of the networks' pictures, pixels
    """

    name: str
    size: int

    def points(self, portraits: Sequence[Portrait]) -> Float[np.ndarray, "*T 68 2"] | None:
        """The landmarks of the source frames, in pixels of the networks' pictures; None where they are unknown."""
        ...

    def meet(
        self, portraits: Sequence[Portrait], driving: Float[np.ndarray, "F 68 2"], device: str, progress: Reporter
    ) -> Reenactor:
        """Learn or load the person; `driving`: the adapted landmarks that will move it."""
        ...


@runtime_checkable
class Method(Protocol):
    """Learns a person; calls `watch` after every step with an object that has `num_steps`."""

    def learn(self, shots: Frames, watch: Callable[[Any], None]) -> Reenactor: ...


@final
class NewPerson:
    """A new person, learned from the source frames.

    Args:
        name: ff or ft
        method: on the device of the animation
        size: of the networks' pictures, pixels
        keep: called with the learned person and the source frames
        watch: called after each step with its state, and the landmarks that will move the person
    """

    def __init__(
        self, name: str, method: Method, size: int,
        keep: Callable[[Any, Sequence[Portrait]], None] = lambda reenactor, portraits: None,
        watch: Callable[[Any, Float[np.ndarray, "F 68 2"]], None] = lambda state, driving: None,
    ) -> None:  # fmt: skip
        self.name, self.method, self.size, self.keep, self.watch = name, method, size, keep, watch

    def points(self, portraits: Sequence[Portrait]) -> Float[np.ndarray, "T 68 2"]:
        """The landmarks of all portraits."""
        return np.stack([points_of(portrait, self.size) for portrait in portraits])

    def meet(
        self, portraits: Sequence[Portrait], driving: Float[np.ndarray, "F 68 2"], device: str, progress: Reporter
    ) -> Reenactor:
        """Learn the person, with a progress bar for the steps."""
        shots = Frames(*(part.to(device) for part in shots_of(portraits, self.size)))
        with progress.phase("learning the person") as step:

            def watch(state: Any) -> None:
                step.of(state.num_steps)()
                self.watch(state, driving)

            reenactor = self.method.learn(shots, watch)
        self.keep(reenactor, portraits)
        return reenactor


@final
class KnownPerson:
    """A stored person; source frames only provide landmarks."""

    name = "person"

    def __init__(self, reenactor: Reenactor, size: int, points: Float[np.ndarray, "68 2"] | None) -> None:
        self.reenactor, self.size, self._points = reenactor, size, points

    def points(self, portraits: Sequence[Portrait]) -> Float[np.ndarray, "*T 68 2"] | None:
        """The landmarks of the portraits, else the stored ones."""
        return np.stack([points_of(portrait, self.size) for portrait in portraits]) if portraits else self._points

    def meet(
        self, portraits: Sequence[Portrait], driving: Float[np.ndarray, "F 68 2"], device: str, progress: Reporter
    ) -> Reenactor:
        """The stored person; nothing is learned."""
        return self.reenactor


class AnimationResult(NamedTuple):
    """The files that an animation wrote."""

    video: Path
    sheet: Path | None  # the contact sheet


@final
class Pipeline:
    """Reads the source, tracks the driver, learns the person, draws the video.

    Args:
        signer: signs the statement of origin in the files; None: plain metadata
        device: a name as torch has them
    """

    def __init__(
        self, detector: Detector, framing: Framing, settings: Settings, progress: Reporter, device: str = "cpu",
        signer: Signer | None = None,
    ) -> None:  # fmt: skip
        self.detector, self.framing, self.settings, self.progress = detector, framing, settings, progress
        self.device, self.signer = device, signer

    def __call__(
        self, sources: Sequence[Path | np.ndarray], driving: Path | int, person: PersonSource, look: Look, output: Path
    ) -> AnimationResult:
        """Run all phases. A failure or an interruption leaves no file behind.

        Args:
            sources: pictures, folders and videos; may be empty for a stored person
            driving: a video, or the number of a camera
            output: the video; the contact sheet is written beside it
        """
        return self.animate(self.find_portraits(sources), driving, person, look, output)

    def animate(
        self, portraits: Sequence[Portrait], driving: Path | int, person: PersonSource, look: Look, output: Path
    ) -> AnimationResult:
        """Run the phases after the source has been read."""
        given = self.settings
        with self.following(driving, person, portraits) as (driver, points), self.in_precision():
            torch.manual_seed(given.seed)
            reenactor = person.meet(portraits, points, self.device, self.progress)
            about: dict[str, str | int | float] = {
                "method": person.name, "adapt": given.adapt, "seed": given.seed,  # no names of files or people
            }  # fmt: skip
            with self.progress.phase("drawing", len(points)) as step:
                sheet = animate(
                    reenactor, driver, points, portraits[0] if portraits else None, output, look, person.size,
                    device=self.device, tick=step, about=about, signer=self.signer,
                )  # fmt: skip
        return AnimationResult(output, sheet)

    def frames(
        self, portraits: Sequence[Portrait], driving: Path | int, person: PersonSource
    ) -> Iterator[UInt8[np.ndarray, "S S 3"]]:
        """The person in each driving frame, at the networks' size; no file is written."""
        with self.following(driving, person, portraits) as (driver, points), self.in_precision():
            reenactor = person.meet(portraits, points, self.device, self.progress)
            for _, x_hat in drawn(reenactor, driver, points, person.size, self.device, BATCH):
                yield x_hat

    @contextmanager
    def following(
        self, driving: Path | int, person: PersonSource, portraits: Sequence[Portrait]
    ) -> Iterator[tuple[Driver, Float[np.ndarray, "F 68 2"]]]:
        """The tracked driver, and its landmarks adapted to this person."""
        given = self.settings
        with tempfile.TemporaryDirectory() as folder:
            driver, known = self.find_driver(driving, Path(folder)), person.points(portraits)
            yield (
                driver,
                driving_points(
                    driver, known, person.size, given.adapt, given.reference, given.smooth, given.blinks, given.limits
                ),
            )

    def in_precision(self) -> torch.autocast:
        """The autocast context for `precision`."""
        name = self.settings.precision
        bf16 = name == "bf16" or (name == "auto" and fast_dtype(self.device) == torch.bfloat16)
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=bf16)

    def find_portraits(self, sources: Sequence[Path | np.ndarray]) -> list[Portrait]:
        """Find the face in every source; ValueError where none shows one, or they show different people."""
        self.detector.check()
        if not sources:
            return []
        given = self.settings
        with self.progress.phase("looking at the source") as step:
            portraits = read_source(
                sources, self.detector, self.framing, shots=given.shots, face=given.face, min_face=given.min_face,
                tell=self.progress.tell, start=step.of,
            )  # fmt: skip
            if given.one_person and len(portraits) > 1:
                if (recognizer := find_recognizer()) is None:
                    self.progress.tell(UNCHECKED)
                if doubt := check_one_person(portraits, recognizer):
                    self.progress.tell(doubt)
            return portraits

    def find_driver(self, driving: Path | int, folder: Path) -> Driver:
        """Track the driver's face; a camera is first recorded into the folder."""
        given = self.settings
        self.detector.check()
        path = Path(str(driving))
        if isinstance(driving, int):
            path = folder / "camera.mp4"
            record(driving, given.seconds, path, self.progress.tell)
        with self.progress.phase("following the driver") as step:
            driver = follow_driver(
                path, self.detector, self.framing, face=given.driving_face, every=given.search_every,
                min_face=given.min_face, max_frames=given.max_frames, start=step.of,
            )  # fmt: skip
        if driver.missing:
            there = len(driver.seen)
            self.progress.tell(
                f"only {there} of {there + driver.missing} frames are in {path}: was it half downloaded?"
            )
        if (lost := int((~driver.seen).sum())) > 0:
            frames, why = f"{lost} of {len(driver.seen)} driving frames", "away, hidden, or another one's scene"
            self.progress.tell(f"the face was not seen in {frames} ({why}): interpolated")
        if driver.way is not None:
            self.progress.tell("the driver's face walks: the crop follows it, and the result stays in its place")
        if driver.outside:
            self.progress.tell(f"the driver's face is partly outside the picture in {driver.outside} frames")
        return driver


def find_device(name: str | int | None) -> str:
    """The name of a device; `auto`: CUDA if present, else the CPU. Raises ValueError where it does not exist."""
    name = f"cuda:{name}" if isinstance(name, int) else str(name)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not (name.split(":", maxsplit=1)[0] == "cuda" and torch.cuda.is_available()):
        raise ValueError(f"device={name} is not there: choose auto, cpu or, on a machine with a GPU, cuda")
    return name
