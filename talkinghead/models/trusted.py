"""Safe building from configs inside files: a stranger's checkpoint is data, and never decides which code runs.

The config inside a checkpoint names classes. Before a section is built, `trusted` makes a copy of it in which each
`_target_` is one of `TARGETS`, each argument is one that the target has, and each value is a plain number, string, list
or dict within bounds. Paths in files are ignored: pretrained networks are searched in the folders of this run.
"""

import importlib
import inspect
import math
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

import torch
from torch import Tensor, nn

from talkinghead.pretrained import weights_folder

_MODELS = {
    "fsth": ("Embedder", "Generator", "Discriminator"),
    "warp_guided": ("WarpGuidedGenerator",),
    "x2face": ("EmbeddingNetwork", "DrivingNetwork"),
    "pix2pixhd": ("GlobalGenerator", "LocalEnhancer", "MultiScaleDiscriminator", "WeightedLayers"),
    "backbones": ("vgg19", "vgg16", "vggface", "mobilenet_v2", "LaplacianPyramid", "RandomFeatures", "Pixels"),
    "facenet": ("facenet_synthetic",),
}
_LEARNERS = {"x2face": ("X2FaceLearner",), "pix2pixhd": ("Pix2PixHDLearner",)}
TARGETS = frozenset(
    [
        "talkinghead.losses.ContentLoss",
        *(f"talkinghead.models.{module}.{name}" for module, names in _MODELS.items() for name in names),
        *(f"talkinghead.learners.{module}.{name}" for module, names in _LEARNERS.items() for name in names),
    ]
)
RENAMED = {  # in files of older versions
    "talkinghead.losses.perceptual.ContentLoss": "talkinghead.losses.ContentLoss",
    "talkinghead.preparation.build.PreparedVideos": "talkinghead.preparation.folder_data_set.PreparedVideos",
}
LARGEST = {"image_size": 2048, "num_videos": 20_000_000}  # by the argument's name
LARGEST_OTHER, LONGEST_LIST, LONGEST_STRING, DEEPEST = 8192, 64, 200, 8
OUTDATED = ("weights_dir",)  # arguments that files of earlier versions name
DROPPED = ("metrics",)  # not built for a baseline's learner: this run measures with its own


def trusted(section: Any, where: str) -> Any:
    """A copy of a section of a file's config that is safe to build.

    A `path` in it is searched in this machine's folder of pretrained networks, by its name alone.

    Args:
        section: nested dicts and lists from the file.
        where: file and section, for messages.

    Raises:
        ValueError: for a target that is not listed, an argument that it does not have, or a value out of bounds.
    """
    if not isinstance(section, Mapping):
        raise ValueError(
            f"{where} is {type(section).__name__}, not a section: the file is not a checkpoint of train.py"
        )
    return _checked(section, where, 0)


def plain_numbers(section: Any, where: str) -> dict[str, Any]:
    """A section of plain numbers, strings and lists, which builds nothing. ValueError for values out of bounds."""
    if not isinstance(section, Mapping) or "_target_" in section:
        raise ValueError(f"{where} is not a section of plain numbers")
    return _section(section, where, 0)


def _checked(node: Any, where: str, depth: int) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"{where}: nested too deeply for a config of ours")
    if isinstance(node, Mapping):
        return _section(node, where, depth)
    if isinstance(node, list | tuple):
        if len(node) > LONGEST_LIST:
            raise ValueError(f"{where}: a list of {len(node)}; at most {LONGEST_LIST} are plausible")
        return [_checked(value, f"{where}[{n}]", depth + 1) for n, value in enumerate(node)]
    return _plain(node, where)


def _section(node: Mapping[Any, Any], where: str, depth: int) -> dict[str, Any]:
    if len(node) > LONGEST_LIST or not all(isinstance(key, str) and len(key) <= LONGEST_STRING for key in node):
        raise ValueError(f"{where}: not a section of ours: keys are names, and at most {LONGEST_LIST}")
    arguments = _arguments(node, where) if "_target_" in node else None
    copy: dict[str, Any] = {}
    for key, value in node.items():
        at = f"{where}.{key}"
        if key == "_target_":
            copy[key] = RENAMED.get(value, value)
        elif key == "_convert_" and value in ("none", "partial", "object", "all"):
            copy[key] = value
        elif key.startswith("_"):
            raise ValueError(f"{at}: a file may not say how it is built; this key is refused")
        elif key in OUTDATED:
            continue
        elif arguments is not None and key not in arguments:
            raise ValueError(f"{at}: {node['_target_'].rsplit('.', 1)[1]} has no such argument")
        elif key == "path":
            copy[key] = _local(value, at)
        else:
            copy[key] = None if key in DROPPED and arguments else _checked(value, at, depth + 1)
    return copy


def _arguments(node: Mapping[Any, Any], where: str) -> frozenset[str]:
    """The names of a target's arguments; raises ValueError for a target that is not listed."""
    target = node["_target_"]
    target = RENAMED.get(target, target) if isinstance(target, str) else None
    if target not in TARGETS:
        raise ValueError(
            f"{where}._target_ is {str(node['_target_'])[:80]!r}, which is not a network or loss of this project: "
            "the file is refused, nothing of it was run"
        )
    return arguments_of(target)


