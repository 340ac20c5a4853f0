"""Fetching files of a remote data set: what passes is tried again, what does not ends the run."""

import errno
import hashlib
import http.client
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import AbstractContextManager
from typing import BinaryIO

RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
TIMEOUT_S = 60.0
_CHUNK = 1 << 20
_FAULTS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE,
    errno.ENOMEM,
}  # fmt: skip
_ADVICE = {
    errno.ENOSPC: "make room there, or set TMPDIR to a disk with more of it, or lower data.window",
    errno.EDQUOT: "make room there, or set TMPDIR to a disk with more of it, or lower data.window",
    errno.EFBIG: "the limit of file sizes (ulimit -f, or that of the file system) is too low; set TMPDIR elsewhere",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or lower data.window",
    errno.ENFILE: "raise the limit of open files (ulimit -n), or lower data.window",
}
_REFUSED = {401: "not authorised", 403: "forbidden", 407: "the proxy wants a password"}
_FOR_GOOD = {400, 404, 405, 410, 414}


class DataFault(Exception):
    """Nothing is wrong with a clip: the data as a whole cannot be read, and a run must not go on without it."""


class WrongContent(OSError):
    """What arrived is not the file that dataset.json describes."""


def refuse_fault(error: Exception, url: str) -> None:
    """Raise DataFault for an error that every other file would meet too: a full disk, no permission, no memory."""
    if isinstance(error, urllib.error.HTTPError):
        if error.code in _REFUSED:
            raise DataFault(f"{url}: {_REFUSED[error.code]} (HTTP {error.code}); check your access") from error
    elif isinstance(error, OSError) and error.errno in _FAULTS:
        advice = _ADVICE.get(error.errno, "check the permissions")
        raise DataFault(f"{url} cannot be read ({error}): {advice}") from error


def fetch(url: str, content: tuple[int, str] | None = None) -> BinaryIO:
    """A nameless temporary copy of a remote file, tried again after a pause where that may help.

    Args:
        content: bytes and sha256 that the file must have; None: whatever comes

    Raises DataFault at once where trying again cannot help any file, OSError when the file did not come.
    """
    for delay in (*RETRY_DELAYS_S, None):
        try:
            return _fetch_once(url, content)
        except (OSError, http.client.HTTPException) as error:
            refuse_fault(error, url)
            gone = isinstance(error, urllib.error.HTTPError) and error.code in _FOR_GOOD
            if gone or delay is None:
                raise error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}") from error
            time.sleep(delay)
    raise AssertionError


def _fetch_once(url: str, content: tuple[int, str] | None) -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115, closed by the caller
    try:
        sha256, length = hashlib.sha256(), 0
        with _open(url) as stream:
            while chunk := stream.read(_CHUNK):
                copy.write(chunk)
                sha256.update(chunk)
                length += len(chunk)
                if content is not None and length > content[0]:
                    break  # whatever it is, it does not end
            missing = getattr(stream, "length", None)
        if missing:
            raise WrongContent(f"{missing} bytes of it did not arrive")
        if content is not None and (length, sha256.hexdigest()) != content:
            told = f"{length} bytes instead of {content[0]}" if length != content[0] else "another sha256"
            raise WrongContent(f"not the file that dataset.json describes: {told}")
        copy.flush()
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def _open(url: str) -> AbstractContextManager[BinaryIO]:
    """Web addresses by urllib, which tells one failure from another; all else by webdataset."""
    if url.startswith(("http://", "https://")):
        return urllib.request.urlopen(url, timeout=TIMEOUT_S)
    import webdataset  # noqa: PLC0415, of the training stack: animating people does without

    return webdataset.gopen(url)
