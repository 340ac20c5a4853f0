"""Paste-back: the output is blended into the whole picture of the portrait."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from talkinghead.faces.crop import Crop
from talkinghead.images import resize

GRID = 32  # side of the pictures in which colours are compared, pixels
REACH = 0.25  # distance from the seam, in crop sides, over which colours are adjusted


class Paste:
    """Pastes pictures of the crop into the picture from which the crop was cut.

    Args:
        feather: width of the soft seam, in crop sides; none where the crop ends with the picture. Near it, colours
            are matched to the picture's. 0: neither seam nor matching
        longest: longest side of the result, pixels; larger pictures are resized, for players and encoders have limits
    """

    def __init__(
        self, picture: UInt8[np.ndarray, "H W 3"], crop: Crop, feather: float = 0.12, longest: int = 1280
    ) -> None:
        if not 0 <= feather <= 0.5:
            raise ValueError(f"feather={feather:g}: a share of the crop between 0 and 0.5")
        factor = min(1.0, longest / max(picture.shape[:2]))
        if factor < 1:
            picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        self.picture = picture
        left, top, side = (round(value * factor) for value in crop)
        height, width = picture.shape[:2]
        self._side = side = max(2, side)
        self._inside = slice(max(0, -top), min(side, height - top)), slice(max(0, -left), min(side, width - left))
        self._where = tuple(
            slice(part.start + start, part.stop + start) for part, start in zip(self._inside, (top, left), strict=True)
        )
        rows, columns = self._inside
        down = ramp(rows.stop - rows.start, round(feather * side), top > 0, top + side < height)
        across = ramp(columns.stop - columns.start, round(feather * side), left > 0, left + side < width)
        self._new = down[:, None] * across  # weight of the new picture
        self._old = 1 - self._new
        self._under = np.ascontiguousarray(picture[self._where])
        seams = top > 0, top + side < height, left > 0, left + side < width
        self._tint = Tint(self._under, seams, side) if feather and any(seams) else None

    def __call__(self, patch: UInt8[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """The whole picture, with this patch blended into the crop."""
        new = resize(patch, self._side, self._side)[self._inside]
        if self._tint is not None:
            new = self._tint(new)
        whole = self.picture.copy()
        whole[self._where] = cv2.blendLinear(np.ascontiguousarray(new), self._under, self._new, self._old)
        return whole


class Tint:
    """Shifts the colours of a patch towards those it covers: fully at the seams, not at all `REACH` crop sides inside.

    Args:
        under: the pixels that the patch will cover
        seams: top, bottom, left, right: whether the whole picture continues there
        side: of the crop, pixels
    """

    def __init__(self, under: UInt8[np.ndarray, "h w 3"], seams: tuple[bool, bool, bool, bool], side: int) -> None:
        height, width = under.shape[:2]
        self._shape = (width, height)
        self._under = self._small(under)
        place = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID
        down, across = (np.clip(1 - place * extent / (REACH * side), 0, 1) ** 2 for extent in (height, width))
        shares = (down[:, None], down[::-1, None], across[None], across[None, ::-1])
        ones = np.ones((GRID, GRID), np.float32)
        self._shares = [ones * share if wanted else 0 * ones for share, wanted in zip(shares, seams, strict=True)]
        self._sum = np.maximum(1.0, sum(self._shares))[..., None]

    def __call__(self, new: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The patch with its colours adjusted near the seams."""
        apart = self._under - self._small(new)
        rows, columns = (cv2.GaussianBlur(apart, size, sigma) for size, sigma in (((9, 1), 2.5), ((1, 9), 2.5)))
        edges = (
            rows[:2].mean(0)[None], rows[-2:].mean(0)[None],
            columns[:, :2].mean(1)[:, None], columns[:, -2:].mean(1)[:, None],
        )  # fmt: skip
        field = sum(share[..., None] * edge for share, edge in zip(self._shares, edges, strict=True)) / self._sum
        full = cv2.resize(np.asarray(field, np.float32), self._shape, interpolation=cv2.INTER_LINEAR)
        return cv2.add(new, full, dtype=cv2.CV_8U)

    @staticmethod
    def _small(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "32 32 3"]:
        return cv2.resize(image, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float32)


def ramp(length: int, width: int, at_start: bool, at_end: bool) -> Float[np.ndarray, " length"]:
    """Weights of 1 that fall smoothly to 0 over `width` pixels at the chosen ends."""
    position = np.arange(length, dtype=np.float32) + 0.5
    values = np.ones(length, np.float32)
    for wanted, distance in ((at_start, position), (at_end, length - position)):
        if wanted and width:
            share = np.clip(distance / width, 0, 1)
            values *= share * share * (3 - 2 * share)
    return values
