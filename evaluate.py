"""Evaluate: `python evaluate.py checkpoint=FILE shots=[1,8,32] methods=[ff,ft,nearest] output=DIR`."""

import hashlib
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from talkinghead.cli import early

if __name__ == "__main__":  # before the imports that take seconds
    early.answer("evaluate", "python evaluate.py")

import hydra
import pytorch_lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from talkinghead.cli.checking import check_options
from talkinghead.cli.ending import nearby, told, what_it_left, without_noise
from talkinghead.learners.checkpoints import changed, git_commit, inside, load_weights, moved, networks
from talkinghead.learners.fewshot import Candidate, FewShotLearner, PeopleDataModule
from talkinghead.learners.kept import KeptFrames
from talkinghead.learners.watching import StepPreviews
from talkinghead.metrics.results import Results
from talkinghead.pretrained import digest

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> float | None:
    """Test the chosen methods."""
    without_noise()
    with told("evaluate.py"):
        check_options(cfg)
        return test(cfg)


def test(cfg: DictConfig) -> float | None:
    """Methods x shot counts on the test people; train.py comes here too, with `stage: test`."""
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    callbacks = [instantiate(callback) for callback in (cfg.callbacks or {}).values() if callback]
    loggers = [instantiate(logger) for logger in (cfg.logger or {}).values() if logger]
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, inference_mode=False)
    try:
        data, learner = build(cfg)
    except (ValueError, FileNotFoundError, InstantiationException) as error:  # what a user can mend: no traceback
        mendable = not isinstance(error, InstantiationException) or isinstance(error.__cause__, FileNotFoundError)
        if not mendable:
            raise
        sys.exit(f"{Path(sys.argv[0]).name}: {error.__cause__ or error}")
    for logger in trainer.loggers:
        logger.log_hyperparams({**plain(cfg), "git_commit": learner.commit})
    trainer.test(learner, datamodule=data, verbose=False)
    if data.skipped:
        log.warning("not used: %s", ", ".join(f"{count} x {cause}" for cause, count in data.skipped.items()))
    folder = Path(cfg.results).parent
    print("\n".join([f"{nearby(folder)} holds", *what_it_left(folder)]), flush=True)
    metric = trainer.callback_metrics.get(cfg.get("optimized_metric") or "")
    return None if metric is None else float(metric)


def build(cfg: DictConfig) -> tuple[PeopleDataModule, FewShotLearner]:
    """The people and the harness, from the config and the checkpoints."""
    unknown = [name for name in cfg.methods if name not in cfg.method]
    if unknown:
        raise ValueError(f"methods={list(cfg.methods)}: no {', '.join(unknown)}; there are {', '.join(cfg.method)}")
    adopt(cfg)
    data = PeopleDataModule(instantiate(cfg.people))
    data.prepare_data()
    output = Path(cfg.results).parent
    learner = FewShotLearner(
        [one for name in cfg.methods for one in adapted(cfg, candidate(cfg, name))], data.source.name,
        [cfg.shots] if isinstance(cfg.shots, int) else list(cfg.shots), instantiate(cfg.metrics), Results(cfg.results),
        KeptFrames(output / "frames") if cfg.keep_frames else None, instantiate(cfg.set_metrics),
        StepPreviews(output / "previews", cfg.preview_every) if cfg.preview_every else None, cfg.seed,
        git_commit(Path(__file__).parent),
    )  # fmt: skip
    return data, learner


def adopt(cfg: DictConfig) -> None:
    """Take the sections `from_checkpoint` from the config inside the first chosen method's checkpoint."""
    files = [checkpoint_of(cfg, name) for name in cfg.methods]
    sizes = {file: inside(file)["model"]["image_size"] for file in files if file}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"checkpoints of different picture sizes cannot be compared: {sizes}")
    if not sizes:
        return
    cfg.model.image_size = next(iter(sizes.values()))
    source = next((checkpoint_of(cfg, name) for name in cfg.methods if "networks" in cfg.method[name]), None)
    if source is None:  # baselines are built from their own checkpoints altogether
        return
    for section in cfg.from_checkpoint:
        cfg[section] = moved(inside(source)[section], cfg.paths.weights_dir)
    log.info("%s as in the config inside %s", " and ".join(cfg.from_checkpoint), source)
    cfg.row = cfg.row or inside(source).get("row")


def candidate(cfg: DictConfig, name: str) -> Candidate:
    """A method with its trained networks, and what its rows say of it."""
    method, file = cfg.method[name], checkpoint_of(cfg, name)
    if file is None:
        built = instantiate(method.learner)
    elif "networks" in method:
        parts = networks(file, instantiate)
        built = instantiate(method.learner, **{part: parts[part] for part in method.networks})
    else:
        built = instantiate(
            OmegaConf.merge(moved(inside(file)["learner"], cfg.paths.weights_dir), method.changes), metrics=None
        )
        load_weights(built, file)
    sha256 = digest(Path(file))[:12] if file else "-"
    return Candidate(built, method.name, method.variant, sha256, cfg.row or "default", hash_of(settings(cfg, name)))


def adapted(cfg: DictConfig, method: Candidate) -> list[Candidate]:
    """The method once for each way `adaptations` to make the driver's landmarks the person's."""
    if not cfg.adaptations:
        return [method]
    unknown = [name for name in cfg.adaptations if name not in cfg.adaptation]
    if unknown:
        there = ", ".join(cfg.adaptation)
        raise ValueError(f"adaptations={list(cfg.adaptations)}: no {', '.join(unknown)}; there are {there}")
    return [
        method._replace(
            config=name, adaptation=name, adapt=instantiate(cfg.adaptation[name]),
            config_hash=hash_of({"method": method.config_hash, "adaptation": plain(cfg.adaptation[name])}),
        )
        for name in cfg.adaptations
    ]  # fmt: skip


def settings(cfg: DictConfig, name: str) -> dict[str, Any]:
    """All that a method's rows depend on, but for the checkpoint and the data set."""
    method = plain(cfg.method[name])
    if "learner" in method:
        method["learner"] = {k: v for k, v in method["learner"].items() if k not in method.get("networks", ())}
    return {**method, "people": plain(cfg.people), "seed": cfg.seed}


def checkpoint_of(cfg: DictConfig, name: str) -> str | None:
    """The file of a method, None for one without. Raises ValueError where it has to be given, or is not there."""
    method = cfg.method[name]
    if "checkpoint" not in method:
        return None
    if method.checkpoint is None:
        key = "checkpoint" if "networks" in method else f"checkpoints.{name}"
        raise ValueError(f"method {name} needs its trained networks: {key}=FILE, or leave it out of methods=[…]")
    if not Path(method.checkpoint).is_file():
        raise FileNotFoundError(f"method {name}: there is no checkpoint {method.checkpoint}")
    return str(method.checkpoint)


def plain(node: DictConfig) -> Any:
    """A section as dicts and lists."""
    return OmegaConf.to_container(node, resolve=True)


def hash_of(settings: Mapping[str, Any]) -> str:
    """12 digits that do not depend on where files lie, nor on how many people are looked at."""
    nowhere = {name: lambda _: None for name in ("weights_dir", "data", "root", "checkpoint", "num_people")}
    names = {"path": lambda path: path and Path(path).name}
    text = json.dumps(changed(settings, {**nowhere, **names}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":
    main()
