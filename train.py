"""Train: `python train.py experiment=meta_synthetic` (conf/experiment lists the others)."""

import logging
import sys
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from evaluate import test
from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.data.remote import DataFault
from talkinghead.learners.checkpoints import git_commit, load_weights
from talkinghead.learners.resuming import find_checkpoint

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Compose the parts and fit, or learn test people (`stage`); returns what a sweep optimises."""
    if cfg.stage == "test":
        return test(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    log.info("outputs: %s", cfg.paths.output_dir)
    data = instantiate(cfg.data)
    try:
        if isinstance(data, EpisodeDataModule):
            data.check_build()
        data.prepare_data()
        if isinstance(data, EpisodeDataModule):
            data.check(validates=cfg.trainer.limit_val_batches != 0)
        cfg.num_videos = data.num_videos
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        paths = cfg.paths
        ckpt_path = find_checkpoint(cfg.ckpt_path, config, paths.output_dir, paths.outputs_dir, cfg.allow_other_run)
    except (FileNotFoundError, ValueError, DataFault) as error:
        sys.exit(f"train.py: {error}")  # what is wrong and what to do: a traceback adds nothing
    learner = instantiate(cfg.learner)
    learner.config = {**config, "git_commit": git_commit(Path(__file__).parent)}
    learner.videos = data.video_names if isinstance(data, EpisodeDataModule) else None
    if cfg.init_from:
        load_weights(learner, cfg.init_from)
    callbacks = [instantiate(callback) for callback in (cfg.callbacks or {}).values() if callback]
    loggers = [instantiate(logger) for logger in (cfg.logger or {}).values() if logger]
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers)
    if HydraConfig.get().mode == RunMode.MULTIRUN and trainer.strategy.launcher is not None:
        sys.exit("a sweep has one process per job: one device each, or hydra/launcher=submitit_slurm")
    try:
        for logger in trainer.loggers:
            logger.log_hyperparams(learner.config)
        trainer.fit(learner, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    except DataFault as error:
        sys.exit(f"train.py: {error}")
    except Exception as error:
        if type(error).__module__.split(".")[0] != "wandb":
            raise
        sys.exit(f"train.py: logger=wandb: {error}. Without an account or network: logger.wandb.offline=true")
    metric = trainer.callback_metrics.get(cfg.optimized_metric or "")
    return None if metric is None else float(metric)


if __name__ == "__main__":
    main()
