"""Pictures of all sorts are read as what they show, whole or not at all, within bounds."""

import struct
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from talkinghead.data.reader import UnusableClip
from talkinghead.evaluation.stills import read_square
from talkinghead.faces.crop import Framing
from talkinghead.images import GROUND, MAX_PIXELS, UnreadableImage, is_image, read_image
from talkinghead.preparation.clip import prepare_clip
from talkinghead.preparation.frames import read_stills
from talkinghead.preparation.sources import Unit
from talkinghead.reenactment.source import read_source
from tests.helpers.preparation_videos import GreenFace, green_frame
from tests.preparation.test_clip import SETTINGS


def colours(height: int = 60, width: int = 80) -> np.ndarray:
    """A smooth picture of many colours."""
    few = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(few, (width, height), interpolation=cv2.INTER_CUBIC)


def png_header(width: int, height: int) -> bytes:
    """A PNG of which little more than its header is there."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + bytes([0, 0, 9, 0])
        + b"IDAT"
    )


@pytest.mark.parametrize(
    ("name", "mode", "error"),
    [
        ("a.png", "RGB", 0), ("a.png", "L", 0), ("a.png", "1", 0), ("a.png", "P", 0), ("a.jpg", "RGB", 3),
        ("a.jpg", "CMYK", 3), ("a.webp", "RGB", 6), ("a.bmp", "RGB", 0), ("a.tif", "RGB", 0), ("a.tif", "CMYK", 0),
        ("a.avif", "RGB", 6),
    ],
)  # fmt: skip
def test_kinds_of_pictures(tmp_path: Path, name: str, mode: str, error: float) -> None:
    image = Image.fromarray(colours()).convert(mode)
    image.save(tmp_path / name, quality=95)
    found = read_image(tmp_path / name).astype(int)
    assert np.abs(found - np.asarray(image.convert("RGB"))).mean() <= error


def test_sixteen_bits_are_the_same_picture_in_eight(tmp_path: Path) -> None:
    image = colours()
    cv2.imwrite(str(tmp_path / "rgb.png"), image[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "grey.png"), image[..., 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.png"), image)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.repeat(image[..., :1], 3, -1))


@pytest.mark.parametrize("width", [80, 5000])
def test_transparent_parts_are_grey_whatever_lies_hidden_there(tmp_path: Path, width: int) -> None:
    """In a picture that is made smaller, too: hidden colours do not bleed over the edge."""
    image = np.zeros((60, width, 4), np.uint8)
    image[..., :3] = (255, 0, 255)
    image[:, width // 2 :] = (10, 200, 30, 255)
    image[:, : width // 4, 3] = 128
    Image.fromarray(image).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")
    at = found.shape[1] // 8
    np.testing.assert_allclose(found[5, at], (192, 64, 192), atol=2)  # half transparent
    np.testing.assert_array_equal(found[5, 3 * at], GROUND)
    np.testing.assert_array_equal(found[5, 6 * at], (10, 200, 30))
    edge = found[5, 4 * at - 2 : 4 * at + 2]
    assert (edge[:, 0] <= 128).all(), "no magenta"


def test_transparency_of_palettes_and_of_one_colour(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((8, 8, 3), (255, 0, 0), np.uint8))
    image.save(tmp_path / "key.png", transparency=(255, 0, 0))
    image.convert("P").save(tmp_path / "palette.png", transparency=image.convert("P").getpixel((0, 0)))
    for name in ("key.png", "palette.png"):
        assert (read_image(tmp_path / name) == GROUND).all(), name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jpg", {}), ("a.jpg", {"progressive": True}), ("a.png", {}), ("a.webp", {}), ("a.bmp", {}), ("a.tif", {}),
        ("a.tif", {"compression": "tiff_lzw"}), ("a.avif", {}),
    ],
)  # fmt: skip
def test_half_a_picture_is_none(tmp_path: Path, name: str, options: dict) -> None:
    path = tmp_path / name
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path, **options)
    content = path.read_bytes()
    for share in (0.5, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(UnreadableImage, match=rf"a\{path.suffix}: the picture is damaged, half downloaded"):
            read_image(path)
    assert read_stills([path]).broken.keys() == {name}


def test_a_jpeg_whose_rest_is_zeros_is_half_a_picture(tmp_path: Path) -> None:
    """So do some downloads look until they are complete; decoders read the zeros as grey."""
    path = tmp_path / "a.jpg"
    Image.fromarray(colours(400, 400)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) // 2))
    with pytest.raises(UnreadableImage, match="its end is missing"):
        read_image(path)
    path.write_bytes(content + bytes(500))  # all there, and more
    assert read_image(path).shape == (400, 400, 3)


def test_enormous_pictures_are_refused_by_their_headers(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), colours()[..., ::-1])
    content = (tmp_path / "a.jpg").read_bytes()
    frame = content.index(b"\xff\xc0") + 5
    (tmp_path / "a.jpg").write_bytes(content[:frame] + struct.pack(">HH", 65500, 65500) + content[frame + 4 :])
    (tmp_path / "a.png").write_bytes(png_header(100_000, 10_000))
    (tmp_path / "b.png").write_bytes(png_header(MAX_PIXELS // 1000 + 1, 1000))
    tracemalloc.start()
    for name, count in (("a.jpg", 4290), ("a.png", 1000), ("b.png", 120)):
        with pytest.raises(UnreadableImage, match=rf"{name}: the picture has {count} million pixels, 120 million are"):
            read_image(tmp_path / name)
        with pytest.raises(UnusableClip, match="million pixels"):
            read_square(tmp_path / name)
        with pytest.raises(ValueError, match="million pixels"):
            read_source([tmp_path / name], GreenFace(), Framing())
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_large_pictures_are_made_smaller(tmp_path: Path, name: str) -> None:
    image = colours(300, 9000)
    Image.fromarray(image).save(tmp_path / name, quality=95)
    found = read_image(tmp_path / name)
    assert found.shape == (137, 4096, 3)
    np.testing.assert_allclose(found, cv2.resize(image, (4096, 137), interpolation=cv2.INTER_AREA), atol=20)
    assert read_image(tmp_path / name, longest=9000).shape == image.shape


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_pictures_are_seen_as_the_camera_was_held(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :20] = (200, 0, 0)
    Image.fromarray(image).save(tmp_path / name, exif=exif)
    found = read_image(tmp_path / name)
    assert found.shape == (60, 40, 3)
    assert found[5, 20, 0] > 180
    assert found[40, 20, 0] < 30


def swapped() -> bytes:
    """A profile of colours in which red and blue change places."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    table = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
    for place in range(132, 132 + 12 * struct.unpack(">I", profile[128:132])[0], 12):
        tag = profile[place : place + 4]
        profile = profile[:place] + table.get(tag, tag) + profile[place + 4 :]
    return profile.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))


