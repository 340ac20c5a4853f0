"""Statements inside pictures and videos that they were generated, and the reader of such statements.

Two layers: always an XMP packet with IPTC's digital source type and, if there is a signer, a C2PA manifest whose
signature covers the whole file.
"""

from talkinghead.provenance.certificates import Signer
from talkinghead.provenance.marking import CLAIM, OriginStatement, find_signer, mark, marked
from talkinghead.provenance.reading import read

__all__ = ["CLAIM", "OriginStatement", "Signer", "find_signer", "mark", "marked", "read"]
