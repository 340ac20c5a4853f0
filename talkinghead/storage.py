"""Writing a file so that readers see the old one or the new one, never half."""

import os
import secrets
from pathlib import Path


def write_atomic(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write under a temporary name, then rename. Missing folders are made; `mode` holds from the first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
