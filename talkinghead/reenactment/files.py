"""What an animation reads and writes: mistakes that can be seen before any work."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SHIPPED = Path(__file__).with_name("shipped") / "synthetic_64.ckpt"  # experiment=meta_shipped; it has seen no real face


@dataclass(frozen=True)
class Files:
    """The files of one animation, all there.

    sources     pictures, folders and videos; none are needed where the model is a person
    driving     a video, or the number of a camera
    model       a checkpoint of train.py, or a person model
    output      an mp4
    """

    sources: tuple[Path, ...]
    driving: Path | int
    model: Path
    output: Path

    @property
    def is_shipped(self) -> bool:
        """The model is the small one that comes with the project."""
        return self.model.resolve() == SHIPPED.resolve()

    @property
    def is_person(self) -> bool:
        """The model is a person, not a checkpoint."""
        return is_person(self.model)


def check_files(
    sources: Sequence[str], driving: str | int | None, model: str | None, output: str | None, folder: Path
) -> Files:
    """What the user gave, in order. Without an output it lies in `folder`; without a model it is the shipped one.

    Raises ValueError or FileNotFoundError that names what is wrong.
    """
    model = str(SHIPPED) if model is None else model
    if not Path(model).is_file() and not is_person(Path(model)):
        raise FileNotFoundError(f"model={model}: there is no such file")
    if driving is None:
        raise ValueError("driving=FILE is needed: a video, or the number of a camera")
    if not isinstance(driving, int) and not Path(driving).is_file():
        raise FileNotFoundError(f"driving={driving}: there is no such file")
    if not sources and not is_person(Path(model)):
        raise ValueError("source=FILE is needed: a picture, [a.jpg,b.jpg], a folder of pictures, or a video")
    of = Path(sources[0] if sources else model)
    path = Path(output) if output else folder / f"{of.stem}_{Path(str(driving)).stem}.mp4"
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"output={path}: the name of an .mp4 file")
    if path.exists() and any(Path(name).exists() and path.samefile(name) for name in (*sources, str(driving), model)):
        raise ValueError(f"output={path} is a source or the driver: it would be overwritten")
    given = driving if isinstance(driving, int) else Path(driving)
    return Files(tuple(Path(source) for source in sources), given, Path(model), path)


def is_person(model: Path) -> bool:
    """Two files of that name, not a checkpoint."""
    from talkinghead.models.person import files  # noqa: PLC0415, it imports torch, which takes seconds

    return model.suffix != ".ckpt" and all(file.is_file() for file in files(model))


def file_arguments(given: Sequence[str], names: Sequence[str]) -> list[str]:
    """A command line for Hydra in which these names are files, `files.<name>`, not the config groups of the same name.

    The names of files go as they are, with blanks, brackets and commas.
    """
    changed = []
    for argument in given:
        key, separator, value = argument.partition("=")
        if not separator or key not in names:
            changed.append(argument)
            continue
        plainly = value in ("", "null") or value.isdecimal() or value[0] in "['\""
        quoted = '"' + value.replace('"', '\\"') + '"'
        changed.append(f"files.{key}={value if plainly else quoted}")
    return changed
