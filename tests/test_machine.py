"""Locks between processes."""

import errno
import threading
from pathlib import Path

import pytest

from talkinghead import machine

fcntl = pytest.importorskip("fcntl")


def test_who_waits_long_for_a_lock_says_for_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "PATIENCE_S", 0.0)
    with (tmp_path / "x.lock").open("w") as other, (tmp_path / "x.lock").open("w") as mine:
        machine.lock(other)
        assert not caplog.text
        with pytest.raises(BlockingIOError):
            machine.lock(mine, wait=False)
        told, flock = threading.Event(), fcntl.flock

        def blocking(file: object, how: int) -> None:
            if not how & fcntl.LOCK_NB:
                told.set()  # now it waits
            flock(file, how)

        monkeypatch.setattr(fcntl, "flock", blocking)
        waiting = threading.Thread(target=machine.lock, args=(mine,))
        waiting.start()
        assert told.wait(30)
        assert waiting.is_alive()
        flock(other, fcntl.LOCK_UN)
        waiting.join(30)
        assert not waiting.is_alive()
    assert f"at work with {tmp_path / 'x.lock'}" in caplog.text


def test_a_file_system_without_locks_is_not_taken_for_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")  # flock on Lustre, if mounted without it

    held = machine.locked(tmp_path, "training")
    with held, pytest.raises(ValueError, match="another training is at work"), machine.locked(tmp_path, "training"):
        pass
    monkeypatch.setattr(fcntl, "flock", refused)
    words = r"no file locks \(Function not implemented\): mount Lustre with -o flock"
    with pytest.raises(ValueError, match=words), machine.locked(tmp_path, "training"):
        pass
