"""Train: `python train.py experiment=meta_synthetic` (conf/experiment lists the others)."""

import logging
import sys
from pathlib import Path
from typing import Any

from talkinghead.cli import early

if __name__ == "__main__":  # before the imports that take seconds
    early.answer("config", "python train.py")

import hydra
import pytorch_lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from evaluate import test
from talkinghead.learners.checkpoints import find_last_checkpoint, git_commit, load_weights

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
        data.prepare_data()
    except FileNotFoundError as error:
        sys.exit(str(error))  # what is missing and how to get it: a traceback adds nothing
    cfg.num_videos = data.num_videos
    learner = instantiate(cfg.learner)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    learner.config = {**config, "git_commit": git_commit(Path(__file__).parent)}
    if cfg.init_from:
        load_weights(learner, cfg.init_from)
    callbacks = [instantiate(callback) for callback in (cfg.callbacks or {}).values() if callback]
    loggers = [instantiate(logger) for logger in (cfg.logger or {}).values() if logger]
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers)
    if HydraConfig.get().mode == RunMode.MULTIRUN and trainer.strategy.launcher is not None:
        sys.exit("a sweep has one process per job: one device each, or hydra/launcher=submitit_slurm")
    for logger in trainer.loggers:
        logger.log_hyperparams(learner.config)
    last = cfg.ckpt_path == "last"
    ckpt_path = find_last_checkpoint(cfg.paths.outputs_dir, cfg.name) if last else cfg.ckpt_path
    trainer.fit(learner, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    metric = trainer.callback_metrics.get(cfg.optimized_metric or "")
    return None if metric is None else float(metric)


if __name__ == "__main__":
    main()
