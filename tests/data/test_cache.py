"""The cache of pieces on disk: bounded, shared by processes, never half a piece."""

import multiprocessing
import os
from pathlib import Path

import pytest

from talkinghead.data.cache import DiskCache, on_disk
from talkinghead.data.remote import DataFault

KB = 1 << 10


def size_of(folder: Path) -> int:
    return sum(on_disk(path.stat().st_size) for path in folder.rglob("*") if path.is_file() and path.name != ".size")


def test_pieces_come_back_and_others_do_not(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 1e6)
    assert cache.get("a/0-3") is None
    cache.put({"a/0-3": b"abc", "b/index": b""})
    assert DiskCache(tmp_path / "cache", 1e6).get("a/0-3", 3) == b"abc"
    assert cache.get("b/index") == b""
    assert cache.get("a/0-3", 4) is None  # cut, or of another version


def test_what_was_not_used_for_longest_goes_first_and_an_index_last(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 40 * KB)
    cache.put({f"a/{n}": bytes(4 * KB) for n in range(8)} | {"a/index": bytes(4 * KB)})
    for n in range(8):
        os.utime(tmp_path / f"a/{n}", (1000 + n, 1000 + n))
    os.utime(tmp_path / "a/index", (1, 1))
    os.utime(tmp_path / "a/0", (5000, 5000))
    assert cache.get("a/1") is not None  # which is a use
    cache.put({"b/0": bytes(12 * KB)})
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"0", "1", "5", "6", "7", "index"}
    assert size_of(tmp_path) <= 40 * KB
    cache.put({"b/1": bytes(24 * KB)})
    assert (tmp_path / "a/index").exists()
    assert size_of(tmp_path) <= 40 * KB


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 8 * KB)
    cache.put({"a/0": bytes(4 * KB)})
    cache.put({"a/1": bytes(9 * KB)})
    assert cache.get("a/0") is not None
    assert cache.get("a/1") is None


def test_what_a_killed_process_left_is_removed_and_counted_anew(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 16 * KB)
    cache.put({"a/0": bytes(4 * KB)})
    (tmp_path / "a/.1.abcd.tmp").write_bytes(bytes(400 * KB))
    (tmp_path / ".size").write_text("")  # killed between two writes
    cache.put({"a/1": bytes(4 * KB)})
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"0", "1"}
    assert (tmp_path / ".size").read_text() == str(8 * KB)


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 16 * KB)
    for _ in range(9):
        cache.put({"a/0": bytes(4 * KB)})
    assert (tmp_path / ".size").read_text() == str(4 * KB)


def fill(folder: Path, process: int) -> None:
    cache = DiskCache(folder, 100 * KB)
    for n in range(30):
        name, content = f"{n % 7}/{process % 2}-{n}", bytes([n]) * (3 * KB)
        cache.put({name: content})
        found = cache.get(name, 3 * KB)
        assert found in (None, content)


def test_processes_share_it_within_the_limit(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(tmp_path, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert 0 < size_of(tmp_path) <= 100 * KB
    assert int((tmp_path / ".size").read_text()) == size_of(tmp_path)


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = DiskCache(tmp_path / "file", 1e6)
    for use in (lambda: cache.put({"a/0": b"x"}), lambda: cache.get("a/0")):
        with pytest.raises(DataFault, match=r"^data\.cache_dir=.*lower data\.cache_gb"):
            use()
