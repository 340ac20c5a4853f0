"""Generated files say so, by XMP and by C2PA; what was changed afterwards is noticed; recordings say nothing."""

import io
import json
import re
import stat
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from talkinghead.cli import animate
from talkinghead.provenance import OriginStatement, Signer, find_signer, mark, marked, read
from talkinghead.provenance.__main__ import main
from talkinghead.provenance.certificates import own_certificate, self_signed
from talkinghead.reenactment.side_by_side import Column, labelled, write_sheet
from talkinghead.video.writer import VideoWriter
from tests.cli.test_animate import config, files  # noqa: F401, the fixture

CARD = OriginStatement(about={"method": "ft", "seed": 3})
IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"


@pytest.fixture
def signer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signer:
    pytest.importorskip("c2pa")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    found = find_signer()
    assert found is not None
    return found


@pytest.fixture(params=[".png", ".jpg", ".mp4"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that says nothing."""
    path = tmp_path / f"plain{request.param}"
    if path.suffix == ".mp4":
        write_movie(path, None, None)
    else:
        cv2.imwrite(str(path), IMAGE)
    return path


def write_movie(path: Path, card: OriginStatement | None, signer: Signer | None) -> None:
    with VideoWriter(path, 64, 48, Fraction(25), Fraction(1, 25), card=card, signer=signer) as movie:
        for n in range(4):
            movie.write(IMAGE, n)


def pixels(path: Path) -> np.ndarray:
    if path.suffix != ".mp4":
        return cv2.imread(str(path))
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_plain_metadata_needs_nothing_and_changes_no_pixel(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = pixels(plain)
    assert read(plain.read_bytes()) == []
    assert main([str(plain)]) == 1
    mark(plain, CARD)
    np.testing.assert_array_equal(pixels(plain), before)
    assert main([str(plain)]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["kind"], said["generated"], said["about"]) == ("metadata", True, CARD.about)
    assert said["digital_source_type"] == SOURCE_TYPE + "trainedAlgorithmicMedia"
    assert [path.name for path in plain.parent.iterdir()] == [plain.name]
    with pytest.raises(ValueError, match="says already"):
        mark(plain, CARD)


def test_a_signed_file_is_intact_and_its_signer_unknown(plain: Path, signer: Signer) -> None:
    before = pixels(plain)
    mark(plain, OriginStatement(composite=True, about=CARD.about), signer)
    np.testing.assert_array_equal(pixels(plain), before)
    manifest, metadata = read(plain.read_bytes())
    assert (manifest["kind"], manifest["generated"], manifest["signer"]) == ("c2pa", True, "talkinghead, self-signed")
    assert (manifest["intact"], manifest["trusted"]) == (True, False)
    assert manifest["problems"] == ["signingCredential.untrusted"]
    assert manifest["about"].items() > CARD.about.items()
    for said in (manifest, metadata):
        assert said["digital_source_type"] == SOURCE_TYPE + "compositeWithTrainedAlgorithmicMedia"
    assert main([str(plain)]) == 0


def test_a_changed_file_is_noticed(plain: Path, signer: Signer) -> None:
    kept = plain.read_bytes()
    changed = bytearray(marked(kept, CARD, signer))
    at = bytes(changed).rindex(
        kept[-120:-100] if plain.suffix == ".png" else kept[-20:] if plain.suffix == ".jpg" else b"mdat"
    )
    changed[at + 12] ^= 1  # one bit of the picture
    plain.write_bytes(changed)
    manifest = read(bytes(changed))[0]
    assert manifest["intact"] is False
    assert any("ash.mismatch" in problem for problem in manifest["problems"])
    assert main([str(plain)]) == 2


def test_changed_words_are_noticed(signer: Signer) -> None:
    content = marked(cv2.imencode(".png", IMAGE)[1].tobytes(), CARD, signer)
    manifest = read(re.sub(b"not a recording", b"yes a recording", content))[0]
    assert manifest["intact"] is False


def test_without_c2pa_there_is_metadata_and_a_hint(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    content = cv2.imencode(".png", IMAGE)[1].tobytes()
    signed = marked(content, CARD, signer)
    monkeypatch.setitem(sys.modules, "c2pa", None)
    assert find_signer("auto") is None
    with pytest.raises(ValueError, match="pip install"):
        find_signer("c2pa")
    manifest, metadata = read(signed)
    assert (manifest["generated"], metadata["generated"]) == (None, True)
    assert "pip install" in manifest["problems"][0]


def test_the_key_is_made_once_and_only_the_user_reads_it(signer: Signer, tmp_path: Path) -> None:
    path = own_certificate()
    assert path == tmp_path / "config" / "talkinghead" / "signer.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert find_signer("c2pa") == signer
    assert "PRIVATE" not in repr(signer)
    (tmp_path / "other.pem").write_bytes(self_signed())
    assert find_signer("c2pa", tmp_path / "other.pem") != signer
    (tmp_path / "half.pem").write_bytes(signer.certificates)
    with pytest.raises(ValueError, match="one private key"):
        find_signer("auto", tmp_path / "half.pem")
    (tmp_path / "mixed.pem").write_bytes(signer.certificates + read_key(tmp_path / "other.pem"))
    with pytest.raises(ValueError, match=r"mixed\.pem: "):
        find_signer("auto", tmp_path / "mixed.pem")
    with pytest.raises(ValueError, match="choose auto"):
        find_signer("none")


def test_a_home_that_cannot_be_written_to_costs_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("c2pa")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    assert find_signer("auto") is None
    with pytest.raises(OSError, match="file"):
        find_signer("c2pa")


def read_key(path: Path) -> bytes:
    return path.read_bytes().split(b"-----BEGIN CERT")[0]


def test_strangers_are_read_and_broken_files_refused() -> None:
    attribute = 'xmlns:I="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" I:DigitalSourceType'
    camera, other = (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r {attribute}="{SOURCE_TYPE}{kind}"/></x:xmpmeta>'.encode()
        for kind in ("digitalCapture", "compositeSynthetic")
    )
    assert [said["generated"] for said in read(camera) + read(other)] == [False, True]
    assert read(camera.replace(b"/></x", b"></x")) == []
    with pytest.raises(ValueError, match="PNG, JPEG and MP4"):
        marked(b"GIF89a", CARD)


def test_a_movie_has_its_name_only_when_it_says_so(tmp_path: Path, signer: Signer) -> None:
    write_movie(tmp_path / "recording.mp4", None, None)
    assert main([str(tmp_path / "recording.mp4")]) == 1
    with pytest.raises(ValueError, match="C2PA cannot sign"):
        write_movie(tmp_path / "a.mp4", CARD, Signer("es384", signer.certificates, signer.key))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config", "recording.mp4"]


def test_animate_says_so_in_both_files_and_visibly(files: Path, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("c2pa")
    (tmp_path / "own.pem").write_bytes(self_signed())
    options = [f"output={tmp_path}/out.mp4", "max_frames=2", "look.mark=true", "look.sheet=1", "look.size=128"]
    video = animate.run(config(files, *options, "provenance=c2pa", f"certificate={tmp_path}/own.pem"))
    kinds = {}
    for path in (video, video.with_suffix(".png")):
        manifest, metadata = read(path.read_bytes())
        assert manifest["intact"]
        assert manifest["about"].items() > metadata["about"].items() > {"method": "ff"}.items()
        kinds[path.suffix] = metadata["digital_source_type"].rsplit("/", 1)[-1]
    assert kinds == {".mp4": "trainedAlgorithmicMedia", ".png": "compositeWithTrainedAlgorithmicMedia"}
    corner = pixels(video)[0, -20:, :90]
    assert corner.max() > 200, "white letters"
    assert np.median(corner) < 110, "on a dark strip"


def test_a_sheet_says_so_without_being_told(tmp_path: Path) -> None:
    write_sheet(tmp_path / "sheet.png", None, [Column(IMAGE, IMAGE, IMAGE)], tile=40)
    assert read((tmp_path / "sheet.png").read_bytes())[0]["generated"]


def test_the_visible_mark_stays_in_its_corner() -> None:
    grey = np.full((256, 256, 3), 128, np.uint8)
    changed = (labelled(grey) != grey).any(-1)
    assert changed[-24:, :140].any()
    assert not changed[:-24].any()
    assert not changed[:, 140:].any()


PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:t="urn:talkinghead:provenance" '
    "e:DigitalSourceType=\"trainedAlgorithmicMedia\" t:about='{about}'/></rdf:RDF></x:xmpmeta>"
)


class Counted(bytes):
    """Bytes that count how many are looked through."""

    looked = 0

    def find(self, part: bytes, start: int = 0, *rest: int) -> int:  # type: ignore[override]
        found = super().find(part, start, *rest)
        Counted.looked += (len(self) if found < 0 else found) - start
        return found


def test_packets_are_searched_in_one_go() -> None:
    """A pattern with two ends looks through the rest of the file from each beginning: hours for 300 kB."""
    content = Counted(b"\xff\xd8\xff" + b"<x:xmpmeta " * 27_000)
    Counted.looked = 0
    assert read(content) == []
    assert 0 < Counted.looked <= 3 * len(content)


@pytest.mark.parametrize("about", ["[" * 100_000, "9" * 5_000, '{"seed": ' + "9" * 5_000 + "}", "not json", "[1]", "7"])
def test_odd_words_about_the_making_are_left_out(about: str) -> None:
    statements = read(b"\xff\xd8\xff" + PACKET.replace("{about}", about.replace('"', "&quot;")).encode())
    assert [statement["about"] for statement in statements] in ([], [{}])


def test_of_many_packets_the_first_count_and_huge_ones_do_not() -> None:
    packet = PACKET.replace("{about}", "{}").encode()
    assert len(read(b"\xff\xd8\xff" + packet * 3)) == 3
    assert len(read(b"\xff\xd8\xff" + packet * 1_000)) == 16
    assert read(b"\xff\xd8\xff" + packet.replace(b"<rdf:RDF", b" " * (1 << 20) + b"<rdf:RDF")) == []


@pytest.mark.parametrize("name", ["picture.webp", "picture.tiff", "picture.gif"])
def test_manifests_in_other_pictures_are_read(name: str, tmp_path: Path, signer: Signer) -> None:
    import c2pa  # noqa: PLC0415, an optional dependency

    Image.fromarray(IMAGE).save(path := tmp_path / name)
    kind, target = f"image/{path.suffix[1:]}", io.BytesIO()
    action = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE + "trainedAlgorithmicMedia"}
    assertions = [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]
    manifest = {"claim_generator_info": [{"name": "test"}], "assertions": assertions}
    info = c2pa.C2paSignerInfo(signer.algorithm, signer.certificates, signer.key, None)
    with c2pa.Signer.from_info(info) as by, c2pa.Builder(manifest) as builder:
        builder.sign(by, kind, io.BytesIO(path.read_bytes()), target)
    (statement,) = read(target.getvalue())
    assert (statement["generated"], statement["intact"]) == (True, True)


def test_what_cannot_be_read_is_not_told_as_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("c2pa")
    (path := tmp_path / "film.mkv").write_bytes(b"\x1aE\xdf\xa3" + b"jumdc2pa" * 9)
    assert main([str(path)]) == 1
    assert json.loads(capsys.readouterr().out)["intact"] is None


def test_a_remuxed_video_still_says_so_in_its_comment(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 64, 48, Fraction(25), Fraction(1, 25), card=OriginStatement()) as movie:
        for n in range(3):
            movie.write(IMAGE, n)
    with av.open(tmp_path / "a.mp4") as source, av.open(str(tmp_path / "b.mp4"), "w") as target:
        target.metadata.update(source.metadata)
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    (statement,) = read((tmp_path / "b.mp4").read_bytes())
    assert (statement["kind"], statement["generated"]) == ("comment", True)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no file"):
        main([str(tmp_path)])


def test_a_certificate_that_is_not_there_names_the_option(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pem", tmp_path):
        with pytest.raises(ValueError, match=r"^certificate=.*: there is no such file"):
            find_signer("metadata", path)
