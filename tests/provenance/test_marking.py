"""What a mark is made of: IPTC's terms, XML that holds any word, and files that others' readers take for whole."""

import io
import json
import struct
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image

from talkinghead.provenance.marking import OriginStatement, find_signer, marked, xmp_packet
from talkinghead.provenance.reading import read
from tests.helpers.preparation_videos import write_clip

IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
WORDS = {"note": 'a < b & "c" > d', "seed": 3, "name": "Zoë ]]>"}
SOURCE_TYPE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def picture(ending: str) -> bytes:
    content = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8)
    return cv2.imencode(ending, content)[1].tobytes()


@pytest.mark.parametrize(("statement", "term"), [
    (OriginStatement(), "trainedAlgorithmicMedia"),
    (OriginStatement(composite=True), "compositeWithTrainedAlgorithmicMedia"),
    (OriginStatement(learned=False), "algorithmicMedia"),
    (OriginStatement(composite=True, learned=False), "algorithmicMedia"),
])  # fmt: skip
def test_each_kind_of_origin_has_its_term_of_the_iptc(statement: OriginStatement, term: str) -> None:
    assert statement.source_type == IPTC + term
    (said,) = read(marked(picture(".png"), statement))
    assert (said["digital_source_type"], said["generated"]) == (IPTC + term, True)


def test_a_packet_is_xml_whatever_words_the_statement_has() -> None:
    packet = xmp_packet(OriginStatement(about=WORDS)).decode()
    assert packet.startswith("<?xpacket begin=")
    assert packet.endswith('<?xpacket end="w"?>'), "a program may change it in place"
    (description,) = ElementTree.fromstring(packet).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    values = {element.tag: element.text for element in description}
    assert json.loads(values["{urn:talkinghead:provenance}about"] or "") == WORDS
    assert values[SOURCE_TYPE] == IPTC + "trainedAlgorithmicMedia"
    assert str(values["{http://ns.adobe.com/xap/1.0/}CreatorTool"]).startswith("talkinghead ")


@pytest.mark.parametrize(("ending", "place"), [(".png", "XML:com.adobe.xmp"), (".jpg", "xmp")])
def test_another_programs_reader_finds_the_packet_and_the_same_pixels(ending: str, place: str) -> None:
    plain, statement = picture(ending), OriginStatement(about=WORDS)
    with Image.open(io.BytesIO(marked(plain, statement))) as image, Image.open(io.BytesIO(plain)) as before:
        assert image.format == {".png": "PNG", ".jpg": "JPEG"}[ending]
        image.load()  # checks the sums of all chunks of a PNG
        found = image.info[place]
        assert (found if isinstance(found, bytes) else found.encode()) == xmp_packet(statement)
        assert np.array_equal(np.asarray(image), np.asarray(before))


def boxes(content: bytes) -> list[tuple[bytes, int, int]]:
    """(kind, begin, size) of the outermost boxes of an MP4."""
    found, at = [], 0
    while at < len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        found.append((kind, at, size))
        at += size
    assert at == len(content)
    return found


def test_a_video_has_one_more_box_at_its_end_and_no_byte_moves(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4")
    plain = (tmp_path / "a.mp4").read_bytes()
    content = marked(plain, OriginStatement())
    assert content[: len(plain)] == plain, "the index tells where frames are by their distance from the start"
    assert boxes(content)[:-1] == boxes(plain)
    kind, at, _ = boxes(content)[-1]
    assert (kind, at) == (b"uuid", len(plain))
    assert content[at + 8 : at + 24].hex() == "be7acfcb97a942e89c71999491e3afac", "Adobe's, of XMP"
    assert content[at + 24 :] == xmp_packet(OriginStatement())


def test_asking_for_plain_metadata_makes_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert find_signer("metadata") is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="there is no such file"):
        find_signer("metadata", tmp_path / "none.pem")
