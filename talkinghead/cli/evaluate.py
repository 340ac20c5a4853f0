"""Evaluate: `python evaluate.py checkpoint=FILE shots=[1,8,32] method=[ff,ft,nearest] output=DIR`."""

import copy
import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from talkinghead.callbacks.ranks import RankLost, ranks_answer
from talkinghead.cli import CONF, name_of
from talkinghead.cli.checking import check_account, check_options, check_seed
from talkinghead.cli.ending import errors_in_one_line, nearby, what_it_left, without_noise
from talkinghead.cli.loggers import build_loggers, closing
from talkinghead.data.remote import DataFault
from talkinghead.evaluation.finetune_previews import FinetunePreviews
from talkinghead.evaluation.outputs import FrameStore
from talkinghead.evaluation.protocol import Candidate, FewShotEvaluation, TaskDataModule
from talkinghead.evaluation.results import Results
from talkinghead.learners.checkpoints import changed, content_in, git_commit, image_size_of, networks
from talkinghead.learners.episodic import learner_in
from talkinghead.models.trusted import inside, section_of
from talkinghead.options import Range, check_numbers
from talkinghead.pretrained import set_weights_folder
from talkinghead.reporting.sweep_table import ROWS, finish
from talkinghead.storage import digest, write_csv

log = logging.getLogger(__name__)
NUMBERS = {"preview_every": Range(0, optional=True)}
PEOPLE = {"num_people": Range(1, optional=True)}


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(cfg: DictConfig) -> float | None:
    """Entry point of `evaluate.py`: check all options, then evaluate."""
    without_noise()
    with errors_in_one_line("evaluate.py", DataFault, RankLost):
        check_options(cfg)
        check_seed(cfg)
        check_account(cfg)
        check_lost(cfg, HydraConfig.get().overrides.task)
        set_weights_folder(cfg.paths.weights_dir)
        return test(cfg)


def test(cfg: DictConfig) -> float | None:
    """Evaluate every method with every number of shots on the test people; also called by train.py (`stage: test`)."""
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    callbacks = [instantiate(callback) for callback in (cfg.callbacks or {}).values() if callback]
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=build_loggers(cfg), inference_mode=False)
    try:
        check_harness(cfg)
        cfg = with_sections_of_checkpoint(cfg)
        data, learner = build(cfg)
    except (ValueError, FileNotFoundError, InstantiationException) as error:  # no traceback for the user's errors
        mendable = not isinstance(error, InstantiationException) or isinstance(error.__cause__, (ValueError, OSError))
        if not mendable:
            raise
        said = error.__cause__ if isinstance(error, InstantiationException) else error
        sys.exit(f"{name_of(Path(sys.argv[0]).name)}: {said}")
    with closing(trainer.loggers):
        for logger in trainer.loggers:
            logger.log_hyperparams({**plain(cfg), "git_commit": learner.commit})
        with ranks_answer(trainer):
            trainer.test(learner, datamodule=data, verbose=False)
        conclude(cfg, data, learner, trainer)
    metric = trainer.callback_metrics.get(cfg.get("optimized_metric") or "")
    return None if metric is None else float(metric)


def conclude(cfg: DictConfig, data: TaskDataModule, learner: FewShotEvaluation, trainer: L.Trainer) -> None:
    """Say what was left out, and show the table of this run's rows; a run without rows has failed."""
    unused = ", ".join(f"{count} x {cause}" for cause, count in data.skipped.items())
    if unused:
        log.warning("not used: %s", unused)
    rows = learner.rows()
    if not rows:
        sys.exit(
            f"{name_of(Path(sys.argv[0]).name)}: nothing was measured: {data.source.name}: {unused or 'nobody to test'}"
        )
    if trainer.is_global_zero:
        folder = Path(cfg.paths.output_dir)
        write_csv(folder / ROWS, list(dict.fromkeys(name for row in rows for name in row)), rows)
        finish(rows, folder, "this run", trainer.loggers)
    folder = Path(cfg.results).parent
    print("\n".join([f"{nearby(folder)} holds", *what_it_left(folder)]), flush=True)


def build(cfg: DictConfig) -> tuple[TaskDataModule, FewShotEvaluation]:
    """The test people and the harness, from the config and the checkpoints."""
    data = TaskDataModule(instantiate(cfg.people))
    data.prepare_data()
    data.find()  # missing test people are reported before anything is learned
    results = Results(cfg.results)
    results.rows()  # a file of another kind is reported now
    output = Path(cfg.results).parent
    learner = FewShotEvaluation(
        [one for name in cfg.method for one in adapted(cfg, candidate(cfg, name))], data.source.name,
        shots_of(cfg), instantiate(cfg.metrics), results,
        FrameStore(output / "frames") if cfg.keep_frames else None, instantiate(cfg.get("set_metrics")),
        FinetunePreviews(output / "previews", cfg.preview_every) if cfg.preview_every else None, cfg.seed,
        git_commit(Path(__file__).parent), data.source.protocol,
    )  # fmt: skip
    return data, learner


