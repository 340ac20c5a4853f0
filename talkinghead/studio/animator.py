"""Makes the videos of the page "Animate", one at a time, with networks that are loaded once and never changed."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, final

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from talkinghead.faces.crop import Framing
from talkinghead.faces.detectors import Detector, WrappedDetector
from talkinghead.pixels import as_pictures
from talkinghead.provenance import Signer
from talkinghead.reenactment.animation import Look
from talkinghead.reenactment.pipeline import Method, NewPerson, Pipeline, Settings
from talkinghead.reenactment.source import landmark_images
from talkinghead.studio.job import JobProgress
from talkinghead.studio.uploads import Limits, Refused, admit_pictures, admit_video
from talkinghead.types import Frames

Points = Float[np.ndarray, "F 68 2"]


@dataclass(frozen=True)
class AnimateRequest:
    """What a visitor asks for; the files are as uploaded, not yet checked."""

    portraits: tuple[Path, ...]
    driver: Path | None
    steps: int = 0  # of fine-tuning; 0: feed-forward
    adapt: str = "relative"
    look: Look = field(default_factory=Look)


class Video(NamedTuple):
    """The files of a result: the video, and its contact sheet if one was asked for."""

    video: Path
    sheet: Path | None


@final
class Animator:
    """Makes a video from a visitor's request.

    Args:
        method: number of fine-tuning steps -> few-shot method; 0: feed-forward
        size: side of the method's pictures, pixels
        settings: how faces are found and followed; the request overrides `adapt`
        limits: of files and of steps
        moments: driving frames that previews show
        every: seconds between two previews
        steps: the default number of steps on the page
    """

    def __init__(
        self, method: Callable[[int], Method], size: int, detector: Detector, framing: Framing, settings: Settings,
        limits: Limits, *, device: str = "cpu", signer: Signer | None = None, moments: int = 4, every: float = 0.8,
        steps: int = 80,
    ) -> None:  # fmt: skip
        self.method, self.size, self.detector, self.framing, self.settings = method, size, detector, framing, settings
        self.limits, self.device, self.signer, self.moments, self.every = limits, device, signer, moments, every
        self.steps = steps
        self._alone = threading.Lock()

    def __call__(self, asked: AnimateRequest, names: dict[Path, str], reports: JobProgress, folder: Path) -> Video:
        """Make the video in `folder`.

        Args:
            names: filled with the visitor's name of each file, for messages

        Raises:
            Refused: a file or a number is beyond the limits or unusable.
            ValueError: as the pipeline does, for example where no face is found.
            Stopped: the visitor has stopped the job.
        """
        if not 0 <= asked.steps <= self.limits.steps:
            raise Refused(f"{asked.steps} steps: choose 0 to {self.limits.steps}.")
        names |= admit_pictures(list(asked.portraits), folder, self.limits)
        portraits = list(names)
        names |= (driver := admit_video(asked.driver, folder, self.limits))
        with self._alone:  # a job that was stopped may still be in its last step
            reports.check()
            method = self.method(asked.steps)
            person = NewPerson(
                "ft" if asked.steps else "ff",
                method,
                self.size,
                watch=PreviewCallback(self.moments, self.every, reports.show),
            )
            pipeline = Pipeline(
                CancellableDetector(self.detector, reports.check), self.framing,
                replace(self.settings, adapt=asked.adapt), reports, self.device, self.signer,
            )  # fmt: skip
            return Video(*pipeline(portraits, next(iter(driver)), person, asked.look, folder / "animation.mp4"))


class CancellableDetector(WrappedDetector):
    """A detector that calls `check`, which may raise Stopped, before each use."""

    def __init__(self, detector: Detector, check: Callable[[], None]) -> None:
        super().__init__(detector)
        self._check = check

    def boxes(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "N 4"]:
        """The detector's boxes (x0, y0, x1, y1), pixels. Raises what `check` raises."""
        self._check()
        return self.detector.boxes(image)

    def landmarks(self, image: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "68 2"]:
        """The detector's landmarks, pixels. Raises what `check` raises."""
        self._check()
        return self.detector.landmarks(image, box)


class PreviewCallback:
    """Previews of a fine-tuning: a few driving frames as the person's generator draws them at this step.

    Args:
        moments: driving frames to draw, evenly spaced
        every: seconds between two previews
        show: called with the pictures side by side, 128 px high
    """

    def __init__(self, moments: int, every: float, show: Callable[[UInt8[np.ndarray, "H W 3"]], None]) -> None:
        self.moments, self.every, self.show = moments, every, show
        self._last = -float("inf")

    @torch.no_grad()
    def __call__(self, state: Any, driving: Points) -> None:
        """Called after each step with its `finetune.Progress` and the driving landmarks."""
        now = time.monotonic()
        if now - self._last < self.every and state.step != state.num_steps:
            return
        self._last = now
        device = next(state.generator.parameters()).device
        size = state.generator.preset.image_size
        moments = Frames(*(part.to(device) for part in frames_of(driving, self.moments, size)))
        state.generator.eval()  # in training, spectral norm would move
        pictures = as_pictures(state.generator(state.generator.condition(moments)).float())
        state.generator.train()
        self.show(strip(pictures))


def frames_of(driving: Points, moments: int, size: int) -> Frames:
    """Evenly spaced driving frames, from the first to the last, as landmark images; also in place of their pictures."""
    chosen = driving[np.linspace(0, len(driving) - 1, min(moments, len(driving))).round().astype(int)]
    y = landmark_images(chosen, size)
    return Frames(y, y, torch.from_numpy(chosen).float())


def strip(pictures: Sequence[Any] | UInt8[np.ndarray, "M S S 3"], side: int = 128) -> UInt8[np.ndarray, "H W 3"]:
    """The pictures in a row, each resized to `side` pixels."""
    return np.concatenate([cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in pictures], axis=1)
