"""Marking a file as generated: always in XMP, and in a signed C2PA manifest if there is a signer."""

import io
import json
import logging
import struct
import zlib
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from xml.sax.saxutils import escape

from talkinghead.provenance.certificates import Signer, own_certificate, read_signer
from talkinghead.provenance.reading import ASSERTION, CLAIM, IPTC, SPACES, media_type, read
from talkinghead.storage import write_atomic

_logger = logging.getLogger(__name__)

KINDS = ("auto", "c2pa", "metadata")
_XMP_BOX = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")  # XMP specification part 3: the uuid box of MP4
_TINY = bytes.fromhex(  # one grey pixel as PNG: a signer is tried before hours of work
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6368000000820081dd436af40000000049454e44ae426082"
)


@dataclass(frozen=True)
class OriginStatement:
    """What a file says about its making.

    Attributes:
        composite: it also contains recorded or painted pixels: a pasted face, panels of source and driver
        about: how it was made; nothing about who made it or who is shown
        learned: False: drawn by an algorithm that did not learn from pictures, like the synthetic heads
    """

    composite: bool = False
    about: dict[str, str | int | float] = field(default_factory=dict)
    learned: bool = True

    @property
    def source_type(self) -> str:
        """IPTC's digital source type, a URI."""
        if not self.learned:
            return IPTC + "algorithmicMedia"
        return IPTC + ("compositeWithTrainedAlgorithmicMedia" if self.composite else "trainedAlgorithmicMedia")


def find_signer(kind: str = "auto", certificate: Path | None = None) -> Signer | None:
    """The signer; None: plain metadata only.

    Args:
        kind: `c2pa`, `metadata`, or `auto`: c2pa if it is installed
        certificate: PEM file of a private key and its certificate chain; None: self-signed, made once for this user

    Raises:
        ValueError: c2pa is requested but unavailable, or the certificate cannot sign.
    """
    if kind not in KINDS:
        raise ValueError(f"provenance={kind}: choose {', '.join(KINDS)}")
    if certificate is not None and not certificate.is_file():
        raise ValueError(f"certificate={certificate}: there is no such file")
    installed = find_spec("c2pa") is not None
    if kind == "metadata" or (kind == "auto" and not installed and certificate is None):
        return None
    if not installed:
        raise ValueError("c2pa-python is not installed: pip install 'talkinghead[provenance]', or provenance=metadata")
    try:
        path = certificate or own_certificate()
    except OSError as error:  # a home directory that is not writable
        if kind == "c2pa":
            raise
        _logger.warning("no C2PA manifest, plain metadata only: %s", error)
        return None
    signer = read_signer(path)
    try:
        _sign(_TINY, OriginStatement(), signer)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return signer


def mark(path: Path, card: OriginStatement, signer: Signer | None = None) -> None:
    """Mark a finished PNG, JPEG or MP4 as generated. After a failure the file is unchanged.

    The file is held in memory. Raises ValueError for other files, and for one that is already marked.
    """
    write_atomic(path, marked(path.read_bytes(), card, signer))


def marked(content: bytes, card: OriginStatement, signer: Signer | None = None) -> bytes:
    """The bytes of a picture or video, marked as generated."""
    media_type(content)
    if any(statement["generated"] and statement["kind"] != "comment" for statement in read(content)):
        raise ValueError("this file says already that it was generated")
    content = _with_xmp(content, xmp_packet(card))
    return content if signer is None else _sign(content, card, signer)


def xmp_packet(card: OriginStatement) -> bytes:
    """IPTC's digital source type, the program and the statement, as XMP."""
    spaces = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in SPACES.items())
    values = {
        "Iptc4xmpExt:DigitalSourceType": card.source_type, "xmp:CreatorTool": f"talkinghead {_version()}",
        "talkinghead:claim": CLAIM, "talkinghead:about": json.dumps(card.about, sort_keys=True),
    }  # fmt: skip
    elements = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in values.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF {spaces}><rdf:Description rdf:about="">{elements}</rdf:Description></rdf:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>'
    ).encode()


def _with_xmp(content: bytes, packet: bytes) -> bytes:
    kind = media_type(content)
    if kind == "image/png":  # after the header, 8 + 25 bytes
        chunk = b"iTXtXML:com.adobe.xmp" + bytes(5) + packet
        return (
            content[:33]
            + struct.pack(">I", len(chunk) - 4)
            + chunk
            + struct.pack(">I", zlib.crc32(chunk))
            + content[33:]
        )
    if kind == "image/jpeg":
        segment = b"http://ns.adobe.com/xap/1.0/\0" + packet
        return content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:]
    return content + struct.pack(">I", 24 + len(packet)) + b"uuid" + _XMP_BOX + packet  # at the end: no offset changes


def _sign(content: bytes, card: OriginStatement, signer: Signer) -> bytes:
    import c2pa  # noqa: PLC0415, an optional dependency

    action = {"action": "c2pa.created", "digitalSourceType": card.source_type, "description": CLAIM}
    manifest = {
        "claim_generator_info": [{"name": "talkinghead", "version": _version()}],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [action]}},
            {"label": ASSERTION, "data": {"claim": CLAIM, **card.about}},
        ],
    }
    signed = io.BytesIO()
    info = c2pa.C2paSignerInfo(signer.algorithm, signer.certificates, signer.key, None)
    try:
        with (
            c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}}) as context,
            c2pa.Signer.from_info(info) as by, c2pa.Builder(manifest, context) as builder,
        ):  # fmt: skip
            builder.sign(by, media_type(content), io.BytesIO(content), signed)
    except c2pa.C2paError as error:
        raise ValueError(f"C2PA cannot sign: {error}") from error
    return signed.getvalue()


def _version() -> str:
    try:
        return version("talkinghead")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
