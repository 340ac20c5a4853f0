"""Video files as players show them: colours, pixel shape, transparency; and never another file than the given one."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from talkinghead.faces.crop import Framing
from talkinghead.images import GROUND
from talkinghead.preparation.clip import prepare_clip
from talkinghead.preparation.sources import Folder
from talkinghead.reenactment.inputs import SHIPPED
from talkinghead.reenactment.source import read_source
from talkinghead.studio.uploads import Limits, Refused, check_video
from talkinghead.video.colours import ToRGB, display_size
from talkinghead.video.container import MAX_PIXELS, VIDEO_SUFFIXES, NoVideo, open_media
from talkinghead.video.reader import Video, reason
from talkinghead.video.writer import VideoWriter
from tests.helpers.preparation_videos import GreenFace, green_frame, write_clip, write_video
from tests.preparation.test_clip import SETTINGS
from tests.video.test_writer import Fraction, driver_of, render, write_sounding

KR_KB = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # ITU-R BT.2087
SKIN = np.array([200, 140, 110])


def yuv(rgb: np.ndarray, matrix: str, bits: int = 8, full: bool = False) -> list[int]:
    """Y'CbCr codes of R'G'B' from 0 to 1."""
    kr, kb = KR_KB[matrix]
    y = float(rgb @ [kr, 1 - kr - kb, kb])
    chroma = (rgb[2] - y) / (2 - 2 * kb), (rgb[0] - y) / (2 - 2 * kr)
    scale = 2 ** (bits - 8)
    if full:
        return [round(255 * scale * y), *(round(255 * scale * c + 128 * scale) for c in chroma)]
    return [round((219 * y + 16) * scale), *(round((224 * c + 128) * scale) for c in chroma)]


def plain(codes: list[int], pixels: str, width: int = 32, height: int = 32, **tags: int) -> av.VideoFrame:
    """A frame of one colour; `tags` as FFmpeg numbers them."""
    frame = av.VideoFrame(width, height, pixels)
    kind = np.dtype("<u2" if "10le" in pixels else "u1")
    for plane, code in zip(frame.planes, codes, strict=True):
        plane.update(np.full(plane.buffer_size // kind.itemsize, code, kind).tobytes())
    for name, value in tags.items():
        setattr(frame, name, value)
    return frame


def linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB of 0 to 255 as light, 1 is white."""
    value = rgb / 255
    return np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)


def pq(nits: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084."""
    y = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg(nits: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100 HLG on a display of 1,000 cd/m2, whose system gamma is 1.2."""
    luminance = float(nits @ [0.2627, 0.6780, 0.0593])
    scene = nits / 1000 * (luminance / 1000) ** (1 / 1.2 - 1)
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073)


@pytest.mark.parametrize(
    ("matrix", "full", "pixels", "tags", "size"),
    [
        ("601", False, "yuv420p", {"colorspace": 6}, 32), ("601", False, "yuv420p", {"colorspace": 5}, 32),
        ("709", False, "yuv420p", {"colorspace": 1}, 32), ("2020", False, "yuv420p", {"colorspace": 9}, 32),
        ("601", False, "yuv420p", {"colorspace": 2}, 576), ("709", False, "yuv420p", {"colorspace": 2}, 720),
        ("709", True, "yuv420p", {"colorspace": 1, "color_range": 2}, 32), ("601", True, "yuvj420p", {}, 32),
        ("709", False, "yuv444p10le", {"colorspace": 1}, 32),
    ],
)  # fmt: skip
def test_colours_of_ordinary_video(matrix: str, full: bool, pixels: str, tags: dict[str, int], size: int) -> None:
    """What is not tagged is BT.709 from 720 lines on, and BT.601 below."""
    codes = yuv(SKIN / 255, matrix, 10 if "10le" in pixels else 8, full)
    found = ToRGB(size, size)(plain(codes, pixels, size, size, **tags))
    np.testing.assert_allclose(found[5, 5], SKIN, atol=3)


