"""Train: `python train.py experiment=meta_synthetic` (conf/experiment lists the others)."""

import copy
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from talkinghead.callbacks.guard import TrainingCollapsed
from talkinghead.callbacks.ranks import RankLost, ranks_answer
from talkinghead.callbacks.wandb_logger import WandbLogger
from talkinghead.cli import CONF
from talkinghead.cli.checking import check_account, check_flags, check_options, check_seed
from talkinghead.cli.ending import errors_in_one_line, go_on, nearby, of_this_job, what_it_left, without_noise
from talkinghead.cli.evaluate import test
from talkinghead.cli.loggers import build_loggers, closing
from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.data.remote import DataFault
from talkinghead.data.shards import DATASET_FILE
from talkinghead.learners.checkpoints import git_commit, load_weights
from talkinghead.learners.export import shrink
from talkinghead.learners.resuming import find_checkpoint
from talkinghead.machine import locked
from talkinghead.pretrained import set_weights_folder
from talkinghead.processes import INTERRUPTED
from talkinghead.reenactment.inputs import SHIPPED

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Fit, or learn test people (`stage`); returns the metric that a sweep optimises."""
    without_noise()
    with errors_in_one_line("train.py", TrainingCollapsed, DataFault, RankLost):
        check_options(cfg)
        check_seed(cfg)
        check_flags(cfg)
        check_account(cfg)
        set_weights_folder(cfg.paths.weights_dir)
        with alone_in(Path(cfg.paths.output_dir)):
            return test(cfg) if cfg.stage == "test" else fit(cfg)


def alone_in(folder: Path) -> AbstractContextManager[None]:
    """Lock this folder on the first rank. Raises ValueError if another run is using it."""
    first = not getattr(rank_zero_only, "rank", 0)
    return locked(folder, "training") if first else nullcontext()


def fit(cfg: DictConfig) -> float | None:
    """Build all parts before any work, and train."""
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    log.info("outputs: %s", cfg.paths.output_dir)
    ckpt_path = checkpoint_to_go_on_from(cfg)
    trainer = build_trainer(cfg, ckpt_path)
    data = instantiate(cfg.data)
    episodic = data if isinstance(data, EpisodeDataModule) else None
    if episodic:
        episodic.check_build()
    if cfg.data.get("build") and not Path(cfg.data.path, DATASET_FILE).is_file():  # making the data takes a while
        rehearse(cfg)
    data.prepare_data()
    if episodic:
        episodic.check(validates=cfg.trainer.limit_val_batches != 0)
    cfg = with_videos(cfg, data.num_videos)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    learner = instantiate(cfg.learner)
    learner.config = {**config, "git_commit": git_commit(Path(__file__).parent)}
    learner.videos = data.video_names if isinstance(data, EpisodeDataModule) else None
    if cfg.init_from:
        load_weights(learner, cfg.init_from)
    folder = Path(cfg.paths.output_dir)
    with closing(trainer.loggers):
        run(trainer, learner, data, ckpt_path, folder)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            conclude(cfg, folder, config["portable_loss"], trainer.loggers)
    metric = trainer.callback_metrics.get(cfg.optimized_metric or "")
    return None if metric is None else float(metric)


def rehearse(cfg: DictConfig) -> None:
    """Build the learner and discard it, to report numbers that do not fit and missing pretrained networks early."""
    instantiate(with_videos(cfg, 1).learner)


def with_videos(cfg: DictConfig, num_videos: int) -> DictConfig:
    """A copy of the config with this number of rows of W; a copy, because `instantiate` resolves it in place."""
    cfg = copy.deepcopy(cfg)
    cfg.num_videos = num_videos
    return cfg


def build_trainer(cfg: DictConfig, ckpt_path: Path | None = None) -> L.Trainer:
    """The trainer with its callbacks and loggers."""
    callbacks = [instantiate(callback) for callback in (cfg.callbacks or {}).values() if callback]
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=build_loggers(cfg, ckpt_path))
    if HydraConfig.get().mode == RunMode.MULTIRUN and trainer.strategy.launcher is not None:
        raise ValueError(
            f"{trainer.num_devices} devices: a sweep has one process per job: trainer=cpu | gpu, or "
            "hydra/launcher=slurm"
        )
    return trainer


def checkpoint_to_go_on_from(cfg: DictConfig) -> Path | None:
    """The file of `ckpt_path`; raises FileNotFoundError if it, or `init_from`, does not exist."""
    if cfg.init_from and not Path(cfg.init_from).is_file():
        raise FileNotFoundError(f"init_from={cfg.init_from}: there is no such checkpoint")
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    saved = Path(cfg.paths.output_dir, "checkpoints", "last.ckpt").is_file()
    restarted = saved and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"  # a job that was requeued starts as before
    return find_checkpoint(
        "auto" if restarted else cfg.ckpt_path, config, cfg.paths.output_dir, cfg.paths.outputs_dir, cfg.allow_other_run
    )


def run(trainer: L.Trainer, learner: Any, data: Any, ckpt_path: str | Path | None, folder: Path) -> None:
    """Train, say where the results are and how to resume after a signal. Exit codes: 143 SIGTERM, 130 Ctrl-C."""
    status: Any = None
    try:
        for logger in trainer.loggers:
            logger.log_hyperparams(learner.config)
        with ranks_answer(trainer):
            trainer.fit(learner, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    except SIGTERMException as stop:
        status = stop.code or 0
    except SystemExit:  # Lightning turns Ctrl-C into this
        status = INTERRUPTED
    except (DataFault, OSError) as error:  # no data, no room
        if trainer.is_global_zero or isinstance(error, DataFault):  # only the rank without data comes here, and saves
            say_what_it_left(trainer, folder, stopped=True)
        raise
    if trainer.is_global_zero:
        say_what_it_left(trainer, folder, stopped=status is not None)
    if status is not None:
        sys.exit(status)


def conclude(cfg: DictConfig, folder: Path, loss: dict[str, Any] | None, loggers: Sequence[Logger]) -> None:
    """Write the optional files of a finished run, and log checkpoints and the example to Weights & Biases."""
    checkpoints, example = folder / "checkpoints", folder / "example.mp4"
    if cfg.portable:
        write_portable(checkpoints / "last.ckpt", checkpoints / cfg.portable, loss)
    if cfg.animate_example:
        animate_example(checkpoints / "last.ckpt", example)
    files = [checkpoints / name for name in ("best.ckpt", cfg.portable, "last.ckpt") if name]
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_checkpoints([file for file in files if file.is_file()])
            if cfg.animate_example and example.is_file():
                logger.log_video("example", [str(example)])


def write_portable(checkpoint: Path, small: Path, loss: dict[str, Any] | None = None) -> None:
    """Write only the averaged networks, in half precision, as they ship; print why if there is no checkpoint."""
    if not checkpoint.is_file():
        print(f"portable={small.name}: not written, for the run has kept no {nearby(checkpoint)}", flush=True)
        return
    size = shrink(checkpoint, small, loss)
    print(f"small enough to ship: {nearby(small)}, {size / 1e6:.1f} MB", flush=True)


def animate_example(checkpoint: Path, output: Path) -> None:
    """Animate a shipped portrait with a shipped driver, by the new model and, for comparison, by the one that ships.

    A failure here is printed and does not affect the run.
    """
    print(f"a portrait that it has never seen, moved by the new model: {nearby(output)}", flush=True)
    if animate(checkpoint, output) == 0:
        other = output.with_stem(f"{output.stem}_{SHIPPED.stem}")
        print(f"the same by {SHIPPED.stem}, which ships, for comparison: {nearby(other)}", flush=True)
        animate(SHIPPED, other, "max_frames=50")


def animate(checkpoint: Path, output: Path, *options: str) -> int:
    """Animate Anna with the lively driver, side by side, in a separate process; returns its exit status."""
    files = {
        "source": SHIPPED.parent / "portraits" / "anna.jpg", "driving": SHIPPED.parent / "drivers" / "lively.mp4",
        "checkpoint": checkpoint, "output": output,
    }  # fmt: skip
    given = [f"{name}={path}" for name, path in files.items()]
    command = [sys.executable, "-m", "talkinghead", "animate", *given, "method=ff", "look.side_by_side=true"]
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([*command, "look.sheet=0", *options], env=environment, check=False).returncode


def say_what_it_left(trainer: L.Trainer, folder: Path, stopped: bool) -> None:
    """Print where the results are, and the command that resumes."""
    last, steps = folder / "checkpoints" / "last.ckpt", trainer.fit_loop.total_batch_idx + 1
    lines = what_it_left(folder)
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        lines = ["  nothing: a trial of one batch saves nothing (trainer.fast_dev_run)"]
    kept = trainer.checkpoint_callbacks or trainer.loggers
    why = "it stopped before anything was saved" if stopped else "this start had nothing to do"
    lines = lines or [f"  nothing: {why if kept else 'no callbacks, no loggers'}"]
    if stopped and last.is_file():
        hydra_config = HydraConfig.get()
        sweep = hydra_config.mode == RunMode.MULTIRUN
        given = of_this_job(sys.argv[1:], hydra_config.overrides.task) if sweep else sys.argv[1:]
        lines.append(f"  go on with  {go_on(given, last)}")
    end = "stopped" if stopped else "finished"
    print("\n".join([f"{end} after {steps} steps; {nearby(folder)} holds", *lines]), flush=True)


if __name__ == "__main__":  # a further rank of a run on several devices, see `launch.main`
    main()
