"""What a picture or video says of its origin: its C2PA manifest, checked, and IPTC's digital source type in its XMP."""

import io
import json
import re
from importlib.util import find_spec
from typing import Any
from xml.etree import ElementTree

IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = {
    "trainedAlgorithmicMedia",
    "compositeWithTrainedAlgorithmicMedia",
    "algorithmicMedia",
    "compositeSynthetic",
}
ASSERTION = "org.talkinghead.generation"
SPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "talkinghead": "urn:talkinghead:provenance",
}
_PACKET = re.compile(rb"<x:xmpmeta\b.*?</x:xmpmeta>", re.DOTALL)


def read(content: bytes) -> list[dict[str, Any]]:
    """What a file says of its origin: the C2PA manifest first, then plain metadata; empty where it says nothing.

    Every statement has `kind`, `generated` (None: it cannot be read here), `digital_source_type` and `about`.
    A C2PA one also has `intact` (file and manifest fit), `trusted` (the signer is known) and `problems`.
    """
    return [*_read_c2pa(content), *_read_xmp(content)]


def media_type(content: bytes) -> str:
    """By the first bytes, not the name. Raises ValueError for what has no place for a statement."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content[4:8] == b"ftyp":
        return "video/mp4"
    raise ValueError("only PNG, JPEG and MP4 have a place for a statement of origin")


def _read_c2pa(content: bytes) -> list[dict[str, Any]]:
    if b"jumdc2pa" not in content:
        return []
    if find_spec("c2pa") is None:
        hint = "there is a C2PA manifest; to read it: pip install 'talkinghead[provenance]'"
        return [_statement("c2pa", None, {}, intact=None, trusted=None, problems=[hint])]
    import c2pa  # noqa: PLC0415, an optional dependency

    try:
        with (
            c2pa.Context.from_dict({"verify": {"remote_manifest_fetch": False}}) as context,
            c2pa.Reader(media_type(content), io.BytesIO(content), context=context) as reader,
        ):
            manifest, state = reader.get_active_manifest() or {}, reader.get_validation_state()
            results = (reader.get_validation_results() or {}).get("activeManifest", {})
    except (c2pa.C2paError, ValueError) as error:
        return [_statement("c2pa", None, {}, intact=False, trusted=False, problems=[str(error)])]
    assertions = manifest.get("assertions", [])
    actions = [
        a for one in assertions if one["label"].startswith("c2pa.actions") for a in one["data"].get("actions", [])
    ]
    return [_statement(
        "c2pa", next((action["digitalSourceType"] for action in actions if "digitalSourceType" in action), ""),
        next((one["data"] for one in assertions if one["label"] == ASSERTION), {}),
        intact=state in ("Valid", "Trusted"), trusted=state == "Trusted",
        signer=manifest.get("signature_info", {}).get("common_name"),
        problems=[failure["code"] for failure in results.get("failure", [])],
    )]  # fmt: skip


def _read_xmp(content: bytes) -> list[dict[str, Any]]:
    statements = []
    for packet in _PACKET.findall(content):
        if b"<!" in packet:  # no entities of strangers
            continue
        try:
            parts = list(ElementTree.fromstring(packet).iter())
            values = {name: text for part in parts for name, text in [(part.tag, part.text), *part.attrib.items()]}
            about = json.loads(values.get(f"{{{SPACES['talkinghead']}}}about") or "{}")
        except (ElementTree.ParseError, json.JSONDecodeError):
            continue
        source_type = values.get(f"{{{SPACES['Iptc4xmpExt']}}}DigitalSourceType")
        if source_type:
            statements.append(_statement("metadata", source_type, about))
    return statements


def _statement(kind: str, source_type: str | None, about: dict[str, Any], **more: Any) -> dict[str, Any]:
    generated = None if source_type is None else source_type.rsplit("/", 1)[-1] in GENERATED
    return {"kind": kind, "generated": generated, "digital_source_type": source_type, **more, "about": about}
