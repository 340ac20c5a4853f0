"""Pictures and videos that say of themselves that they were generated, and the reader of such statements.

Two layers: an XMP packet with IPTC's digital source type, always, and over it, where a signer is given, a C2PA manifest
whose signature covers the whole file.
"""

from talkinghead.provenance.certificates import Signer
from talkinghead.provenance.marking import CLAIM, OriginStatement, find_signer, mark, marked
from talkinghead.provenance.reading import read

__all__ = ["CLAIM", "OriginStatement", "Signer", "find_signer", "mark", "marked", "read"]
