"""Animate: `python animate.py source=portrait.jpg driving=clip.mp4 model=FILE`: a portrait moved by a driving video."""

import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import av
import hydra
import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf

from evaluate import inside, moved, networks, plain
from talkinghead.learners.checkpoints import git_commit
from talkinghead.learners.finetune import FeedForward, FineTuner, PersonReenactor, Progress
from talkinghead.models.person import files, load_person
from talkinghead.preparation.crop import Framing
from talkinghead.pretrained import digest
from talkinghead.provenance import find_signer
from talkinghead.reenactment.animation import Look, animate, driving_points
from talkinghead.reenactment.driver import Driver, follow_driver, record
from talkinghead.reenactment.phases import Phases
from talkinghead.reenactment.source import Portrait, points_of, read_source, shots_of
from talkinghead.types import Frames

FILES = ("source", "driving", "output", "model", "save_person")


@hydra.main(version_base="1.3", config_path="conf", config_name="animate")
def main(cfg: DictConfig) -> None:
    """Make the video."""
    told(cfg)


def told(cfg: DictConfig) -> None:
    """Make the video; what a user can mend ends the program with one line."""
    try:
        run(cfg)
    except KeyboardInterrupt:
        sys.exit("animate.py: interrupted; no video was written")
    except InstantiationException as error:  # a pretrained network that is not there, for example
        sys.exit(f"animate.py: {error.__cause__ or error}")
    except (ValueError, OSError, ImportError, av.FFmpegError) as error:
        sys.exit(f"animate.py: {error}")


LANDMARK_STYLE = "dlib's 68 points, drawn by talkinghead.data.landmarks.draw_landmarks: lines 2 px wide at 256 px"


class Learned(NamedTuple):
    """A person ready to be driven, and what is known of the source frame."""

    reenactor: PersonReenactor
    size: int
    points: Float[np.ndarray, "68 2"] | None  # landmarks of the source frame, pixels of the networks' pictures


def run(cfg: DictConfig) -> Path:
    """All phases; returns the video."""
    output, phases = check(cfg), Phases()
    look = Look(**plain(cfg.look))
    signer = find_signer(cfg.provenance, None if cfg.certificate is None else Path(cfg.certificate))
    framing, detector = find_framing(cfg), instantiate(cfg.detector)
    detector.check()
    device = find_device(cfg.device)
    torch.manual_seed(cfg.seed)
    portraits = find_portraits(cfg, detector, framing, phases)
    with tempfile.TemporaryDirectory() as folder:
        driver = find_driver(cfg, detector, framing, phases, Path(folder))
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=cfg.precision == "bf16"):
            person = (load if is_person(cfg.files.model) else learn)(cfg, portraits, device, phases)
            points = driving_points(driver, person.points, person.size, cfg.adapt, cfg.reference)
            with phases.phase("drawing", len(points)) as step:
                sheet = animate(
                    person.reenactor, driver, points, portraits[0] if portraits else None, output, look, person.size,
                    device=device, tick=step, about=about(cfg), signer=signer,
                )  # fmt: skip
    phases.tell(f"{output}" + (f" and {sheet.name}" if sheet else ""))
    return output


def about(cfg: DictConfig) -> dict[str, str | int | float]:
    """How the video is made, for its statement of origin: no names of files or people."""
    learned = "person" if is_person(cfg.files.model) else method(cfg)
    return {"method": learned, "adapt": str(cfg.adapt), "seed": int(cfg.seed)}


