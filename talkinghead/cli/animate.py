"""Animate: `python animate.py source=portrait.jpg driving=clip.mp4 checkpoint=FILE`: a portrait moved by a video."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import av
import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from talkinghead.api import InputError, Model, Person, load
from talkinghead.cli import CONF, name_of
from talkinghead.faces.crop import Framing
from talkinghead.learners.load import Loss
from talkinghead.pretrained import set_weights_folder
from talkinghead.processes import stopped, terminate_cleanly
from talkinghead.progress import Phases
from talkinghead.reenactment.animation import Look
from talkinghead.reenactment.inputs import Files, check_files, names_of
from talkinghead.reenactment.output_paths import check_targets, stamp, sweep
from talkinghead.reenactment.pipeline import Settings
from talkinghead.storage import in_one_line


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="animate")
def main(cfg: DictConfig) -> None:
    """Entry point of `animate.py`: make the video that the config describes."""
    terminate_cleanly()  # a cluster's time limit triggers the same cleanup as Ctrl-C
    run_or_exit(cfg)


def run_or_exit(cfg: DictConfig) -> None:
    """Make the video; an error that the user can fix ends the program with one line."""
    try:
        run(cfg)
    except KeyboardInterrupt as stop:
        stopped(name_of("animate.py"), stop, str(stop) or "no video was written; the same command starts again")
    except InstantiationException as error:  # a missing pretrained network, for example
        sys.exit(f"{name_of('animate.py')}: {error.__cause__ or error}")
    except (ValueError, OSError, ImportError, av.FFmpegError) as error:
        sys.exit(f"{name_of('animate.py')}: {in_one_line(error)}")


def run(cfg: DictConfig) -> Path:
    """Run all phases, and return the path of the video."""
    set_weights_folder(cfg.paths.weights_dir)
    asked, phases = cfg.files, Phases()
    folder = Path(cfg.paths.outputs_dir) / "animate"
    given = check_files(names_of(asked.source), asked.driving, asked.checkpoint, asked.output, folder)
    look = Look(**plain(cfg.look))
    check_targets(given.inputs, given.output, look.sheet > 0, None if given.is_person else asked.save_person)
    if given.is_shipped:
        phases.tell(
            f"model: {given.model.stem}, which ships with the project. It has seen synthetic heads only, no real face"
        )
    check_method(cfg, given)
    model = loaded(cfg, given, phases)
    steps = steps_of(cfg, model)
    if swept := sweep(given.output.parent):
        phases.tell(f"removed what killed runs had left in {given.output.parent}: {len(swept)} temporary files")
    before = stamp(given.output)
    try:
        if isinstance(model, Person):
            made = model.animate(given.driving, given.output, look=look, images=given.sources)
        else:
            made = model.animate(given.sources, given.driving, given.output, steps, look=look, save=asked.save_person)
    except (KeyboardInterrupt, InputError) as stop:
        saved = Path(asked.save_person).with_suffix(".safetensors") if asked.save_person else None
        kept = [f"{given.output} is whole"] if stamp(given.output) not in (None, before) else []
        kept += [f"the person is kept: checkpoint={saved}"] if saved and saved.is_file() else []
        if isinstance(stop, InputError):
            for one in kept:
                stop.add_note(one)
            raise
        raise type(stop)("; ".join(kept) or "no video was written") from stop
    phases.tell(f"{made.video}" + (f" and {made.sheet.name}" if made.sheet else ""))
    return made.video


def loaded(cfg: DictConfig, given: Files, phases: Phases) -> Model | Person:
    """Load the model or the person, with the options of the config."""
    numbers = {name: value for name, value in plain(cfg.finetune).items() if name != "steps"}
    return load(
        given.model, settings=Settings(**{field.name: cfg[field.name] for field in fields(Settings)}),
        framing=None if given.is_person else Framing(**cfg.framing), detector=instantiate(cfg.detector),
        device=cfg.device, provenance=cfg.provenance, finetune=numbers, loss=loss_of(cfg),
        certificate=None if cfg.certificate is None else Path(cfg.certificate),
        progress=phases,
    )  # fmt: skip


def check_method(cfg: DictConfig, given: Files) -> None:
    """Raise ValueError for options of fine-tuning that would be ignored because nothing is fine-tuned."""
    name, steps = str(next(iter(cfg.method))), cfg.finetune.steps
    if name not in ("ff", "ft"):
        raise ValueError(f"method={name}: choose ff (feed-forward) or ft (fine-tuned)")
    of_learning = ("finetune.", "finetune=", "loss.", "loss=", "method=ft")
    asked = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    unused = [one for one in asked if one.lstrip("+").startswith(of_learning)]
    if given.is_person and unused:
        raise ValueError(f"{unused[0]}: checkpoint={given.model} is a person who has been learned; leave it out")
    if name == "ff" and unused:
        raise ValueError(f"{unused[0]} is for fine-tuning, and method=ff does none: add method=ft, or leave it out")
    if name == "ft" and steps is not None and steps < 1:
        raise ValueError(f"finetune.steps={steps}: at least 1, or method=ff")


def steps_of(cfg: DictConfig, model: Model | Person) -> int:
    """Fine-tuning steps; 0: feed-forward, or a person from a file."""
    if isinstance(model, Person) or next(iter(cfg.method)) == "ff":
        return 0
    return cfg.finetune.steps or model.usual_steps


def loss_of(cfg: DictConfig) -> Loss | None:
    """The loss of fine-tuning, if the config has one and it will be used."""
    if not cfg.get("loss") or next(iter(cfg.method)) != "ft":
        return None
    return instantiate(cfg.loss.content), {name: float(weight or 0) for name, weight in cfg.loss.weights.items()}


def plain(node: DictConfig) -> Any:
    """A section as dicts and lists."""
    return OmegaConf.to_container(node, resolve=True)
