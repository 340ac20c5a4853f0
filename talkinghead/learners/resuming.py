"""Which checkpoint a run resumes from, and whether it belongs to this run: `ckpt_path=auto|last|FILE`."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from talkinghead.models.trusted import RENAMED, read_checkpoint

OF_A_RUN = {  # what Lightning saves, and kinds of it
    "pytorch-lightning_version": str, "epoch": int, "global_step": int, "loops": dict, "optimizer_states": list,
    "lr_schedulers": list, "callbacks": dict,
}  # fmt: skip
SAME = ("model", "seed", "data.path", "data.build", "data.size", "learner._target_")  # a resumed run has these keys
NEVER_TOLD = {"paths", "ckpt_path", "allow_other_run", "num_videos", "git_commit", "logger", "init_from", "callbacks"}

_logger = logging.getLogger(__name__)


class Difference(NamedTuple):
    """A key of the config whose value in the checkpoint is not that of this run."""

    key: str
    there: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.there} there, {self.here} here"


def find_checkpoint(
    wanted: str | None, config: Mapping[str, Any], output_dir: str | Path, outputs_dir: str | Path,
    allow_other_run: bool = False,
) -> Path | None:  # fmt: skip
    """The file that `ckpt_path=wanted` means; None: a new run.

    `wanted` may also be:

    - auto: `checkpoints/last.ckpt` in `output_dir`; a new run where there is none yet
    - last: the newest `last.ckpt` of the experiment (`config["name"]`) that was trained with this model, seed and data

    Other differences between the configs are logged.

    Raises:
        FileNotFoundError: where there is no such checkpoint.
        ValueError: where it holds weights alone, or has another model, seed or data set without `allow_other_run`.
    """
    if wanted is None:
        return None
    if wanted == "last":
        path = _newest(Path(outputs_dir), config, allow_other_run)
    else:
        path = Path(output_dir) / "checkpoints/last.ckpt" if wanted == "auto" else Path(wanted)
    if not path.is_file():
        if wanted == "auto":
            _logger.info("ckpt_path=auto: nothing saved in %s yet, a new run begins", output_dir)
            return None
        raise FileNotFoundError(f"ckpt_path={wanted}: there is no such checkpoint")
    checkpoint = read(path)
    if wrong := [name for name, kind in OF_A_RUN.items() if not isinstance(checkpoint.get(name), kind)]:
        raise ValueError(
            f"{path} is not what a run saves to go on from (no {', '.join(wrong)}): start a new run from its weights "
            "with init_from=FILE"
        )
    differences = list(compare(checkpoint.get("config") or {}, config))
    other = [one for one in differences if one.key.startswith(SAME)]
    if other and not allow_other_run:
        raise ValueError(
            f"{path} is of another run ({'; '.join(map(str, other[:4]))}): repeat its options, start a new run with "
            "init_from=FILE, or say allow_other_run=true"
        )
    _logger.info("going on from %s", path)
    if differences:
        _logger.warning("going on with other options than before: %s", "; ".join(map(str, differences)))
    _tell_finished(path, checkpoint, config)
    return path


def read(path: Path) -> dict[str, Any]:
    """A checkpoint whose tensors stay on disk. Raises ValueError where the file is not a checkpoint."""
    return read_checkpoint(path, "ckpt_path", mmap=True)


def save_random_state(checkpoint: dict[str, Any], device: torch.device) -> None:
    """Add the states of PyTorch's random generators: the CPU's and, of a GPU, its own."""
    checkpoint["rng"] = torch.get_rng_state()
    if device.type != "cpu":
        checkpoint["device_rng"] = torch.get_device_module(device).get_rng_state(device)


def restore_random_state(checkpoint: Mapping[str, Any], device: torch.device) -> None:
    """Set the generators to what `save_random_state` found; a state of another kind of device is left alone."""
    if "rng" in checkpoint:
        torch.set_rng_state(checkpoint["rng"].cpu())
    state = checkpoint.get("device_rng")
    if state is not None and device.type != "cpu":
        generators = torch.get_device_module(device)
        if generators.get_rng_state(device).shape == state.shape:
            generators.set_rng_state(state.cpu(), device)


def compare(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Difference]:
    """Keys whose values differ; paths are compared by their last part, because a data set may have been moved."""
    if not there:
        return
    old, new = dict(flat(there)), dict(flat(here))
    for key in old.keys() & new.keys():
        if NEVER_TOLD & {key.split(".")[0], key.split(".")[-1]}:
            continue
        values = [Path(value).name if key == "data.path" else value for value in (old[key], new[key])]
        values[0] = RENAMED.get(values[0], values[0]) if key.endswith("_target_") else values[0]
        if values[0] != values[1] and not all(isinstance(v, str) and "/" in v for v in values):
            yield Difference(key, old[key], new[key])


def flat(node: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested dicts."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from flat(value, f"{before}.{key}".lstrip("."))
    else:
        yield before, node


def _newest(outputs_dir: Path, config: Mapping[str, Any], allow_other_run: bool) -> Path:
    name = config["name"]
    found = sorted(outputs_dir.glob(f"{name}/**/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime, reverse=True)
    if not found:
        raise FileNotFoundError(
            f"ckpt_path=last: no run under {outputs_dir / name} has written checkpoints/last.ckpt; "
            "start without ckpt_path, or give the path of a checkpoint"
        )
    if allow_other_run:
        return found[0]
    for path in found:
        if not any(one.key.startswith(SAME) for one in compare(read(path).get("config") or {}, config)):
            return path
    return found[0]  # the caller refuses it, and says what differs


def _tell_finished(path: Path, checkpoint: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Log that nothing is left to do where all epochs are done."""
    epochs = config.get("trainer", {}).get("max_epochs")
    try:
        done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"]
    except (KeyError, TypeError):
        return
    if isinstance(epochs, int) and 0 <= epochs <= done:
        _logger.warning("%s is finished: it has had %d epochs; raise trainer.max_epochs to train on", path, done)
