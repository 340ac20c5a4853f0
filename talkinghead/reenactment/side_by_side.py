"""Pictures side by side: source | driver | result of each frame, and the contact sheet of a video."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from talkinghead.images import resize
from talkinghead.provenance import OriginStatement, Signer, marked
from talkinghead.storage import write_atomic

Image = UInt8[np.ndarray, "_ _ 3"]


class Column(NamedTuple):
    """One moment on the contact sheet."""

    driver: Image
    landmarks: Image
    result: Image


def side_by_side(panels: list[Image]) -> Image:
    """Pictures in a row, each resized to the height of the last."""
    height = len(panels[-1])
    return np.concatenate([to_height(panel, height) for panel in panels], axis=1)


def to_height(image: Image, height: int) -> Image:
    """The picture at this height, with its aspect ratio."""
    if len(image) == height:
        return image
    width = max(1, round(image.shape[1] * height / len(image)))
    return resize(image, width, height)


def even(image: Image) -> Image:
    """The picture without its last row or column if their number is odd: yuv420p requires even sides."""
    height, width = image.shape[:2]
    return np.ascontiguousarray(image[: height // 2 * 2, : width // 2 * 2])


def labelled(image: Image, text: str = "AI-generated") -> Image:
    """The picture with a small visible text in the lower left corner, white on a dark strip."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, max(0.3, min(image.shape[:2]) / 640)
    (width, height), below = cv2.getTextSize(text, font, scale, 1)
    strip, image = (slice(-(height + below + 2), None), slice(0, width + 6)), np.ascontiguousarray(image).copy()
    image[strip] //= 4
    return cv2.putText(image, text, (3, len(image) - below - 1), font, scale, (255, 255, 255), 1, cv2.LINE_AA)


def write_sheet(
    path: Path, source: Image | None, columns: list[Column], tile: int = 160, *, card: OriginStatement | None = None,
    signer: Signer | None = None, label: bool = False,
) -> None:  # fmt: skip
    """Write the PNG of `sheet_of` atomically; the arguments are the same."""
    write_atomic(path, sheet_of(source, columns, tile, card=card, signer=signer, label=label))


def sheet_of(
    source: Image | None, columns: list[Column], tile: int = 160, *, card: OriginStatement | None = None,
    signer: Signer | None = None, label: bool = False,
) -> bytes:  # fmt: skip
    """The contact sheet as PNG: the source at the left; then columns of driver, adapted landmarks and result.

    Args:
        card: the statement of origin; None: that the file is generated in part
        signer: signs that; None: plain metadata
        label: write `AI-generated` on the results
    """
    gap = np.full((3 * tile, 4, 3), 255, np.uint8)
    last = named("result", tile) if source is None else square(source, tile)
    parts = [np.concatenate([named("driver", tile), named("landmarks", tile), last])]
    for column in columns:
        tiles = [square(image, tile) for image in column]
        parts += [gap, np.concatenate([*tiles[:-1], labelled(tiles[-1]) if label else tiles[-1]])]
    sheet = np.concatenate(parts, axis=1)
    good, content = cv2.imencode(".png", np.ascontiguousarray(sheet[..., ::-1]))
    if not good:
        raise ValueError("the contact sheet could not be encoded")
    return marked(content.tobytes(), card or OriginStatement(composite=True), signer)


def named(text: str, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """A white square with a short text, a heading of the sheet."""
    canvas = np.full((side, side, 3), 255, np.uint8)
    return cv2.putText(canvas, text, (8, side // 2), cv2.FONT_HERSHEY_SIMPLEX, side / 300, (0, 0, 0), 1, cv2.LINE_AA)


def square(image: Image, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """The whole picture, centred in a white square."""
    factor = side / max(image.shape[:2])
    height, width = (max(1, round(extent * factor)) for extent in image.shape[:2])
    canvas = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = resize(image, width, height)
    return canvas