def check_lost(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Raise ValueError for an option of a section that is taken from the checkpoint: it would change nothing."""
    methods = [cfg.method[name] for name in cfg.method]
    files = [one.checkpoint for one in methods if "networks" in one and one.get("checkpoint")]
    keys = [one.partition("=")[0].lstrip("+~") for one in overrides]
    lost = [key for key in keys if "." in key and key.split(".")[0] in cfg.from_checkpoint]
    if files and lost:
        raise ValueError(f"{lost[0]} would change nothing: {files[0]} was trained with its own: leave the option out")


def check_harness(cfg: DictConfig) -> None:
    """Check the options that no class takes, before data is made or a checkpoint read. Raises ValueError."""
    check_numbers(cfg, NUMBERS)
    if "num_people" in cfg.people:
        check_numbers(cfg.people, PEOPLE, "people.")
    if not isinstance(cfg.keep_frames, bool):
        raise ValueError(f"keep_frames={cfg.keep_frames}: true or false is wanted")
    check_shots(shots_of(cfg), cfg.frame_choice.max_shots)


def shots_of(cfg: DictConfig) -> list[Any]:
    """The numbers of shots; a single one need not be in a list."""
    return list(cfg.shots) if OmegaConf.is_list(cfg.shots) else [cfg.shots]


def check_shots(shots: list[Any], most: int) -> None:
    """Raises ValueError for numbers of shots that no clip can give."""
    if not shots or any(type(count) is not int or count < 1 for count in shots):
        raise ValueError(f"shots={shots}: whole numbers from 1 on, such as shots=[1,8,32]")
    if max(shots) > most:
        raise ValueError(
            f"shots={max(shots)}, but {most} frames of each clip are kept for learning: set "
            f"frame_choice.max_shots={max(shots)} (other hold-out frames: compare with rows of the same setting only)"
        )


def with_sections_of_checkpoint(cfg: DictConfig) -> DictConfig:
    """The config with the sections `from_checkpoint` taken from the first chosen method's checkpoint.

    Raises:
        ValueError: a checkpoint is missing, or the checkpoints draw pictures of different sizes.
    """
    files = [checkpoint_of(cfg, name) for name in cfg.method]
    sizes = {file: image_size_of(file) for file in files if file}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"checkpoints of different picture sizes cannot be compared: {sizes}")
    if not sizes:
        return cfg
    cfg = copy.deepcopy(cfg)
    cfg.model.image_size = next(iter(sizes.values()))
    source = next((checkpoint_of(cfg, name) for name in cfg.method if "networks" in cfg.method[name]), None)
    if source is None:  # baselines are built entirely from their own checkpoints
        return cfg
    for section in cfg.from_checkpoint:
        cfg[section] = section_of(source, section)
    log.info("%s as in the config inside %s", " and ".join(cfg.from_checkpoint), source)
    row = inside(source).get("row")
    cfg.row = cfg.row or (row if isinstance(row, str) and "${" not in row else None)
    return cfg


def candidate(cfg: DictConfig, name: str) -> Candidate:
    """A method with its trained networks, and how its rows describe it."""
    method, file = cfg.method[name], checkpoint_of(cfg, name)
    if file is None:
        built = instantiate(method.learner)
    elif "networks" in method:
        parts = networks(file)
        given: dict[str, Any] = {part: parts[part] for part in method.networks}
        learner, numbers = dict(method.learner), plain(method.get("numbers") or OmegaConf.create())
        if "content" in learner and "loss" in cfg.from_checkpoint:
            del learner["content"]
            given["content"] = content_in(file)
        built = instantiate(learner, **given, **numbers)
    else:
        built = learner_in(file, plain(method.changes), f"checkpoints.{name}")
    sha256 = digest(Path(file))[:12] if file else "-"
    return Candidate(built, method.name, method.variant, sha256, cfg.row or "default", hash_of(settings(cfg, name)))


def adapted(cfg: DictConfig, method: Candidate) -> list[Candidate]:
    """The method once per `adaptation` of the driver's landmarks."""
    if not cfg.adaptation:
        return [method]
    return [
        method._replace(
            config=name, adaptation=name, adapt=instantiate(cfg.adaptation[name]),
            config_hash=hash_of({"method": method.config_hash, "adaptation": plain(cfg.adaptation[name])}),
        )
        for name in cfg.adaptation
    ]  # fmt: skip


def settings(cfg: DictConfig, name: str) -> dict[str, Any]:
    """Everything that a method's rows depend on, except the checkpoint and the data set."""
    method = plain(cfg.method[name])
    if "learner" in method:
        method["learner"] |= method.pop("numbers", {})
        method["learner"] = {k: v for k, v in method["learner"].items() if k not in method.get("networks", ())}
    people = plain(cfg.people)
    if people["choice"]["seed"] == cfg.seed:  # the seed has its own column
        people["choice"].pop("seed")
    return {**method, "people": people}


def checkpoint_of(cfg: DictConfig, name: str) -> str | None:
    """The checkpoint of a method, None for one without networks. Raises ValueError if it is missing."""
    method = cfg.method[name]
    if "checkpoint" not in method:
        return None
    if method.checkpoint is None:
        ours = "init_from" if "init_from" in cfg else "checkpoint"  # the key of train.py, or of evaluate.py
        key = ours if "networks" in method else f"checkpoints.{name}"
        raise ValueError(f"method {name} needs its trained networks: {key}=FILE, or leave it out of method=[…]")
    if not Path(method.checkpoint).is_file():
        raise FileNotFoundError(f"method {name}: there is no checkpoint {method.checkpoint}")
    return str(method.checkpoint)


def plain(node: DictConfig) -> Any:
    """A section as dicts and lists."""
    return OmegaConf.to_container(node, resolve=True)


def hash_of(settings: Mapping[str, Any]) -> str:
    """12 digits that depend neither on the paths of files nor on the number of people."""
    nowhere = {name: lambda _: None for name in ("data", "root", "checkpoint", "num_people")}
    names = {"path": lambda path: path and Path(path).name}
    text = json.dumps(changed(settings, {**nowhere, **names}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":  # a further rank of a run on several devices, see `launch.main`
    main()
