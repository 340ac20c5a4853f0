"""Decoded frames as players show them: RGB of BT.709 / sRGB, square pixels, upright, transparent parts grey."""

from collections.abc import Mapping

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from talkinghead.images import GROUND

# FFmpeg's numbers (AVColorSpace, AVColorTransferCharacteristic, AVColorPrimaries).
UNKNOWN = 2
BT709, BT601, BT2020 = 1, 6, 9
PQ, HLG, SRGB = 16, 18, 13
WIDE = (9, 11, 12)  # wide-gamut primaries: BT.2020, DCI-P3, Display P3
UNREADABLE: Mapping[int, str] = {8: "YCgCo", 10: "BT.2020 with constant luminance", 14: "ICtCp", 15: "IPT-PQ-C2"}
FULL_RANGE = 2
WIDEST = 10.0  # larger aspect ratios of pixels are errors of the file


class ToRGB:
    """Converts the frames of one video to arrays of one size.

    HDR (PQ, HLG) is converted to SDR with its reference white (203 cd/m2) as white, brighter parts clipped, and wide
    primaries to those of BT.709. Untagged video is interpreted as players do: BT.709 for HD, BT.601 below.

    Args:
        width: of the stored frames, pixels; 0: that of the first frame
        height: of the stored frames, pixels; 0: that of the first frame
        pixel_shape: width of a pixel divided by its height; the picture is enlarged to square pixels
    """

    def __init__(self, width: int, height: int, pixel_shape: float = 1.0) -> None:
        self._size = display_size(width, height, pixel_shape) if width and height else None
        self._shape = pixel_shape
        self._reformatter = VideoReformatter()  # reused: its HDR tables take a second to compute

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "_ _ 3"]:
        """RGB. Raises ValueError for colours that cannot be converted."""
        if frame.colorspace in UNREADABLE:
            raise ValueError(f"its colours are stored as {UNREADABLE[frame.colorspace]}, which cannot be read here")
        self._size = self._size or display_size(frame.width, frame.height, self._shape)
        has_alpha = any(part.is_alpha for part in frame.format.components) or frame.format.has_palette
        width, height = self._size
        image = self._reformatter.reformat(
            tagged(frame), width, height, "rgba" if has_alpha else "rgb24", threads=1, **to_sdr(frame)
        ).to_ndarray()
        return turned(on_ground(image) if has_alpha else image, frame.rotation)


def display_size(width: int, height: int, pixel_shape: float) -> tuple[int, int]:
    """Width and height in square pixels, neither smaller than stored."""
    if not 1 / WIDEST < pixel_shape < WIDEST:
        return width, height
    return max(width, round(width * pixel_shape)), max(height, round(height / pixel_shape))


def tagged(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame, tagged with the default colour matrix if it has no tag."""
    if frame.colorspace == UNKNOWN and not frame.format.is_rgb:
        wide = frame.color_trc in (PQ, HLG) or frame.color_primaries == BT2020
        frame.colorspace = BT2020 if wide else BT709 if frame.width >= 1280 or frame.height > 576 else BT601
    return frame


def to_sdr(frame: av.VideoFrame) -> dict[str, int]:
    """Arguments of the converter for HDR and wide primaries; none for other video."""
    curve, primaries = frame.color_trc, frame.color_primaries
    if curve in (PQ, HLG):
        if primaries == UNKNOWN:
            frame.color_primaries = BT2020
        return {"dst_color_trc": SRGB, "dst_color_primaries": BT709, "dst_color_range": FULL_RANGE}
    if primaries in WIDE:
        if curve == UNKNOWN:
            frame.color_trc = curve = BT709
        return {"dst_color_trc": curve, "dst_color_primaries": BT709, "dst_color_range": FULL_RANGE}
    return {}


def on_ground(image: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    """RGB over a neutral grey background, for pictures with transparency."""
    alpha = image[..., 3:].astype(np.uint16)
    mixed = image[..., :3] * alpha + np.array(GROUND, np.uint16) * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def turned(image: UInt8[np.ndarray, "H W 3"], rotation: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """The picture rotated as the file says, degrees; telephones store frames unrotated."""
    turns = round(rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
