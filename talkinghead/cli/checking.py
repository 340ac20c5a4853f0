"""Checks every option against the signature that it is for, so that mistakes are reported before any work."""

import inspect
import math
import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from talkinghead.cli import IN_CHECKOUT
from talkinghead.cli.early import INSTEAD, nearest
from talkinghead.names import as_line
from talkinghead.options import Range, check_numbers

FILLED_IN = ("num_videos",)  # filled in by the verbs, from the data
OWN = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")  # Hydra's keys in a section that builds something
SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),  # finite
    str: ((str,), "a word"),
    bool: ((bool,), "true or false"),
    Path: ((str,), "a path"),
    types.NoneType: ((types.NoneType,), "null"),
}
OFFLINE = "without account or network logger.wandb.offline=true"
LISTS = (list, tuple, set, Sequence, Iterable)
EXTRAS = {"ray": "ray", "c2pa": "provenance", "gradio": "studio", "onnxruntime": "arcface", "torch_fidelity": "fid",
          "dlib": "offline", "face_recognition_models": "offline", "submitit": "slurm", "optuna": "optuna",
          **dict.fromkeys(("pytorch_lightning", "lightning_fabric", "webdataset", "simplejpeg", "torchmetrics", "lpips",
                           "face_alignment", "tensorboard", "wandb", "matplotlib", "anny", "warp"), "train"),
          }  # fmt: skip


