"""The loggers of a run: what identifies it for Weights & Biases, and its end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from talkinghead.callbacks.wandb_logger import WandbLogger, find_run
from talkinghead.cli.checking import is_wandb
from talkinghead.cli.ending import nearby


def build_loggers(cfg: DictConfig, resumed: Path | None = None) -> list[Logger]:
    """Those of `cfg.logger`.

    Args:
        resumed: the checkpoint that the run goes on from; None: a new run
    """
    sections = [section for section in (cfg.logger or {}).values() if section]
    return [instantiate(one, **(identity(cfg, one, resumed) if is_wandb(one) else {})) for one in sections]


def identity(cfg: DictConfig, section: DictConfig, resumed: Path | None) -> dict[str, Any]:
    """Name, group and id of a Weights & Biases run, where the config leaves them open.

    The name is the run's folder, the group of a sweep's jobs is the sweep's folder, and a run that is resumed in its
    own folder keeps its id. An id that is given for a sweep is extended by the number of the job.
    """
    folder, job = Path(cfg.paths.output_dir), HydraConfig.get()
    sweeps = job.mode == RunMode.MULTIRUN
    found = find_run(folder) if resumed and resumed.absolute().parents[1] == folder.absolute() else None
    number = f"-{job.job.num}" if sweeps else ""
    return {
        "name": section.name or below(folder, cfg.paths.outputs_dir),
        "group": section.group or (below(folder.parent, cfg.paths.outputs_dir) if sweeps else None),
        "id": f"{section.id}{number}" if section.id else found,
    }


def below(folder: Path, root: str) -> str:
    """The path of a folder relative to `root` or, if it is outside, to the working directory."""
    try:
        return str(folder.absolute().relative_to(Path(root).absolute()))
    except ValueError:
        return nearby(folder)


@contextmanager
def closing(loggers: Sequence[Logger]) -> Iterator[None]:
    """End the runs of Weights & Biases after the block, as failed if it raises an exception."""
    status = 1
    try:
        yield
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.close(status)
