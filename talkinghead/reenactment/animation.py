"""From a driver's motion and a learned person to a video file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from talkinghead.faces.crop import cut
from talkinghead.faces.landmark_image import draw_landmarks
from talkinghead.images import rescale_points
from talkinghead.options import Range, check_flags, check_numbers
from talkinghead.pixels import as_pictures
from talkinghead.provenance import OriginStatement, Signer
from talkinghead.reenactment.adaptation import Mode, adapt
from talkinghead.reenactment.driver import Driver
from talkinghead.reenactment.moving_crop import bounded
from talkinghead.reenactment.paste_back import Paste
from talkinghead.reenactment.side_by_side import Column, even, labelled, sheet_of, side_by_side, to_height
from talkinghead.reenactment.smoothing import smooth
from talkinghead.reenactment.source import Portrait, as_frames
from talkinghead.storage import write_atomic
from talkinghead.types import Frames, Reenactor
from talkinghead.video.writer import VideoWriter

Image = UInt8[np.ndarray, "_ _ 3"]
BATCH = 8  # frames per forward pass
NUMBERS = {
    "size": Range(16, 4096, optional=True), "feather": Range(0, 0.5, whole=False), "sheet": Range(0, 64),
    "crf": Range(0, 51),
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What the video shows.

    Attributes:
        size: height of the result, pixels; None: the networks' own. `paste` keeps the size of the picture
        side_by_side: source | driver | result
        paste: the whole picture of the portrait, with the face moving in it
        feather: width of the soft seam of `paste`, in crop sides
        sheet: number of moments on the contact sheet; 0: no sheet
        sound: keep the driver's sound
        crf: quality of H.264; less is better and larger
        mark: a visible text in the corner: AI-generated
    """

    size: int | None = 256
    side_by_side: bool = False
    paste: bool = False
    feather: float = 0.12
    sheet: int = 8
    sound: bool = True
    crf: int = 18
    mark: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, NUMBERS, "look.")
        check_flags(self, "look.")
        if self.size is not None and self.size % 2:
            raise ValueError(f"look.size={self.size}: an even number of pixels, please (H.264 wants it)")


def driving_points(
    driver: Driver, source_points: Float[np.ndarray, "*T 68 2"] | None, size: int, mode: Mode = "relative",
    reference: int | None = None, steady: float = 1.0, blinks: bool = True, limits: bool = True,
) -> Float[np.ndarray, "F 68 2"]:  # fmt: skip
    """The driver's landmarks adapted to this source, in pixels of the networks' pictures.

    Args:
        source_points: of one source frame or several, the shown one first. None: unknown; the driver's points are
            returned unadapted
        reference: the driving frame that corresponds to the source frame; None: the most similar one
        steady: strength of smoothing; 0: none
        limits: keep the head as near to the source frame as one picture can show
        blinks: shut eyes that a detector sees half open in a blink
    """
    points = smooth(driver.points_of(size), float(driver.timeline.rate), steady)
    if source_points is None:
        if mode == "relative":
            raise ValueError("this person model has no landmarks of its source: give source=FILE, or adapt=absolute")
        return points
    adapted = adapt(points, source_points, mode, reference=reference, anchor=0, blinks=blinks, limits=limits)
    return adapted if mode == "raw" else bounded(adapted, size)


