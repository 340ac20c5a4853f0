"""The studio: `python -m talkinghead.studio [checkpoint=FILE] [port=7860] [host=127.0.0.1]`, pages in the browser."""

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from talkinghead.api import Person, load
from talkinghead.cli import CONF
from talkinghead.cli.checking import missing_package
from talkinghead.faces.crop import Framing
from talkinghead.options import Range, check_numbers
from talkinghead.pretrained import set_weights_folder
from talkinghead.processes import terminate_cleanly
from talkinghead.reenactment.inputs import SHIPPED, find_model
from talkinghead.reenactment.pipeline import Settings, find_device
from talkinghead.storage import in_one_line
from talkinghead.studio.animator import Animator
from talkinghead.studio.job_queue import JobQueue
from talkinghead.studio.uploads import Limits
from talkinghead.studio.work_folder import workplace
from talkinghead.study.study import load_study

KINDS = {"portraits": "*.jpg", "drivers": "*.mp4"}
NUMBERS = {"port": Range(1, 65_535, optional=True), "keep_minutes": Range(0.1, 1e6, whole=False)}


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="studio")
def main(cfg: DictConfig) -> None:
    """Serve the pages until Ctrl-C or SIGTERM."""
    terminate_cleanly()  # a service manager's SIGTERM closes it as Ctrl-C does
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    run_or_exit(cfg)


def run_or_exit(cfg: DictConfig) -> None:
    """Serve; an error that the user can fix ends the program with one line."""
    try:
        serve(cfg)
    except InstantiationException as error:
        sys.exit(f"studio: {error.__cause__ or error}")
    except ModuleNotFoundError as error:
        sys.exit(f"studio: {missing_package(error)}")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"studio: {in_one_line(error)}")


def serve(cfg: DictConfig) -> None:
    """Build the app and serve it; all visitors' files are in one folder, which is deleted at the end."""
    from talkinghead.studio.animate_page import Examples  # noqa: PLC0415, Gradio is an extra
    from talkinghead.studio.app import build_app, launch  # noqa: PLC0415

    check_numbers(cfg, NUMBERS)
    set_weights_folder(cfg.paths.weights_dir)
    study = load_study(cfg.files.study) if cfg.files.study else None
    animator = build_animator(cfg)
    with workplace() as folder:
        queue = JobQueue(folder / "work")
        app = build_app(
            animator, queue, Examples(**find_examples()), about_model(cfg, animator), folder / "files",
            keep=60 * cfg.keep_minutes, study=study,
        )  # fmt: skip
        names = [cfg.names] if isinstance(cfg.names, str) else list(cfg.names or ())
        url = launch(app, cfg.host, cfg.port, animator.limits.megabytes, names, prevent_thread_lock=True)
        print(f"studio: {url}" + (f" and {url}study" if study else "") + "   (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("studio: ended; uploads and results are removed", flush=True)
        finally:
            queue.close(seconds=1.0)
    os._exit(0)  # open connections and a computation that is still stopping would delay the exit by seconds


def find_examples() -> dict[str, dict[str, Path]]:
    """The portraits and drivers that ship, by name."""
    return {
        kind: {path.stem: path for path in sorted((SHIPPED.parent / kind).glob(names))} for kind, names in KINDS.items()
    }


def build_animator(cfg: DictConfig) -> Animator:
    """Load the networks once, with all settings. Raises ValueError or OSError for options that do not fit."""
    checkpoint, device, limits = find_model(cfg.files.checkpoint), find_device(cfg.device), Limits(**cfg.limits)
    if not checkpoint.is_file():
        raise FileNotFoundError(f"checkpoint={checkpoint}: there is no such checkpoint")
    numbers = plain(cfg.finetune)
    loss = (instantiate(cfg.loss.content), plain(cfg.loss.weights)) if cfg.get("loss") else None
    detector, framing, settings = instantiate(cfg.detector), Framing(**cfg.framing), Settings(**cfg.settings)
    model = load(
        checkpoint, settings=settings, framing=framing, detector=detector, device=device, provenance=cfg.provenance,
        certificate=None if cfg.certificate is None else Path(cfg.certificate), finetune=numbers, loss=loss,
    )  # fmt: skip
    if isinstance(model, Person):
        raise ValueError(f"checkpoint={checkpoint} is a person; the studio needs networks that learn people")
    model.method(limits.steps)  # a loss with a missing network is reported now, not to the first visitor
    detector.check()
    return Animator(
        model.method, model.image_size, detector, framing.checked(), settings, limits, device=device,
        signer=model.options.signer, steps=model.usual_steps,
    )  # fmt: skip


def about_model(cfg: DictConfig, animator: Animator) -> str:
    """The text at the top of the page: which model it is, and its limits."""
    if cfg.files.checkpoint is None:
        return (
            f"The model behind this page ships with the project: {animator.size} px, trained on synthetic heads only. "
            "**It has never seen a real face**: teeth, glasses and turns beyond 30 degrees come out wrong. A model of "
            "your own, trained on real video such as VoxCeleb, is used with `checkpoint=FILE`."
        )
    return f"Model: `{Path(cfg.files.checkpoint).name}`, {animator.size} px."


def plain(node: DictConfig) -> Any:
    """A section as dicts and lists."""
    return OmegaConf.to_container(node, resolve=True)
