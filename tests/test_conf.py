"""Numbers in conf/ that must agree are stated once, and those that cannot be derived from each other do agree."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, ListConfig, OmegaConf

from talkinghead.preparation.clip import Settings as PreparationSettings
from talkinghead.reenactment.animation import Look
from talkinghead.reenactment.pipeline import Settings
from talkinghead.studio.uploads import Limits

CONF = Path(__file__).parents[1] / "conf"
PRESETS = sorted(path.stem for path in CONF.glob("model/*.yaml"))
OURS = [name for name in PRESETS if name.startswith(("fsth", "warp"))]
SAMPLED = 40  # a size that no preset has


def composed(name: str, *overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, [*overrides, "paths.root_dir=.", "paths.output_dir=."])


def numbers(node: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values, interpolations resolved; of lists the last element."""
    for key in node:
        value = node[key]
        if isinstance(value, DictConfig):
            yield from numbers(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value[-1] if isinstance(value, ListConfig) and len(value) else value


@pytest.mark.parametrize("preset", OURS)
def test_n_is_stated_once(preset: str) -> None:
    model = composed("config", f"model={preset}", "num_videos=1", f"model.embedding_size={SAMPLED}").model
    assert model.embedder.channels[-1] == model.generator.embedding_size == model.discriminator.channels[-1] == SAMPLED


@pytest.mark.parametrize("preset", PRESETS)
def test_the_image_size_is_stated_once(preset: str) -> None:
    model = composed("config", f"model={preset}", "num_videos=1", f"model.image_size={SAMPLED}")
    sizes = {key: value for key, value in numbers(model.model) if key.endswith("image_size")}
    assert set(sizes.values()) == {SAMPLED}
    assert model.data.size == SAMPLED


@pytest.mark.parametrize("people", ["self", "cross", "stills"])
def test_test_people_are_shown_at_the_size_of_the_model(people: str) -> None:
    config = composed(
        "evaluate",
        f"people={people}",
        f"model.image_size={SAMPLED}",
        "people.root=x" if people == "stills" else "seed=0",
    )
    assert config.people.size == config.data.size == SAMPLED


def test_the_face_network_sees_frames_as_they_are_stored() -> None:
    data = composed("config", "data=faces", f"data.size={SAMPLED}").data
    assert data.build.image_size == SAMPLED


EXPERIMENTS = sorted(path.stem for path in CONF.glob("experiment/meta_*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_validation_has_the_shots_that_it_wants(experiment: str) -> None:
    config = composed("config", f"experiment={experiment}")
    assert max(config.validation_shots) <= config.data.val_shots
    build = config.data.get("build") or {}
    assert config.data.val_shots < build.get("eval_frames", 1000), "and a target"
    assert config.shots < build.get("frames_per_clip", 1000), "and a target"


@pytest.mark.parametrize("data", ["synthetic", "synthetic_128", "synthetic_256", "videos"])
def test_test_people_have_the_frames_that_the_protocol_wants(data: str) -> None:
    config = composed("evaluate", f"data={data}", *(["data.path=x", "data.build.source.root=x"] * (data == "videos")))
    choice, build = config.frame_choice, config.data.build
    assert max(config.shots) <= choice.max_shots
    frames = build.settings.frames_per_clip if data == "videos" else build.test_frames
    assert frames == choice.max_shots + choice.num_targets
    if data == "videos":
        assert build.settings.min_frames == choice.max_shots + choice.min_targets


@pytest.mark.parametrize(
    ("name", "section", "defaults"),
    [
        ("animate", None, asdict(Settings())), ("animate", "look", asdict(Look())),
        ("studio", "settings", asdict(Settings())), ("studio", "limits", asdict(Limits())),
    ],
)  # fmt: skip
def test_a_command_and_python_have_the_same_defaults(name: str, section: str | None, defaults: dict) -> None:
    """`talkinghead.load` has those of the classes, a command those of its file."""
    config = composed(name)
    options = config if section is None else config[section]
    shared = [key for key in options if key in defaults]
    assert len(shared) >= 5
    assert {key: options[key] for key in shared} == {key: defaults[key] for key in shared}


def test_preparation_has_the_defaults_of_its_class() -> None:
    settings = composed("prepare", "source=folder", "source.root=x", "output=x").settings
    assert {key: value for key, value in settings.items() if key != "_target_"} == asdict(PreparationSettings())


def test_the_studio_crops_as_the_command_does() -> None:
    assert composed("studio").framing == composed("animate").framing


def test_a_metric_of_validation_is_the_metric_of_evaluation() -> None:
    validation, evaluation = (OmegaConf.load(CONF / f"metrics/{name}.yaml") for name in ("default", "evaluation"))
    assert OmegaConf.merge(evaluation, validation) == evaluation


def test_the_offline_loss_weighs_as_the_one_that_it_stands_in_for() -> None:
    weights = [composed("config", f"loss={name}").loss.weights for name in ("warp", "warp_offline")]
    assert weights[0] == weights[1]