def test_hdr_is_the_picture_that_it_was_before(tmp_path: Path) -> None:
    """PQ as films and telephones have it: white of SDR is 203 cd/m2 (ITU-R BT.2408)."""
    codes = yuv(pq(203 * TO_BT2020 @ linear(SKIN)), "2020", 10)
    with av.open(str(tmp_path / "hdr.mkv"), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries, context.color_range = 9, 16, 9, 1
        out.mux(stream.encode(plain(codes, "yuv420p10le", 64, 64, colorspace=9, color_trc=16, color_primaries=9)))
        out.mux(stream.encode())
    with Video(tmp_path / "hdr.mkv") as video:
        ((_, image),) = video.read([0])
    np.testing.assert_allclose(image[30, 30], SKIN, atol=6)


@pytest.mark.slow
@pytest.mark.parametrize("tags", [{"colorspace": 9, "color_primaries": 9}, {"colorspace": 2, "color_primaries": 2}])
def test_hlg_too(tags: dict[str, int]) -> None:
    codes = yuv(hlg(203 * TO_BT2020 @ linear(SKIN)), "2020", 10)
    found = ToRGB(32, 32)(plain(codes, "yuv420p10le", color_trc=18, color_range=1, **tags))
    np.testing.assert_allclose(found[5, 5], SKIN, atol=8)


@pytest.mark.slow
def test_wide_primaries_become_ordinary_ones() -> None:
    """Telephones' Display P3: a colour that both have is the same light."""
    p3 = np.array([[0.8225, 0.1774, 0.0], [0.0332, 0.9669, 0.0], [0.0171, 0.0724, 0.9108]]) @ linear(SKIN)
    coded = np.where(p3 > 0.0031308, 1.055 * p3 ** (1 / 2.4) - 0.055, 12.92 * p3)
    tags = {"colorspace": 1, "color_trc": 13, "color_primaries": 12, "color_range": 1}
    found = ToRGB(32, 32)(plain(yuv(coded, "709", 10), "yuv420p10le", **tags))
    np.testing.assert_allclose(found[5, 5], SKIN, atol=7)  # 9 off where they are ignored


def test_colours_that_cannot_be_read_are_told() -> None:
    with pytest.raises(ValueError, match="stored as ICtCp"):
        ToRGB(32, 32)(plain([500, 500, 500], "yuv420p10le", colorspace=14))


def test_hidden_colours_of_video_stay_hidden(tmp_path: Path) -> None:
    image = np.zeros((40, 40, 4), np.uint8)
    image[:] = (255, 0, 255, 0)
    image[:20] = (10, 200, 30, 255)
    frames = [Image.fromarray(np.roll(image, n, 1)) for n in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=40)
    with Video(tmp_path / "a.gif") as video:
        found = next(video.read([0]))[1]
    np.testing.assert_allclose(found[5, 5], (10, 200, 30), atol=8)
    np.testing.assert_array_equal(found[30, 5], GROUND)
    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 4), (200, 100, 0, 128), np.uint8), format="rgba")
    np.testing.assert_allclose(ToRGB(32, 32)(frame)[5, 5], (164, 114, 64), atol=1)


