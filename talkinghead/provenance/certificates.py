"""The signer: a key and its certificates from a file, or self-signed ones made once per user."""

import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from talkinghead.storage import write_atomic


@dataclass(frozen=True)
class Signer:
    """Signs C2PA manifests: algorithm (`es256`, …), certificate chain and private key as PEM."""

    algorithm: str
    certificates: bytes
    key: bytes = field(repr=False)


def own_certificate() -> Path:
    """This user's self-signed certificate with its key, made on first use; only the user can read it."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "talkinghead"
    path = folder / "signer.pem"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, self_signed(), 0o600)
    return path


def self_signed(years: int = 10) -> bytes:
    """A new P-256 key and a certificate that only says `talkinghead`, as one PEM text."""
    from cryptography import x509  # noqa: PLC0415, an optional dependency
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization as pem  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key, start = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC) - timedelta(hours=1)
    names = {x509.NameOID.ORGANIZATION_NAME: "talkinghead", x509.NameOID.COMMON_NAME: "talkinghead, self-signed"}
    name = x509.Name([x509.NameAttribute(kind, text) for kind, text in names.items()])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=365 * years))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(True, *[False] * 8), critical=True)  # digital signatures only
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    return private + certificate.public_bytes(pem.Encoding.PEM)


def read_signer(path: Path) -> Signer:
    """Read a PEM file with a private key and its certificate chain. Raises ValueError if one of them is missing."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    content = path.read_bytes()
    certificates = b"".join(re.findall(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", content, re.S))
    keys = re.findall(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----\n?", content, re.S)
    if not certificates or len(keys) != 1:
        raise ValueError(f"{path}: a PEM file with one private key and its certificate chain is needed")
    try:
        key = serialization.load_pem_private_key(keys[0], None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: the private key cannot be read, is it encrypted? {error}") from error
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size in (256, 384, 521):
        return Signer({256: "es256", 384: "es384", 521: "es512"}[key.curve.key_size], certificates, keys[0])
    if isinstance(key, rsa.RSAPrivateKey):
        return Signer("ps256", certificates, keys[0])
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return Signer("ed25519", certificates, keys[0])
    raise ValueError(f"{path}: C2PA takes keys on P-256, P-384, P-521, Ed25519, and RSA")