def test_colours_are_those_of_the_profile(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((8, 8, 3), (200, 40, 10), np.uint8))
    image.save(tmp_path / "own.png", icc_profile=swapped())
    image.save(tmp_path / "broken.png", icc_profile=b"none")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "srgb.png", icc_profile=srgb)
    np.testing.assert_allclose(read_image(tmp_path / "own.png")[0, 0], (10, 40, 200), atol=3)
    for name in ("broken.png", "srgb.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name)[0, 0], (200, 40, 10))


def test_what_is_no_picture_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "a.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(100))
    (tmp_path / "folder.png").mkdir()
    for name, words in (
        ("text.png", "cannot be read as a picture"), ("empty.jpg", "the file is empty"), ("a.heic", "save it as JPEG"),
        ("gone.png", "there is no such picture"), ("folder.png", "there is no such picture"),
    ):  # fmt: skip
        with pytest.raises(UnreadableImage, match=rf"{name}: .*{words}"):
            read_image(tmp_path / name)
    assert is_image(tmp_path / "a.heic")
    assert not is_image(tmp_path / "text.png")


def test_damaged_pictures_end_in_one_kind_of_error(tmp_path: Path) -> None:
    """One byte after the other of small files is changed."""
    random = np.random.default_rng(0)
    told = []
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        whole = BytesIO()
        Image.fromarray(colours(12, 12)).save(whole, kind)
        for place in random.choice(len(whole.getvalue()), 60):
            content = bytearray(whole.getvalue())
            content[place] = random.integers(256)
            (tmp_path / "a").write_bytes(content)
            try:
                assert read_image(tmp_path / "a").ndim == 3
            except UnreadableImage as error:
                told.append(str(error))
    assert told
    assert not [line for line in told if "\n" in line]


def test_a_bad_picture_costs_itself_alone(tmp_path: Path) -> None:
    for n in range(3):
        cv2.imwrite(str(tmp_path / f"{n}.png"), green_frame(120, 160, 40 + n, 30, 50)[..., ::-1])
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:150])
    (tmp_path / "3.png").write_bytes(png_header(100_000, 10_000))
    told: list[str] = []
    portraits = read_source([tmp_path], GreenFace(), Framing(), tell=told.append)
    assert [Path(portrait.name).name for portrait in portraits] == ["0.png", "2.png"]
    assert [Path(line.split(": ")[1]).name for line in told] == ["1.png", "3.png"]
    shot = read_stills(sorted(tmp_path.iterdir()))
    assert shot.numbers == [0, 2]
    assert shot.broken.keys() == {"1.png", "3.png"}


def test_many_large_stills_are_not_all_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is decoded again; the samples are the same."""
    for n in range(12):
        cv2.imwrite(str(tmp_path / f"{n:02d}.png"), green_frame(96 + n, 128, 10 + n, 20, 40)[..., ::-1])
    unit = Unit("train", "a", "a", "a", tuple(map(str, sorted(tmp_path.iterdir()))), "stills")
    (whole,) = prepare_clip(unit, "a", 0, GreenFace(), SETTINGS).clips
    monkeypatch.setattr("talkinghead.preparation.frames.MEMORY", 3 * 96 * 128 * 3 + 10_000)
    pictures = read_stills([Path(path) for path in unit.paths]).images
    assert sum(isinstance(item, Path) for item in pictures._items) == 9
    (less,) = prepare_clip(unit, "a", 0, GreenFace(), SETTINGS).clips
    assert less.frames == whole.frames
    assert less.meta == whole.meta
