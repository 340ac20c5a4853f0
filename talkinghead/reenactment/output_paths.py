"""Output files: never overwrite an input, nor a file of other programs; remove temporary files of killed runs."""

import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from talkinghead.models.person_file import FORMAT, files
from talkinghead.provenance.reading import SPACES
from talkinghead.reenactment.inputs import LONGEST_NAME
from talkinghead.reenactment.source import IMAGE_SUFFIXES
from talkinghead.storage import check_writable

MARK = SPACES["talkinghead"].encode()  # in the XMP of every file that this program writes
LEFTOVER = re.compile(r"\.+[^/]+\.(mp4|png)(\.[0-9a-f]{8}\.tmp)+")  # as video.writer and write_atomic name them
IDLE = 3600.0  # seconds after which a temporary file is abandoned


def check_targets(inputs: Iterable[Path], output: Path, sheet: bool, person: str | Path | None = None) -> None:
    """Check that no output overwrites an input or a file that this program has not made.

    Args:
        inputs: all files and folders that are read
        output: the video
        sheet: whether its contact sheet is written beside it
        person: the name of a person model to write

    Raises:
        ValueError: that names the first such file, or a folder that cannot be written to.
    """
    check_writable(output.parent)
    given = list(inputs)
    made = [output, *([output.with_suffix(".png")] if sheet else [])]
    for path in made:
        more = "" if path == output else f" (the contact sheet of output={output}; look.sheet=0: none)"
        _keep_inputs(path, given, more)
        keep_others(path, more)
    if sheet and any(path.is_dir() and output.parent.resolve() == path.resolve() for path in given):
        raise ValueError(f"output={output}: its contact sheet would become a source: choose another folder")
    if person:
        check_person(person, given)


def check_person(name: str | Path, inputs: Iterable[Path] = ()) -> None:
    """Check the name of a person to write: its two files overwrite no input, and no file that is not a person's.

    Raises:
        ValueError: that names the file, or a folder that is given as the name or cannot be written to.
    """
    if Path(name).is_dir() or str(name).endswith(("/", "/.")) or not str(name):
        raise ValueError(f"save_person={name}: a folder: give the name of a file in it, as {Path(name) / 'anna'}")
    check_writable(Path(name).parent)
    weights, card = files(name)
    if len(os.fsencode(weights.name)) > LONGEST_NAME:
        raise ValueError(f"save_person={weights.name[:40]}…: the name is too long: {LONGEST_NAME} bytes are the most")
    for path in (weights, card):
        _keep_inputs(path, list(inputs), f" (save_person={name})")
    if (weights.exists() or card.exists()) and not _is_card(card):
        there = card if card.exists() else weights
        raise ValueError(f"save_person={name}: {there} is there and is no person: give another name")


def keep_others(path: Path, more: str = "") -> None:
    """Raises ValueError where a picture or video exists that this program has not made. `more`: for the message."""
    if path.is_dir():
        raise ValueError(f"{path}{more} is a folder: give the output another name")
    if path.is_file() and (content := path.read_bytes()) and MARK not in content:
        raise ValueError(f"{path}{more} is there and was not made by this program: give the output another name")


def _keep_inputs(path: Path, inputs: list[Path], more: str) -> None:
    """Raises ValueError where the file is one of the inputs, or a picture inside one."""
    if not path.exists():
        return
    for one in inputs:
        inside = [p for p in one.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES] if one.is_dir() else [one]
        if any(file.exists() and path.samefile(file) for file in inside):
            raise ValueError(f"{path}{more} is read, as source, driver or model: it would be overwritten")


def _is_card(path: Path) -> bool:
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(card, dict) and card.get("format") == FORMAT


def stamp(path: Path) -> tuple[int, int] | None:
    """Identifies the present file of this name: a replaced file has another stamp. None where there is none."""
    return (about.st_ino, about.st_mtime_ns) if path.is_file() and (about := path.stat()) else None


def sweep(folder: Path, idle: float = IDLE) -> list[Path]:
    """Remove temporary files of killed runs in the folder, which were not written to for `idle` seconds.

    Returns the removed paths.
    """
    if not folder.is_dir():
        return []
    old = []
    for path in folder.iterdir():
        if LEFTOVER.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            try:
                if time.time() - path.stat().st_mtime > idle:
                    path.unlink()
                    old.append(path)
            except OSError:  # another run removed it, or we may not
                continue
    return old