def animate(
    reenact: Reenactor, driver: Driver, points: Float[np.ndarray, "F 68 2"], portrait: Portrait | None, output: Path,
    look: Look, size: int, *, device: str = "cpu", batch: int = BATCH, tick: Callable[[], None] = lambda: None,
    about: dict[str, str | int | float] | None = None, signer: Signer | None = None,
) -> Path | None:  # fmt: skip
    """Write the video, and the contact sheet beside it; returns the path of the sheet.

    Args:
        points: driving landmarks, in pixels of the networks' `size` x `size` pictures
        portrait: the source frame to show and to paste into; None: for a person model without one
        tick: called after each frame
        about: details for the statement of origin that both files carry
        signer: signs that statement; None: plain metadata
    """
    compose = Composer(portrait, look, size)
    timeline, view = driver.timeline, compose.view
    blank = np.zeros((view, view, 3), np.uint8)
    height, width = compose(blank, np.zeros((size, size, 3), np.uint8)).shape[:2]
    moments = set(np.linspace(0, len(points) - 1, look.sheet).round().astype(int).tolist())
    columns: list[Column] = []
    card = OriginStatement(look.paste or look.side_by_side, about or {})
    with VideoWriter(
        output, width, height, timeline.rate, timeline.time_base, driver.video.path if look.sound else None,
        float(timeline.pts[0] * timeline.time_base), look.crf, card, signer,
    ) as writer:  # fmt: skip
        for n, (image, x_hat) in enumerate(drawn(reenact, driver, points, size, device, batch)):
            driving = cut(image, driver.crop_of(n), view)
            writer.write(compose(driving, x_hat), timeline.pts[n] - timeline.pts[0])
            if n in moments:
                columns.append(Column(driving, draw_landmarks(zoomed(points[n], size, view), view), x_hat))
            tick()
        if columns:  # before the video gets its name, so that an interruption leaves neither file
            content = sheet_of(
                compose.source, columns, card=OriginStatement(True, about or {}), signer=signer, label=look.mark
            )
    if not columns:
        return None
    sheet = output.with_suffix(".png")
    write_atomic(sheet, content)
    return sheet


def drawn(
    reenact: Reenactor, driver: Driver, points: Float[np.ndarray, "F 68 2"], size: int, device: str, batch: int
) -> Iterator[tuple[Image, Image]]:
    """Pairs of driving frame and output, uint8, for each frame of the driver."""
    for_video = getattr(reenact, "for_video", None)
    if for_video is not None:  # it may look ahead
        reenact = for_video(torch.from_numpy(points).float())
    images = driver.images()
    for first in range(0, len(points), batch):
        some = list(islice(images, batch))
        if not some:
            return
        crops = np.stack([cut(image, driver.crop_of(n), size) for n, image in enumerate(some, first)])
        frames = as_frames(crops, points[first : first + len(some)])
        x_hat = reenact(Frames(*(part.to(device) for part in frames)))
        if not x_hat.isfinite().all():
            raise ValueError(
                f"what the networks draw of driving frames {first} to {first + len(some) - 1} is not finite: the "
                "checkpoint is broken, or fine-tuning went astray (a smaller finetune.lr_generator, precision=fp32)"
            )
        yield from zip(some, as_pictures(x_hat), strict=True)


def zoomed(points: Float[np.ndarray, "68 2"], size: int, view: int) -> Float[np.ndarray, "68 2"]:
    """Points of a `size` px picture in pixels of the same picture at `view` px."""
    return rescale_points(points, view / size)


class Composer:
    """Composes frames of the video from the driver's crop, `view` pixels square, and the output."""

    def __init__(self, portrait: Portrait | None, look: Look, size: int) -> None:
        if portrait is None and look.paste:
            raise ValueError("look.paste=true needs the picture to paste into: give source=FILE")
        self.view = look.size or size
        self.source = None if portrait is None else cut(portrait.image, portrait.crop, self.view)
        self._whole = Paste(portrait.image, portrait.crop, look.feather) if portrait and look.paste else None
        self._side_by_side, self._mark = look.side_by_side, look.mark

    def __call__(self, driving: Image, x_hat: Image) -> Image:
        """One frame; its sides are even, as yuv420p requires."""
        result = to_height(x_hat, self.view) if self._whole is None else self._whole(x_hat)
        if self._mark:
            result = labelled(result)
        if not self._side_by_side:
            return even(result)
        source = self.source if self._whole is None else self._whole.picture
        return even(side_by_side([panel for panel in (source, driving, result) if panel is not None]))
