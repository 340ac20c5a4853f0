"""Reading untrusted pictures: completely or not at all, upright, in sRGB, transparent parts grey."""

import re
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif"})
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "GIF")  # of PIL
HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # the MP4 brands of phone pictures
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8")
MAX_PIXELS = 120_000_000
LONGEST = 4096  # pixels per side; a larger picture is downscaled while it is read
GROUND = (128, 128, 128)  # shown behind transparent parts
ROWS = 128  # of the result at a time: what a large picture takes beside its own pixels

warnings.filterwarnings("ignore", module=r"PIL\.")  # of sizes below our own limit, and of tags that nobody needs


class UnreadableImage(ValueError):
    """Names the file, what is wrong with it and what to do."""


def read_image(path: Path, longest: int = LONGEST) -> UInt8[np.ndarray, "H W 3"]:
    """A picture as RGB, no side longer than `longest` pixels. Raises UnreadableImage.

    A picture with more than `MAX_PIXELS` is refused from its header alone; so is one whose end is missing.
    """
    if not path.is_file():
        raise UnreadableImage(f"{path}: there is no such picture")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"({image.width * image.height} pixels)")
            if image.format in ("JPEG", "MPO"):
                check_end(path)
            return pixels_of(image, longest)
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{path}: {too_large(error)}") from error
    except Exception as error:  # on damaged files, parsers raise any kind of exception
        raise UnreadableImage(f"{path}: {cause(path, error)}") from error


def is_image(path: Path) -> bool:
    """Whether the header is that of a picture; animations (GIF) do not count."""
    try:
        with Image.open(path, formats=[name for name in FORMATS if name != "GIF"]):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # as above
        return is_heif(path)


def is_animation(path: Path) -> bool:
    """Whether a picture has several frames (WebP, PNG, GIF)."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return getattr(image, "n_frames", 1) > 1
    except Exception:  # as above
        return False


def is_heif(path: Path) -> bool:
    """Whether it is HEIC, the default picture format of some phones."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in HEIF


def check_end(path: Path) -> None:
    """Raise ValueError for a JPEG with zeros in place of its end, as some downloads have: PIL would read on in grey."""
    content = path.read_bytes()
    if content.endswith(bytes(64)) and content.find(b"\xff\xd9", content.rfind(b"\xff\xda")) < 0:
        raise ValueError("its end is missing")


def too_large(error: Image.DecompressionBombError) -> str:
    """The error for a picture of `pixels` pixels."""
    found = re.search(r"(\d+) pixels", str(error))
    count = f"{int(found[1]) / 1e6:.0f} million" if found else "too many"
    return f"the picture has {count} pixels, {MAX_PIXELS // 1_000_000} million are the most: make it smaller"


def cause(path: Path, error: Exception) -> str:
    """What is wrong with a file that PIL does not read, and what to do."""
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        return "the file is empty"
    if is_heif(path):
        return "a HEIC picture cannot be read: save it as JPEG (telephones can)"
    if not head.startswith(MAGIC) and head[4:12] != b"ftypavif":
        return "cannot be read as a picture (JPEG, PNG, WebP, BMP, TIFF or AVIF)"
    reason = "" if isinstance(error, UnidentifiedImageError) else f" ({' '.join(str(error).split())})"
    return f"the picture is damaged, half downloaded or of an unusual kind{reason}: get it again, or save it as PNG"


def pixels_of(image: Image.Image, longest: int) -> UInt8[np.ndarray, "H W 3"]:
    """All pixels of an open picture, decoded."""
    factor = max(1, max(image.size) // longest)
    image.draft(None, (image.width // factor, image.height // factor))  # JPEGs are decoded smaller
    image.load()
    factor = max(1, max(image.size) // longest)
    to_srgb = profile_of(image)
    result = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top in range(0, image.height, ROWS * factor):
        rows = (0, top, image.width, min(image.height, top + ROWS * factor))
        band = to_srgb(flat(image.crop(rows) if factor > 1 or image.height > ROWS else image))
        result.paste(band.reduce(factor) if factor > 1 else band, (0, top // factor))
    result.thumbnail((longest, longest))
    return np.ascontiguousarray(np.asarray(turned(result, image)))


def flat(image: Image.Image) -> Image.Image:
    """As RGB; transparent parts show the neutral background, not the colours hidden there."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of kind {image.mode}")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    ground = Image.new("RGB", image.size, GROUND)
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def profile_of(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """From the colours of the file (on phones often Display P3) to sRGB; without a profile they are taken as sRGB."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "P"):
        return lambda band: band
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(own).lower():
            return lambda band: band
        transform = ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a broken profile is ignored
        return lambda band: band
    return lambda band: ImageCms.applyTransform(band, transform) or band


def turned(result: Image.Image, image: Image.Image) -> Image.Image:
    """Rotated as the EXIF tag says."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken tags are ignored
        return result
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    result.info["exif"] = exif.tobytes()
    return ImageOps.exif_transpose(result)


def resize(image: UInt8[np.ndarray, "h w 3"], width: int, height: int) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in another size: area averaging if it shrinks, which avoids aliasing, else bicubic."""
    if image.shape[:2] == (height, width):
        return image
    smaller = height < image.shape[0] or width < image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def rescale_points(
    points: Float[np.ndarray, "*F 68 2"], factor: float | Float[np.ndarray, "*f 1 1"]
) -> Float[np.ndarray, "*F 68 2"]:
    """Points in a picture that was enlarged by `factor`; pixel centres are whole numbers in both.

    The picture begins half a pixel before the centre of its first pixel, so 0.5 is added before scaling and subtracted
    after: of two pixels that become one, the centres 0 and 1 are at -0.25 and 0.25 of the new grid.

    >>> points = np.zeros((68, 2))
    >>> points[1] = 1
    >>> rescale_points(points, 0.5)[:2].tolist()
    [[-0.25, -0.25], [0.25, 0.25]]
    """
    return (points + 0.5) * factor - 0.5