def write_anamorphic(path: Path, width: int, height: int, shape: Fraction, num_frames: int = 10) -> None:
    """A square of 40 x 40 px as shown, in pixels of this shape; the stored frame is `width` x `height`."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.sample_aspect_ratio = shape
        for n in range(num_frames):
            image = np.full((height, width, 3), 40, np.uint8)
            across, down = (round(40 / shape), 40) if shape > 1 else (40, round(40 * shape))
            image[20 : 20 + down, 20 + n : 20 + n + across] = (20, 220, 20)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())


@pytest.mark.parametrize(
    ("shape", "shown"), [(Fraction(4, 3), (96, 171)), (Fraction(2, 1), (96, 256)), (Fraction(1, 2), (192, 128))]
)
def test_pixels_that_are_not_square(tmp_path: Path, shape: Fraction, shown: tuple[int, int]) -> None:
    """In drivers, sources, preparation and the result: nothing is squeezed."""
    write_anamorphic(tmp_path / "a.mp4", 128, 96, shape)
    with Video(tmp_path / "a.mp4") as video:
        image = next(video.read([0]))[1]
    assert image.shape[:2] == shown
    left, top, right, bottom = GreenFace().boxes(image)[0]
    assert abs((right - left) - 40) <= 2
    assert abs((bottom - top) - 40) <= 2
    driver = driver_of(tmp_path / "a.mp4")
    np.testing.assert_allclose(np.ptp(driver.points, 1).mean(0), np.ptp(driver.points, 1).mean(), atol=1.5)
    (portrait,) = read_source([tmp_path / "a.mp4"], GreenFace(), Framing(), shots=1)
    assert portrait.image.shape[:2] == shown
    (unit,) = Folder(str(tmp_path), {"train": "."}).units()
    (clip,) = prepare_clip(unit, "a", 0, GreenFace(), SETTINGS).clips
    assert abs(clip.meta["crop"][2] - 1.7 * 40) <= 2
    render(driver, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio in (None, 1)
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    left, top, right, bottom = GreenFace().boxes(picture)[0]
    assert abs((right - left) - (bottom - top)) <= 2


def test_pixels_of_impossible_shapes_are_square() -> None:
    assert display_size(128, 96, 1.0) == (128, 96)
    assert display_size(128, 96, 1000.0) == (128, 96)
    assert display_size(128, 96, 0.001) == (128, 96)


def test_a_frame_of_another_size_is_shown_as_large_as_the_others() -> None:
    to_rgb = ToRGB(64, 64)
    assert to_rgb(plain([100, 128, 128], "yuv420p", 32, 48)).shape == (64, 64, 3)
    free = ToRGB(0, 0)
    assert free(plain([100, 128, 128], "yuv420p", 32, 48)).shape == (48, 32, 3)


def rewrap(path: Path, target: Path, codec: str, container: str | None = None) -> None:
    """The same frames as another file."""
    with av.open(str(path)) as source, av.open(str(target), "w", format=container) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height = source.streams.video[0].width, source.streams.video[0].height
        stream.pix_fmt, stream.gop_size, stream.bit_rate = "yuv420p", 5, 4_000_000
        for n, frame in enumerate(source.decode(video=0)):
            frame.pts, frame.time_base = n, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("a.flv", "flv", None), ("a.h264", "libx264", None), ("a.avi", "mpeg4", None), ("a.mpg", "mpeg2video", None),
        ("a.ts", "libx264", None), ("a.wmv", "wmv2", "asf"), ("a.3gp", "h263", None), ("a.ogv", "libtheora", "ogg"),
        ("a.gif", "gif", None), ("a.webm", "libvpx", None), ("a.m4v", "mpeg4", "m4v"), ("a.mxf", "mpeg2video", None),
    ],
)  # fmt: skip
def test_kinds_of_video_files(tmp_path: Path, name: str, codec: str, container: str | None) -> None:
    """Also those that cannot be sought in: every frame, and single ones out of the middle; drivers and preparation."""
    write_clip(tmp_path / "clip.mp4", 20, height=144, width=176)
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg is built without {codec}")
    if codec == "gif":
        frames = [Image.fromarray(green_frame(144, 176, 20 + n, 30, 40)) for n in range(20)]
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=40)
    else:
        rewrap(tmp_path / "clip.mp4", tmp_path / name, codec, container)
    (tmp_path / "clip.mp4").unlink()
    with Video(tmp_path / name) as video:
        assert video.num_frames == 20
        for numbers in ([13], [2, 18], list(range(20))):
            found = {n: GreenFace().boxes(image)[0, 0] * 176 / image.shape[1] for n, image in video.read(numbers)}
            assert found.keys() == set(numbers)
            assert all(abs(left - 20 - n) <= 1.2 for n, left in found.items()), found
    assert len(driver_of(tmp_path / name).points) == 20
    assert (tmp_path / name).suffix in VIDEO_SUFFIXES
    (unit,) = Folder(str(tmp_path), {"train": "."}).units()
    (clip,) = prepare_clip(unit, "a", 0, GreenFace(), SETTINGS).clips
    assert len(clip.frames) == 10


SCRIPTS = {
    "concat": "ffconcat version 1.0\nfile clip.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nclip.mp4\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
}


@pytest.mark.parametrize("kind", SCRIPTS)
@pytest.mark.parametrize("name", ["x.mp4", "x.m3u8", "x.mkv"])
def test_scripts_and_playlists_open_no_other_file(tmp_path: Path, kind: str, name: str) -> None:
    """Whoever reads: drivers, sources, preparation, sound, the studio."""
    write_clip(tmp_path / "clip.mp4", 12)
    (tmp_path / name).write_text(SCRIPTS[kind])
    words = "is no video file: playlists, scripts|cannot be read as"
    with pytest.raises(ValueError, match=words):
        driver_of(tmp_path / name)
    with pytest.raises(ValueError, match=words):
        read_source([tmp_path / name], GreenFace(), Framing())
    with (
        pytest.raises((NoVideo, av.FFmpegError)),
        VideoWriter(tmp_path / "o.mp4", 64, 64, Fraction(25), Fraction(1, 25), tmp_path / name),
    ):
        pass
    with pytest.raises(Refused):
        check_video(tmp_path / name, Limits())
    units = [unit for unit in Folder(str(tmp_path), {"train": "."}).units() if unit.paths[0].endswith(name)]
    for unit in units:
        assert prepare_clip(unit, "a", 0, GreenFace(), SETTINGS).drops[0].reason == "unreadable"
    assert not (tmp_path / "o.mp4").exists()


def test_names_that_ffmpeg_would_take_for_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a|b.mp4", "http:x.mp4", "pipe:0", "%03d.mp4", "-i.mp4"):
        write_clip(tmp_path / "clip.mp4", 3)
        (tmp_path / "clip.mp4").rename(tmp_path / name)
        with Video(Path(name)) as video:
            assert video.num_frames == 3


def test_what_is_no_video_is_told_so(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "anna.jpg")
    Image.new("RGB", (64, 64)).save(tmp_path / "anna.avif")
    (tmp_path / "anna.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(100))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    write_sounding(tmp_path / "av.mp4", list(range(0, 400, 40)))
    with av.open(str(tmp_path / "av.mp4")) as source, av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as out:
        sound = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = sound
                out.mux(packet)
    picture = r"it is a picture, not a video"
    for name, words in (
        ("anna.jpg", picture), ("anna.avif", picture), ("anna.heic", picture), ("empty.mp4", "the file is empty"),
        ("song.m4a", "it holds sound but no video"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"{name}: .*{words}"):
            driver_of(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        open_media(tmp_path / "folder.mp4")
    assert reason(FileNotFoundError(2, "x")) == "cannot be read as a video (x)"


def test_enormous_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are decoded: where the header tells their size, and where only the decoder sees it."""
    content = (
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes([0x80, 0, 0]) + bytes(6) + b"\x21\xf9\x04\0\x04\0\0\0"
    )
    content += b"\x2c" + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\0\x02\x02\x44\x01\0\x3b"
    (tmp_path / "huge.gif").write_bytes(content)
    with pytest.raises(ValueError, match=r"huge\.gif: cannot be read as a video"):
        driver_of(tmp_path / "huge.gif")
    assert MAX_PIXELS > 7680 * 4320, "8K is fine"
    write_clip(tmp_path / "clip.mp4", 3)
    monkeypatch.setattr("talkinghead.video.container.MAX_PIXELS", 128 * 96 - 1)
    with pytest.raises(ValueError, match=r"clip\.mp4: its frames have 128 x 96 pixels"):
        driver_of(tmp_path / "clip.mp4")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_half_a_video_shows_whole_frames_or_is_refused(tmp_path: Path, name: str) -> None:
    """Cut anywhere, no frame is grey or torn."""
    still = np.random.default_rng(0).integers(60, 200, (12, 16, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    frames = [np.roll(still, 5 * n, 1) for n in range(8)]
    write_video(tmp_path / name, frames, crf="20", movflags="+faststart")
    content, read, refused = (tmp_path / name).read_bytes(), 0, 0
    for length in range(len(content) // 4, len(content), len(content) // 25):
        (tmp_path / name).write_bytes(content[:length])
        try:
            with Video(tmp_path / name) as video:
                for n, image in video.read(range(video.num_frames)):
                    assert np.abs(image.astype(int) - frames[n]).mean() < 12, (length, n)
                    read += 1
        except (av.FFmpegError, ValueError) as error:
            refused += "half downloaded" in reason(error)
    assert read + refused > 5


def test_a_picture_is_known_by_its_content(tmp_path: Path) -> None:
    """Whatever its name; and a video, too."""
    Image.fromarray(green_frame(120, 160, 60, 30, 50)).save(tmp_path / "portrait", "PNG")
    write_video(tmp_path / "clip.mp4", [green_frame(96, 128, 20, 30, 40)] * 3)
    (tmp_path / "clip.mp4").rename(tmp_path / "clip")
    portraits = read_source([tmp_path / "portrait", tmp_path / "clip"], GreenFace(), Framing())
    assert [Path(portrait.name).name for portrait in portraits] == ["portrait", *(f"clip, frame {n}" for n in range(3))]


def test_a_half_downloaded_video_says_how_much_is_missing(tmp_path: Path) -> None:
    """Its header comes first, so that it can be read as far as it goes."""
    whole = SHIPPED.parent / "drivers/calm.mp4"
    content = whole.read_bytes()
    (tmp_path / "half.mp4").write_bytes(content[: len(content) // 2])
    with Video(whole) as video:
        assert (video.announced, video.missing) == (video.num_frames, 0)
        frames = video.num_frames
    with Video(tmp_path / "half.mp4") as video:
        assert 0 < video.num_frames < frames
        assert (video.announced, video.missing) == (frames, frames - video.num_frames)


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_an_animated_picture_is_told_as_that(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.full((32, 32, 3), 40 * n, np.uint8)) for n in range(3)]
    frames[0].save(tmp_path / f"moving.{suffix}", save_all=True, append_images=frames[1:], duration=40)
    with pytest.raises(ValueError, match="it is an animated picture, of a kind that is not read"):
        Video(tmp_path / f"moving.{suffix}")