def check_options(cfg: DictConfig, without: Sequence[str] = ()) -> None:
    """Raise ValueError for the first option of a section with a `_target_` that its class would not accept.

    Raises ImportError, with the command that installs the package, if a class needs a package that is not installed.

    Args:
        without: sections to skip
    """
    chosen = OmegaConf.masked_copy(cfg, [str(name) for name in cfg if name not in without])
    chosen._set_parent(cfg)  # from interpolations into the other sections
    try:
        values: Any = OmegaConf.to_container(chosen, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {str(error).splitlines()[0]}: choices that do not go together?") from error
    check_section(values, OmegaConf.to_container(chosen, resolve=False))
    if numbers := values.get("finetune"):
        names = {name: f"finetune.{name}" for name in numbers}
        check_call(found("talkinghead.learners.finetune.FineTuner", ""), numbers, names)


def check_seed(cfg: DictConfig) -> None:
    """Raise ValueError for a seed that NumPy would not accept."""
    check_numbers(cfg, {"seed": Range(0, 2**32 - 1)})


def check_account(cfg: DictConfig) -> None:
    """Raise ValueError if a run would be sent to Weights & Biases but no account is known on this machine."""
    loggers = [logger for logger in (cfg.get("logger") or {}).values() if logger]
    sent = [one for one in loggers if is_wandb(one) and not one.get("offline")]
    if not sent or os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return
    from pytorch_lightning.utilities.rank_zero import rank_zero_only  # noqa: PLC0415, who only animates has neither

    if getattr(rank_zero_only, "rank", False):
        return
    import wandb  # noqa: PLC0415

    if not wandb.login(prompt=False, verify=False):
        raise ValueError(f"logger=wandb: no account is known here: wandb login, or {OFFLINE}")


def is_wandb(section: DictConfig) -> bool:
    """Whether a section of the config builds a logger of Weights & Biases."""
    return str(section.get("_target_")).endswith("WandbLogger")


def check_flags(cfg: DictConfig) -> None:
    """Raise ValueError for trainer flags that Lightning refuses with manual optimization."""
    by_hand = "gradient_clip_norm" in (cfg.get("learner") or {})
    for name, instead in INSTEAD.items():
        value = cfg.trainer.get(name.split(".")[1])
        if by_hand and value not in (None, 1 if name.endswith("batches") else None):
            raise ValueError(f"{name}={shown(value)}: the players take turns and step by hand; set {instead}, please")


def check_section(section: Any, written: Any, name: str = "") -> None:
    """Check a section and its subsections; `written` still has its interpolations, to name the key the user typed."""
    if isinstance(section, list) and isinstance(written, list):
        for n, (one, its) in enumerate(zip(section, written, strict=True)):
            check_section(one, its, f"{name}{n}.")
    if not isinstance(section, dict) or isinstance(written, str):  # `${model.embedder}` is checked in its own section
        return
    for key, value in section.items():
        check_section(value, written[key], f"{name}{key}.")
    if isinstance(section.get("_target_"), str):
        names = {key: source(written[key]) or f"{name}{key}" for key in section if key not in OWN}
        given = {key: section[key] for key in names if names[key] not in FILLED_IN}
        check_call(found(section["_target_"], name), given, names)


def source(written: Any) -> str | None:
    """The key that `${key}` points to."""
    match = re.fullmatch(r"\$\{([\w.]+)\}", written) if isinstance(written, str) else None
    return match[1] if match else None


def found(target: str, name: str) -> Callable[..., Any]:
    """The class or function that a section names."""
    try:
        return get_object(target)
    except ImportError as error:
        raise ImportError(f"{name}_target_={target}: {missing_package(error)}") from error
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{name}_target_={target}: there is no such class or function") from error


def missing_package(error: ImportError) -> str:
    """The message that says what is missing and how to install it."""
    cause: BaseException | None = error  # Hydra wraps it
    while cause is not None and not getattr(cause, "name", None):
        cause = cause.__cause__
    package = str(getattr(cause, "name", "")).split(".")[0]
    if not package or package == "talkinghead":
        return " ".join(str(error).split())
    extra = EXTRAS.get(package)
    where = "-c constraints.txt -e '." if IN_CHECKOUT else "'talkinghead"
    how = f"pip install {where}[{extra}]'" if extra else f"pip install {package}"
    return f"the package {package} is not installed: {how}"


def check_call(target: Callable[..., Any], given: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Raise ValueError for a value that does not fit its parameter's annotation, or has no parameter.

    Args:
        given: values by parameter
        names: the names the user typed, for the message
    """
    try:
        parameters: dict[str, Any] = dict(inspect.signature(target).parameters)
        hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)  # type: ignore[misc]
    except (NameError, TypeError, ValueError):  # nothing is known about it
        return
    if any(one.kind == one.VAR_KEYWORD for one in parameters.values()):
        parameters |= dict.fromkeys(given)
    for key, value in given.items():
        if key not in parameters:
            raise ValueError(f"{names[key]}: {target.__qualname__} has no such option{nearest(key, list(parameters))}")
        if key in hints and not fits(value, hints[key]):
            raise ValueError(f"{names[key]}={as_line(shown(value), 200)}: {wanted(hints[key])} is wanted")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value from a yaml can be of this type; True if unknown."""
    origin, inner = get_origin(hint), get_args(hint)
    if (isinstance(value, dict) and "_target_" in value) or hint in (Any, object):
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if hint in SCALARS:
        finite = not isinstance(value, float) or math.isfinite(value)
        return finite and isinstance(value, SCALARS[hint][0]) and (hint is bool or not isinstance(value, bool))
    if origin in LISTS and not isinstance(value, dict):
        items = inner[:1] if Ellipsis in inner or len(inner) == 1 else ()
        return isinstance(value, list) and all(fits(one, items[0]) for one in value if items)
    return isinstance(value, dict) or not is_mapping(origin)


def is_mapping(origin: Any) -> bool:
    """Whether a generic type is a dictionary."""
    return inspect.isclass(origin) and issubclass(origin, Mapping)


def wanted(hint: Any) -> str:
    """A type in words: `a whole number or null`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(wanted(one) for one in inner))
        return " or ".join(word for word in words if word != "a whole number" or "a number" not in words)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if hint in SCALARS:
        return SCALARS[hint][1]
    if origin in LISTS:
        return "a list such as [1,8,32]" if int in inner else "a list"
    if is_mapping(origin):
        return "{name: value, ...}"
    return getattr(hint, "__name__", str(hint))


def shown(value: Any) -> str:
    """A value as the user would type it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
