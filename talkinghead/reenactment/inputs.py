"""Checks of what an animation reads and writes, before any work."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talkinghead.names import as_line
from talkinghead.storage import check_file

_FOLDER = Path(__file__).with_name("shipped")
MODELS = {name: _FOLDER / f"{name}.ckpt" for name in ("warp_256", "fsth_64")}  # ship; trained on rendered faces alone
SHIPPED = MODELS["warp_256"]  # the default
LONGEST_NAME = 225  # bytes of a result's name: a file system takes 255, and while it is written its name is longer
MOST_CAMERAS = 1000
_ALSO = {"model": "checkpoint"}  # synonyms


@dataclass(frozen=True)
class Files:
    """The files of one animation, checked.

    Attributes:
        sources: pictures, folders and videos; may be empty where the model is a person
        driving: a video, or the number of a camera
        model: a checkpoint of train.py, or a person model
        output: an mp4
    """

    sources: tuple[Path, ...]
    driving: Path | int
    model: Path
    output: Path

    @property
    def is_shipped(self) -> bool:
        """Whether the model is one that ships with the project."""
        return self.model.resolve() in [path.resolve() for path in MODELS.values()]

    @property
    def inputs(self) -> list[Path]:
        """All files and folders that are read, which no output may overwrite."""
        from talkinghead.models.person_file import files  # noqa: PLC0415, it imports torch, which takes seconds

        model = list(files(self.model)) if self.is_person else [self.model]
        return [*self.sources, *([] if isinstance(self.driving, int) else [self.driving]), *model]

    @property
    def is_person(self) -> bool:
        """Whether the model is a person file, not a checkpoint."""
        return is_person(self.model)


def names_of(given: object) -> list[str]:
    """File names from a config value: none, one, or a list; numbers and words that Hydra parsed become names again."""
    if given is None:
        return []
    return [str(name) for name in given] if isinstance(given, Iterable) and not isinstance(given, str) else [str(given)]


def check_files(sources: Sequence[str], driving: Any, model: Any, output: Any, folder: Path) -> Files:
    """Check and complete the user's files: the default output is in `folder`, the default model is `SHIPPED`.

    Raises:
        FileNotFoundError: that names a missing file.
        ValueError: that names a wrong one.
    """
    for name, value in (("driving", driving), ("checkpoint", model), ("output", output)):
        if not isinstance(value, str | int | None):
            raise ValueError(f"{name}={as_line(value, 80)}: one file, please; only source= takes a list")
    if isinstance(driving, int) and not 0 <= driving < MOST_CAMERAS:
        number = as_line(driving, 40)
        raise ValueError(f"driving={number}: there is no such camera; a file of that name is driving=./{number}")
    model = str(find_model(model))
    if not is_person(Path(model)):
        check_file("checkpoint", model, f"; {' and '.join(MODELS)} ship with the project")
    if driving is None:
        raise ValueError("driving=FILE is needed: a video, or the number of a camera")
    if not isinstance(driving, int):
        check_file("driving", driving)
    if not sources and not is_person(Path(model)):
        raise ValueError("source=FILE is needed: a picture, [a.jpg,b.jpg], a folder of pictures, or a video")
    of = Path(sources[0] if sources else model)
    path = check_output(
        str(output) if output not in (None, "") else folder / default_name(of.stem, Path(str(driving)).stem)
    )
    given = driving if isinstance(driving, int) else Path(driving)
    return Files(tuple(Path(source) for source in sources), given, Path(model), path)


def default_name(source: str, driving: str) -> str:
    """`source_driving.mp4`, each cut to what a file name holds."""
    half = (LONGEST_NAME - len("_.mp4")) // 2
    return "_".join(stem.encode()[:half].decode(errors="ignore") for stem in (source, driving)) + ".mp4"


def check_output(output: str | Path) -> Path:
    """The path of the output. Raises ValueError where no .mp4 can be written there."""
    path = Path(output)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"output={output}: the name of an .mp4 file")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise ValueError(
            f"output={path.name[:40]}…: its name has {len(os.fsencode(path.name))} bytes, {LONGEST_NAME} are the most"
        )
    check_folder(path.absolute().parent)
    return path


def find_model(model: str | Path | None) -> Path:
    """A checkpoint or person model by its path, or one that ships by its name; None: `SHIPPED`."""
    if model is None:
        return SHIPPED
    return Path(model) if is_there(str(model)) else MODELS.get(str(model), Path(model))


def check_folder(folder: Path) -> None:
    """Raise ValueError where the folder is not writable, or cannot be created."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"output: no file can be written in {folder}: {there} is no folder, or not yours to write in")


