"""Animate: `python animate.py source=portrait.jpg driving=clip.mp4 model=FILE`: a portrait moved by a driving video."""

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from talkinghead.cli import early
from talkinghead.reenactment.files import Files, check_files, dashed, file_arguments, names_of

FILES = ("source", "driving", "output", "model", "save_person")
OFFERS = {"method": ("ff", "ft"), "learner": ("finetune", "finetune_small")}  # of groups that have more

if __name__ == "__main__":  # before the imports that take seconds
    if hint := dashed(sys.argv[1:], FILES):
        sys.exit(f"animate.py: {hint}")
    sys.argv[1:] = file_arguments(sys.argv[1:], FILES)
    early.answer("animate", "python animate.py", OFFERS)

import av
import hydra
import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from talkinghead.learners.finetune import PersonReenactor
from talkinghead.learners.newcomers import PARTS, Newcomers
from talkinghead.models.person import load_person
from talkinghead.preparation.crop import Framing
from talkinghead.processes import stopped, terminate_cleanly
from talkinghead.provenance import find_signer
from talkinghead.reenactment.animation import Look
from talkinghead.reenactment.phases import Phases
from talkinghead.reenactment.pipeline import Learned, Pipeline, Remembered, Settings, find_device
from talkinghead.reenactment.source import Portrait, points_of
from talkinghead.reenactment.targets import check_targets, stamp, sweep


@hydra.main(version_base="1.3", config_path="conf", config_name="animate")
def main(cfg: DictConfig) -> None:
    """Make the video."""
    terminate_cleanly()  # a cluster's end of time cleans up as Ctrl-C does
    told(cfg)


def told(cfg: DictConfig) -> None:
    """Make the video; what a user can mend ends the program with one line."""
    try:
        run(cfg)
    except KeyboardInterrupt as stop:
        stopped("animate.py", stop, str(stop) or "no video was written; the same command starts again")
    except InstantiationException as error:  # a pretrained network that is not there, for example
        sys.exit(f"animate.py: {error.__cause__ or error}")
    except (ValueError, OSError, ImportError, av.FFmpegError) as error:
        sys.exit(f"animate.py: {error}")


def run(cfg: DictConfig) -> Path:
    """All phases; returns the video."""
    asked, phases = cfg.files, Phases()
    folder = Path(cfg.paths.outputs_dir) / "animate"
    given = check_files(names_of(asked.source), asked.driving, asked.model, asked.output, folder)
    look = Look(**plain(cfg.look))
    check_targets(given.inputs, given.output, look.sheet > 0, None if given.is_person else asked.save_person)
    if given.is_shipped:
        phases.tell(
            f"model: {given.model.stem}, which ships with the project. It has seen synthetic heads only, no real face"
        )
    settings = Settings(**{field.name: cfg[field.name] for field in fields(Settings)})
    signer = find_signer(cfg.provenance, None if cfg.certificate is None else Path(cfg.certificate))
    if signer is None and cfg.provenance == "auto":
        phases.tell("the statement of origin is plain; to have it signed: pip install 'talkinghead[provenance]'")
    device = find_device(cfg.device)
    person, crop = remembered(given, device) if given.is_person else learned(cfg, given, device, phases)
    detector = instantiate(cfg.detector)
    pipeline = Pipeline(detector, Framing(**(crop or cfg.framing)).checked(), settings, phases, device, signer)
    if swept := sweep(given.output.parent):
        phases.tell(f"removed what killed runs had left in {given.output.parent}: {len(swept)} temporary files")
    before = stamp(given.output)
    try:
        made = pipeline(given.sources, given.driving, person, look, given.output)
    except KeyboardInterrupt as stop:
        new = stamp(given.output) not in (None, before)
        saved = Path(asked.save_person).with_suffix(".safetensors") if asked.save_person else None
        kept = f"{given.output} is whole" if new else "no video was written"
        if saved and saved.is_file():
            kept += f"; the person is kept: model={saved}"
        raise type(stop)(kept) from stop
    phases.tell(f"{made.video}" + (f" and {made.sheet.name}" if made.sheet else ""))
    return made.video


def remembered(given: Files, device: str) -> tuple[Remembered, dict[str, Any] | None]:
    """A person from disk, and the crop it was learned with."""
    generator, about = load_person(given.model)
    points = about.get("source_points")
    reenactor = PersonReenactor(generator.to(device))
    size, points = about["preset"]["image_size"], None if points is None else np.array(points, float)
    return Remembered(reenactor, size, points), about.get("crop")


def learned(cfg: DictConfig, given: Files, device: str, phases: Phases) -> tuple[Learned, None]:
    """A new person, kept on disk where `save_person` says so."""
    name = str(next(iter(cfg.method)))
    if name not in ("ff", "ft"):
        raise ValueError(f"method={name}: choose ff (feed-forward) or ft (fine-tuned)")
    steps = cfg.finetune.steps
    if name == "ft" and steps is not None and steps < 1:
        raise ValueError(f"finetune.steps={steps}: at least 1, or method=ff")
    people = newcomers(cfg, given.model, device)
    steps = (steps or people.steps) if name == "ft" else 0

    def keep(person: PersonReenactor, portraits: Sequence[Portrait]) -> None:
        points = points_of(portraits[0], people.size)
        if path := cfg.files.save_person:
            phases.tell(f"the person: {people.save(path, person, steps, len(portraits), points, plain(cfg.framing))}")

    return Learned(name, people.method(steps), people.size, keep), None


def newcomers(cfg: DictConfig, checkpoint: Path, device: str) -> Newcomers:
    """The methods of a checkpoint, with the fine-tuning that the config describes."""
    numbers = plain(OmegaConf.masked_copy(cfg.finetune, [key for key in cfg.finetune if key not in PARTS]))
    loss = plain(cfg.loss) if cfg.get("loss") else None
    return Newcomers(checkpoint, instantiate, numbers, loss, cfg.paths.weights_dir, device)


def plain(node: DictConfig) -> Any:
    """A section as dicts and lists."""
    return OmegaConf.to_container(node, resolve=True)


if __name__ == "__main__":
    main()
