"""Files of a remote data set, fetched and written: transient errors are retried, permanent ones end the run."""

import errno
import hashlib
import http.client
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec
from fsspec.core import url_to_fs

RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
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
_FOR_GOOD = {400, 404, 405, 410, 414, 416}
_HTTP = ("http", "https")
_FLAT = ("s3", "s3a", "gs", "gcs", "az", "abfs", "hf")  # stores without folders; a missing bucket is not ours to make
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError"}
_OWN_MISTAKES = (TypeError, AttributeError, NameError, LookupError, AssertionError)  # bugs, which no retry helps


class DataFault(Exception):
    """The data set as a whole cannot be read, so the run must end; not an error of single clips."""


class WrongContent(OSError):
    """The fetched file is not the one that dataset.json describes."""


class Truncated(OSError):
    """A response was shorter than requested, or a file that was written is not as long as what was sent."""


def refuse_fault(error: Exception, url: str, done: str = "read") -> None:
    """Raise DataFault for an error that all other files would cause too: a full disk, no permission, no memory.

    Args:
        done: what was to be done with the file, for the message
    """
    if (status := http_status(error)) in _REFUSED:
        raise DataFault(f"{url}: {_REFUSED[status]} (HTTP {status}); check your access") from error
    if type(error).__name__ in _NO_CREDENTIALS:
        raise DataFault(f"{url}: no credentials ({error}); log in as the store's own tools want it") from error
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno in _FAULTS):
        advice = _ADVICE.get(error.errno or 0, "check the permissions")
        raise DataFault(f"{url} cannot be {done} ({error}): {advice}") from error


def http_status(error: Exception) -> int | None:
    """The HTTP status code inside an error of any client; None where there was no response."""
    response = getattr(error, "response", None)
    for owner in (error, response):
        for name in ("status", "code", "status_code"):
            if isinstance(status := getattr(owner, name, None), int):
                return status
    if isinstance(response, dict):  # of botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return None


def tries(url: str, done: str = "read") -> Iterator["Try"]:
    """Attempts with pauses in between: `for attempt in tries(url): with attempt: return ...`.

    Errors inside `with` that a retry cannot help are raised at once, others after the last attempt.

    Args:
        done: what is to be done with the file, for the message

    Raises:
        DataFault: where other files could not be read either: no access, a full disk, no network.
        OSError: where there is no such file, or its content stays wrong.
    """
    for delay in (*RETRY_DELAYS_S, None):
        yield Try(url, delay is None, done)
        if delay is not None:
            time.sleep(delay)


class Try(AbstractContextManager):
    """A context manager for one attempt of `tries`: retries, raises or gives up by the kind of error."""

    def __init__(self, url: str, last: bool, done: str) -> None:
        self.url, self.last, self.done = url, last, done

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception) or isinstance(error, (DataFault, *_OWN_MISTAKES)):
            return False
        url = getattr(error, "url_of_block", self.url)
        refuse_fault(error, url, self.done)
        told = str(error) or type(error).__name__
        if isinstance(error, FileNotFoundError) or http_status(error) in _FOR_GOOD:
            raise error if isinstance(error, OSError) else OSError(told) from error
        if self.last and isinstance(error, WrongContent):
            return False
        if self.last:
            raise DataFault(
                f"{url} cannot be {self.done}, tried {len(RETRY_DELAYS_S) + 1} times ({told}): the network or the "
                "server fails. When it works again, go on: training with ckpt_path=<last.ckpt>, prepare.py as before"
            ) from error
        return True


def fetch(url: str, content: tuple[int, str] | None = None) -> BinaryIO:
    """An unnamed temporary copy of a remote file; transient errors are retried.

    Args:
        content: length in bytes and sha256 that the file must have; None: not checked

    Raises:
        DataFault, OSError: as `tries` does.
    """
    for attempt in tries(url):
        with attempt:
            return _fetch_once(url, content)
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
                    break  # longer than announced: it may never end
            missing = getattr(stream, "length", None) if isinstance(stream, http.client.HTTPResponse) else None
        if missing or (content is not None and length < content[0]):
            raise Truncated(f"only {length} bytes of it arrived")
        if content is not None and (length, sha256.hexdigest()) != content:
            told = f"more than {content[0]} bytes" if length != content[0] else "another sha256"
            raise WrongContent(f"not the file that dataset.json describes: {told}")
        copy.flush()
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def _open(url: str) -> AbstractContextManager[BinaryIO]:
    """Open by urllib (http, https), fsspec (its other protocols) or webdataset (commands and the rest)."""
    if url.startswith(("http://", "https://")):
        return urllib.request.urlopen(url, timeout=TIMEOUT_S)
    if is_known(url):
        system, path = file_system(url)
        return system.open(path, "rb")
    import webdataset  # noqa: PLC0415, of the training stack: animating people does without

    return webdataset.gopen(url)