def is_person(model: Path) -> bool:
    """Whether the two files of a person model exist under that name."""
    from talkinghead.models.person_file import files  # noqa: PLC0415, it imports torch, which takes seconds

    return model.suffix != ".ckpt" and all(file.is_file() for file in files(model))


def file_arguments(given: Sequence[str], names: Sequence[str]) -> list[str]:
    """Command line for Hydra, in which options with these names set `files.<name>`, not config groups of the same name.

    File names are taken literally, also in lists, with blanks, brackets, commas and digits. A number is a camera as
    `driving`, else a name. `model` is a synonym of `checkpoint`, where that is among `names`.
    """
    changed = []
    for argument in given:
        key, separator, value = argument.partition("=")
        key = _ALSO[key] if _ALSO.get(key) in names else key
        changed.append(f"files.{key}={written(value, key)}" if separator and key in names else argument)
    return changed


def with_shipped(given: Sequence[str]) -> list[str]:
    """Command line of train.py or evaluate.py in which a model that ships may be named: `checkpoint=warp_256`.

    A file of that name comes first, as in `find_model`.
    """
    changed = []
    for argument in given:
        key, _, value = argument.partition("=")
        named = key.lstrip("+") in ("checkpoint", "init_from") and find_model(value) == MODELS.get(value)
        changed.append(f"{key}={quoted(str(MODELS[value]))}" if named else argument)
    return changed


def written(value: str, key: str) -> str:
    """The user's file or list of files, quoted for Hydra's grammar."""
    if value in ("", "null") or (key == "driving" and value.isascii() and value.isdecimal()):
        return value
    if is_there(value) or len(value) < 2:
        return quoted(value)
    if value[0] == value[-1] and value[0] in "'\"":
        return value
    if value[0] == "[" and value[-1] == "]":
        return "[" + ",".join(quoted(name) for name in listed(value[1:-1])) + "]"
    return quoted(value)


def listed(inside: str) -> list[str]:
    """The names in a list, split at commas outside quotes, unless a file with a comma in its name exists."""
    parts = [part.strip() for part in re.findall(r"\s*\"[^\"]*\"\s*|\s*'[^']*'\s*|[^,]+", inside)]
    names: list[str] = []
    while parts := [part for part in parts if part]:
        if len(parts[0]) > 1 and parts[0][0] == parts[0][-1] and parts[0][0] in "'\"":
            names.append(parts.pop(0)[1:-1])
            continue
        joined = (
            n for n in range(len(parts), 1, -1) if is_there(",".join(parts[:n])) or is_there(", ".join(parts[:n]))
        )
        many = next(joined, 1)
        together = [glue.join(parts[:many]) for glue in (",", ", ")]
        names.append(next((name for name in together if is_there(name)), together[0]))
        del parts[:many]
    return names


def is_there(name: str) -> bool:
    """Whether a file or folder of that name exists."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a name, or with a zero byte in it
        return False


def quoted(name: str) -> str:
    """A quoted string in Hydra's grammar, with quotes and interpolations escaped."""
    name = re.sub(r"(\\*)\$\{", r"\1\1\\${", name)
    return '"' + re.sub(r'(\\*)("|$)', lambda match: 2 * match[1] + ('\\"' if match[2] else ""), name) + '"'


def dashed(given: Sequence[str], names: Sequence[str]) -> str | None:
    """Advice for a command line with `--source FILE` in place of `source=FILE`; None where there is nothing like it."""
    for n, argument in enumerate(given):
        key, separator, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and (name := key.replace("-", "_")) in {*names, *_ALSO}:
            value = value if separator else next(iter(given[n + 1 :]), "FILE")
            return f"{argument}: options are written without dashes, {name}={value}"
    return None