def find_device(name: str) -> str:
    """The device to compute on. Raises ValueError where it is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not (name.split(":", maxsplit=1)[0] == "cuda" and torch.cuda.is_available()):
        raise ValueError(f"device={name} is not there: choose auto, cpu or, on a machine with a GPU, cuda")
    return name


def check(cfg: DictConfig) -> Path:
    """Mistakes that can be seen before any work; returns where the video goes."""
    check_files(cfg)
    if method(cfg) not in ("ff", "ft"):
        raise ValueError(f"method={method(cfg)}: choose ff (feed-forward) or ft (fine-tuned)")
    for key, allowed in (("precision", ("fp32", "bf16")), ("adapt", ("relative", "absolute"))):
        if cfg[key] not in allowed:
            raise ValueError(f"{key}={cfg[key]}: choose {' or '.join(allowed)}")
    for key in ("face", "driving_face", "min_face", "search_every"):
        if cfg[key] < 1:
            raise ValueError(f"{key}={cfg[key]} must be at least 1")
    if cfg.files.output is not None:
        output = Path(cfg.files.output)
    else:
        of, by = Path(str(sources(cfg)[0] if cfg.files.source else cfg.files.model)), Path(str(cfg.files.driving))
        output = Path(cfg.paths.outputs_dir) / "animate" / f"{of.stem}_{by.stem}.mp4"
    if output.suffix.lower() != ".mp4":
        raise ValueError(f"output={output}: the name of an .mp4 file")
    if output.exists() and any(Path(path).exists() and output.samefile(path) for path in inputs(cfg)):
        raise ValueError(f"output={output} is a source or the driver: it would be overwritten")
    return output


def check_files(cfg: DictConfig) -> None:
    """All that is needed is given and there."""
    if cfg.files.model is None:
        raise ValueError("model=FILE is needed: a checkpoint of train.py, or a person model saved by save_person=FILE")
    if not Path(cfg.files.model).is_file() and not is_person(cfg.files.model):
        raise FileNotFoundError(f"model={cfg.files.model}: there is no such file")
    if cfg.files.driving is None:
        raise ValueError("driving=FILE is needed: a video, or the number of a camera")
    if not isinstance(cfg.files.driving, int) and not Path(cfg.files.driving).is_file():
        raise FileNotFoundError(f"driving={cfg.files.driving}: there is no such file")
    if cfg.files.source is None and not is_person(cfg.files.model):
        raise ValueError("source=FILE is needed: a picture, [a.jpg,b.jpg], a folder of pictures, or a video")


def sources(cfg: DictConfig) -> list[str]:
    """One source, or a list of them, as a list."""
    given = cfg.files.source
    return [str(path) for path in given] if OmegaConf.is_list(given) else [str(given)]


def inputs(cfg: DictConfig) -> list[str]:
    """The files that are read."""
    return [*(sources(cfg) if cfg.files.source else []), str(cfg.files.driving), str(cfg.files.model)]


def method(cfg: DictConfig) -> str:
    """`ff` or `ft`."""
    return str(next(iter(cfg.method)))


def is_person(model: str) -> bool:
    """Two files of that name, not a checkpoint."""
    return Path(model).suffix != ".ckpt" and all(file.is_file() for file in files(model))


def find_framing(cfg: DictConfig) -> Framing:
    """How faces are cropped: as a person model says, else as the config does."""
    known = load_person(cfg.files.model).about.get("crop") if is_person(cfg.files.model) else None
    return Framing(**(known or cfg.framing))


def find_portraits(cfg: DictConfig, detector: Any, framing: Framing, phases: Phases) -> list[Portrait]:
    """The source frames; none for a person model on its own."""
    if cfg.files.source is None:
        return []
    options = {"shots": cfg.shots, "face": cfg.face, "min_face": cfg.min_face}
    with phases.phase("looking at the source") as step:
        paths = [Path(path) for path in sources(cfg)]
        return read_source(paths, detector, framing, **options, tell=phases.tell, start=step.of)


def find_driver(cfg: DictConfig, detector: Any, framing: Framing, phases: Phases, folder: Path) -> Driver:
    """The driver with its face; recorded first where it is a camera."""
    path = Path(str(cfg.files.driving))
    if isinstance(cfg.files.driving, int):
        path = folder / "camera.mp4"
        record(cfg.files.driving, float(cfg.seconds), path, phases.tell)
    with phases.phase("following the driver") as step:
        driver = follow_driver(
            path, detector, framing, face=cfg.driving_face, every=cfg.search_every, min_face=cfg.min_face,
            max_frames=cfg.max_frames, start=step.of,
        )  # fmt: skip
    if (lost := int((~driver.seen).sum())) > 0:
        phases.tell(f"the face was not seen in {lost} of {len(driver.seen)} driving frames: interpolated")
    return driver


def load(cfg: DictConfig, portraits: list[Portrait], device: str, _: Phases) -> Learned:
    """A person from disk; a given source only says where its landmarks are."""
    generator, about = load_person(cfg.files.model)
    size = about["preset"]["image_size"]
    known = about.get("source_points")
    points = points_of(portraits[0], size) if portraits else None if known is None else np.array(known, float)
    return Learned(PersonReenactor(generator.to(device)), size, points)


def learn(cfg: DictConfig, portraits: list[Portrait], device: str, phases: Phases) -> Learned:
    """A new person from the source frames, kept on disk where `save_person` says so."""
    parts: Any = networks(str(cfg.files.model))
    config = inside(str(cfg.files.model))
    size = config["model"]["image_size"]
    shots = Frames(*(part.to(device) for part in shots_of(portraits, size)))
    with phases.phase("learning the person", cfg.finetune.steps if method(cfg) == "ft" else None) as step:

        def watch(_: Progress) -> None:
            step()

        if method(cfg) == "ft":
            reenactor = fine_tuner(cfg, parts, config).to(device).learn(shots, watch)
        else:
            reenactor = FeedForward(parts["embedder"], parts["generator"]).to(device).learn(shots)
    points = points_of(portraits[0], size)
    if cfg.files.save_person:
        about = {
            "method": method(cfg), "num_shots": len(portraits), "source_points": points.tolist(),
            "crop": plain(cfg.framing), "checkpoint": digest(Path(cfg.files.model)),
            "commit": git_commit(Path(__file__).parent), "landmarks": LANDMARK_STYLE,
            "config": {"checkpoint": config, "finetune": numbers_of(cfg) if method(cfg) == "ft" else None},
        }  # fmt: skip
        reenactor.save(cfg.files.save_person, about)
        phases.tell(f"the person: {files(cfg.files.save_person)[0]}")
    return Learned(reenactor, size, points)


def numbers_of(cfg: DictConfig) -> dict[str, Any]:
    """The numbers of a fine-tuning of `steps` steps."""
    given = {"_target_", "embedder", "generator", "discriminator", "content", "weights", "steps"}
    numbers = plain(OmegaConf.masked_copy(cfg.finetune, [key for key in cfg.finetune if key not in given]))
    return {**numbers, "epochs": cfg.finetune.steps, "max_steps": cfg.finetune.steps}


def fine_tuner(cfg: DictConfig, parts: Any, config: dict[str, Any]) -> FineTuner:
    """FT for a number of steps, with the checkpoint's loss or the chosen one."""
    loss = plain(cfg.loss) if cfg.get("loss") else moved(config["loss"], cfg)
    return FineTuner(
        parts["embedder"], parts["generator"], parts["discriminator"], instantiate(loss["content"]),
        {name: float(weight or 0) for name, weight in loss["weights"].items()}, **numbers_of(cfg),
    )  # fmt: skip


def arguments(given: list[str]) -> list[str]:
    """The command line for Hydra: `source=` and `model=` are files here, not the config groups of these names.

    The names of files go as they are, with blanks, brackets and commas.
    """
    changed = []
    for argument in given:
        key, separator, value = argument.partition("=")
        if not separator or key not in FILES:
            changed.append(argument)
            continue
        plainly = value in ("", "null") or value.isdecimal() or value[0] in "['\""
        quoted = '"' + value.replace('"', '\\"') + '"'
        changed.append(f"files.{key}={value if plainly else quoted}")
    return changed


if __name__ == "__main__":
    sys.argv[1:] = arguments(sys.argv[1:])
    main()