@cache
def arguments_of(target: str) -> frozenset[str]:
    """The names of a listed target's arguments."""
    module, name = target.rsplit(".", 1)
    return frozenset(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


def _local(value: Any, where: str) -> str | None:
    """The file of that name in this machine's folder of weights; else None, so that the usual places are searched."""
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > 4096:
        raise ValueError(f"{where} is no path")
    found = weights_folder() / Path(value.replace("\0", "")).name
    return str(found) if found.is_file() else None


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        largest = LARGEST.get(where.rsplit(".", 1)[-1], LARGEST_OTHER)
        if not math.isfinite(value) or abs(value) > largest:
            raise ValueError(f"{where} is {value:.6g}; at most {largest} is plausible")
        return value
    if isinstance(value, str):
        if len(value) > LONGEST_STRING or "${" in value:
            raise ValueError(f"{where}: {value[:60]!r} is no plain word; a file may not refer to anything outside it")
        return value
    raise ValueError(f"{where} is a {type(value).__name__}: only numbers, words, lists and sections are taken")


def built(section: Any, where: str) -> Any:
    """Build what a section describes, after `trusted` has returned it.

    Raises:
        FileNotFoundError: where a pretrained network is missing.
        ValueError: where the numbers do not make a network, in one line.
    """
    try:
        return _assembled(section)
    except Exception as error:  # numbers from a stranger's file can raise anything
        cause = error.__cause__ or error
        if isinstance(cause, FileNotFoundError):
            raise cause from None
        reason = (str(cause) or type(cause).__name__).splitlines()[0][:200]
        raise ValueError(f"{where} cannot be built: {reason}") from None


def _assembled(node: Any) -> Any:
    """Call each `_target_`, which must be in `TARGETS`, with the arguments in its section, innermost first."""
    if isinstance(node, Mapping):
        values = {key: _assembled(value) for key, value in node.items() if not key.startswith("_")}
        if "_target_" not in node:
            return values
        if node["_target_"] not in TARGETS:
            raise ValueError(f"{node['_target_']} is not on the list")
        module, name = node["_target_"].rsplit(".", 1)
        target = getattr(importlib.import_module(module), name)
        _check_roles(target, values)
        return target(**values)
    return [_assembled(value) for value in node] if isinstance(node, list | tuple) else node


def _check_roles(target: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that must be a certain network, and is another one or none at all."""
    for name, parameter in inspect.signature(target).parameters.items():
        wanted = parameter.annotation
        wanted = get_args(wanted) if isinstance(wanted, UnionType) else (wanted,)
        networks = tuple(one for one in wanted if isinstance(one, type) and issubclass(one, nn.Module))
        value, empty = values.get(name), NoneType in wanted and values.get(name) is None
        if name in values and networks and not (empty or isinstance(value, networks)):
            raise ValueError(f"{name} is {type(value).__name__}, not {' or '.join(one.__name__ for one in networks)}")


def read_checkpoint(path: str | Path, option: str = "checkpoint", mmap: bool = False) -> dict[str, Any]:
    """A checkpoint as nested dicts of plain values and tensors; no code in it is run. `mmap`: tensors stay on disk.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is not a checkpoint of this project, or is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{option}={path}: there is no such checkpoint")
    if damage := _damage(path):
        raise ValueError(f"{option}={path} is damaged ({damage}): copy it again")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{option}={path} is not a checkpoint of this project, or holds objects that loading would run: "
            "it is refused"
        ) from None
    except Exception as error:  # other bytes raise many kinds of errors
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ValueError(f"{option}={path} is no checkpoint, or not whole ({reason}): copy it again") from None
    if not isinstance(checkpoint, dict) or not is_state(checkpoint.get("state_dict")):
        raise ValueError(f"{option}={path} holds no `state_dict` of weights: it is not a checkpoint of train.py")
    return checkpoint


def _damage(path: str | Path) -> str | None:
    """What is wrong with the archive that a checkpoint is, and torch does not check; None where nothing is.

    A compressed part, which torch.save never writes, could be a thousand times as large as the file.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            for part in parts.infolist():
                if part.compress_type != zipfile.ZIP_STORED or part.file_size > Path(path).stat().st_size:
                    return f"its part {part.filename[:80]!r} is compressed"
            wrong = parts.testzip()
            return f"the checksum of {wrong!r} differs" if wrong else None
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError, zlib.error, ValueError):
        return None  # no such archive: torch says what is wrong


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is on the CPU, dense, and has bytes for all its values: none is expanded, sparse or empty."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def is_state(state: Any) -> bool:
    """Whether a value is a dictionary of tensors by name."""
    return isinstance(state, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())


def weights_of(checkpoint: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The weights of a checkpoint, averaged ones where it has them. Raises ValueError where one is NaN or infinite."""
    average = (checkpoint.get("ema") or {}).get("state_dict") if isinstance(checkpoint.get("ema"), Mapping) else None
    if average is not None and not is_state(average):
        raise ValueError(
            f"{where}: its averaged weights (`ema`) are not tensors by name: it is not a checkpoint of train.py"
        )
    state = {**checkpoint["state_dict"], **(average or {})}
    for name, value in state.items():
        if not is_plain(value):
            raise ValueError(f"{where}: {name[:80]} is no plain tensor: it is not a checkpoint of train.py")
        if value.is_complex() or (value.is_floating_point() and not value.isfinite().all()):
            raise ValueError(
                f"{where}: the weights are not finite ({name}): this training had collapsed, take an earlier one"
            )
    return state


@cache
def inside(file: str) -> dict[str, Any]:
    """The config inside a checkpoint, unchecked: build only what `trusted` returns of it."""
    config = read_checkpoint(file).get("config")
    if not isinstance(config, Mapping) or not isinstance(config.get("model"), Mapping):
        raise ValueError(f"{file} holds no config: it is not a checkpoint of train.py")
    return dict(config)


def section_of(file: str, name: str) -> Any:
    """A section of the config inside a checkpoint, safe to build; see `trusted`."""
    config = inside(file)
    if name not in config:
        raise ValueError(f"{file}: its config has no {name}: it is not a checkpoint of train.py")
    return trusted(config[name], f"{file}: {name}")