def is_known(url: str) -> bool:
    """Whether fsspec can read it; a `pipe:` command is not known to it."""
    return not url.startswith("pipe:") and url.partition("://")[0] in fsspec.available_protocols()


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, one for each process, and the path there.

    Options (another endpoint, headers, anonymous access) come from fsspec's own configuration.

    Raises:
        DataFault: where the package for such URLs is not installed.
    """
    protocol = url.partition("://")[0]
    options: dict = {}
    if protocol in _HTTP:
        import aiohttp  # noqa: PLC0415, where it is needed

        given = fsspec.config.conf.get(protocol, {})
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True, **given.get("client_kwargs", {})}
        options["headers"] = {**given.get("headers", {}), "Accept-Encoding": "identity"}  # ranges of the file itself
    try:
        return url_to_fs(url, **options)
    except ImportError as error:
        raise DataFault(
            f"{url}: {protocol}:// needs a package that is missing ({error}): pip install 'talkinghead[remote]'"
        ) from error


class RemoteFolder:
    """A folder at a URL that fsspec knows, as `s3://bucket/set`: its files listed, read, written, removed.

    Args:
        url: of the folder, which need not exist

    Raises:
        ValueError: where fsspec does not know such URLs.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if not is_known(self.url):
            known = "s3://, gs://, hf://, https://, file:// and fsspec's others are"
            raise ValueError(f"{url}: no files can be listed or written at such an address; {known}")

    def names(self) -> list[PurePosixPath]:
        """All its files, relative to it, sorted; none where there is no such folder.

        Raises:
            DataFault: without access or network.
        """
        try:
            for attempt in tries(self.url, "listed"):
                with attempt:
                    system, root = file_system(self.url)
                    system.invalidate_cache()
                    root = root.rstrip("/")
                    found = system.find(root)
                    return sorted(PurePosixPath(one.removeprefix(root).lstrip("/")) for one in found)
        except FileNotFoundError:
            return []
        raise AssertionError

    def read(self, name: str) -> bytes:
        """The content of a file. Raises as `fetch` does."""
        with fetch(f"{self.url}/{name}") as copy:
            return copy.read()

    def write(self, name: str, content: bytes | Path) -> None:
        """Write a file: bytes, or a copy of a local file.

        Raises:
            DataFault: where it cannot be written, after retries where they may help.
            ValueError: where files at such an address can only be read.
        """
        url = f"{self.url}/{name}"
        if url.partition("://")[0] in _HTTP:
            raise ValueError(f"{self.url}: files can be read there, but not written")
        try:
            for attempt in tries(url, "written"):
                with attempt:
                    return _write_once(url, content)
        except FileNotFoundError as error:
            raise DataFault(f"{url} cannot be written ({error}): is there such a bucket?") from error

    def remove(self, below: str) -> None:
        """Remove a folder of it, where there is one."""
        for attempt in tries(f"{self.url}/{below}", "removed"):
            with attempt:
                system, path = file_system(f"{self.url}/{below}")
                system.invalidate_cache()
                if system.exists(path):
                    system.rm(path, recursive=True)
                return


def _write_once(url: str, content: bytes | Path) -> None:
    system, path = file_system(url)
    if url.partition("://")[0] not in _FLAT:
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
    if isinstance(content, Path):
        system.put_file(str(content), path)
    else:
        system.pipe_file(path, content)
    length = len(content) if isinstance(content, bytes) else content.stat().st_size
    if system.size(path) not in (None, length):
        raise Truncated(f"{system.size(path)} of its {length} bytes arrived")
