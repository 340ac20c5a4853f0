"""The verb: a checkpoint, a portrait and a driver become a video; what a user can get wrong is one line."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

import talkinghead
from talkinghead.cli import animate
from talkinghead.cli.launch import VERBS
from talkinghead.learners.checkpoints import networks
from talkinghead.learners.export import shrink
from talkinghead.learners.finetune_defaults import PAPERS
from talkinghead.models.person_file import load_person
from talkinghead.progress import Phases
from talkinghead.reenactment import pipeline
from talkinghead.reenactment.inputs import check_files, file_arguments
from tests.helpers.preparation_videos import GreenFace, green_frame, write_clip

PORTRAIT = "my portrait (1), old.png"
ROOT = Path(__file__).parents[2]
SIZE = 32
FSTH = "talkinghead.models.fsth"
MODEL = {
    "image_size": SIZE,
    "embedder": {"_target_": f"{FSTH}.Embedder", "image_size": SIZE, "channels": [8, 16], "attention": None},
    "generator": {
        "_target_": f"{FSTH}.Generator", "image_size": SIZE, "embedding_size": 16, "down_channels": [8, 16],
        "num_residual": 1, "up_channels": [16, 8], "attention_down": None, "attention_up": None,
    },
    "discriminator": {
        "_target_": f"{FSTH}.Discriminator", "num_videos": 5, "image_size": SIZE, "channels": [8, 16],
        "attention": None,
    },
}  # fmt: skip
LOSS = {
    "weights": {"cnt": 1, "adv": 1, "fm": 10, "mch": 10},
    "content": {
        "_target_": "talkinghead.losses.ContentLoss", "_convert_": "all",
        "backbones": {"laplacian": {"_target_": "talkinghead.models.backbones.LaplacianPyramid"}},
        "weights": {"laplacian": 1.0},
    },
}  # fmt: skip
GREEN_DETECTOR = [
    "detector._target_=tests.helpers.preparation_videos.GreenFace", "~detector.longest", "~detector.threshold",
    "~detector.jitters",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of untrained networks, a portrait and a driver."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    parts = nn.ModuleDict({name: instantiate(MODEL[name]) for name in ("embedder", "generator", "discriminator")})
    nn.init.normal_(parts["discriminator"].W.weight)
    content = {"state_dict": parts.state_dict(), "config": {"model": MODEL, "loss": LOSS}, "optimizer_states": [0]}
    torch.save(content, folder / "last.ckpt")
    cv2.imwrite(str(folder / "my portrait (1), old.png"), green_frame(120, 160, 60, 30, 50)[..., ::-1])
    write_clip(folder / "clip.mp4", 6)
    return folder


def config(files: Path, *overrides: str) -> DictConfig:
    given = [
        f"source={files / PORTRAIT}",
        f"driving={files / 'clip.mp4'}",
        f"checkpoint={files / 'last.ckpt'}",
        "provenance=metadata",  # the default makes a certificate in the user's folder
        *([] if any(override.startswith("method=") for override in overrides) else ["method=ff"]),  # the quick one
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        arguments = file_arguments([*given, *overrides], VERBS["animate"].files)
        return compose("animate", [*arguments, *GREEN_DETECTOR, f"paths.root_dir={files}"])


def frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_portrait_becomes_a_video_beside_source_and_driver(files: Path, tmp_path: Path) -> None:
    output = animate.run(config(files, f"output={tmp_path}/out.mp4", "look.side_by_side=true", "look.size=64"))
    video = frames(output)
    assert video.shape == (6, 64, 3 * 64, 3)
    for panel in (0, 1):  # source, driver
        assert (video[:, 32, panel * 64 + 32, 1] > 180).all(), "the face is in the middle"
    assert np.abs(video[0, :, 128:].astype(int) - video[-1, :, 128:]).mean() > 0.1, "it moves"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "out.png"]


def test_pasted_into_the_picture_and_named_after_both(files: Path) -> None:
    output = animate.run(config(files, "look.paste=true", "look.sheet=0", "max_frames=3"))
    assert output == files / "outputs" / "animate" / "my portrait (1), old_clip.mp4"
    video = frames(output)
    assert video.shape == (3, 120, 160, 3)
    np.testing.assert_allclose(video[:, :10, :10], 40, atol=6)  # the picture's own corner


def test_a_fine_tuned_person_is_kept_and_driven_without_checkpoint_or_source(files: Path, tmp_path: Path) -> None:
    options = ["look.size=null", "look.sheet=0", "max_frames=3"]
    learned = animate.run(
        config(
            files, f"output={tmp_path}/a.mp4", "method=ft", "finetune.steps=3", f"save_person={tmp_path}/her", *options
        )
    )
    about = load_person(tmp_path / "her").about
    assert about["method"] == "ft"
    assert about["config"]["finetune"]["lr_generator"] > 0, "the number that was measured, not null"
    assert "68 points" in about["landmarks"]
    again = animate.run(
        config(files, f"output={tmp_path}/b.mp4", f"checkpoint={tmp_path}/her.safetensors", "source=null", *options)
    )
    np.testing.assert_allclose(frames(again), frames(learned), atol=2)
    feed_forward = animate.run(config(files, f"output={tmp_path}/c.mp4", *options))
    assert np.abs(frames(feed_forward).astype(int) - frames(learned)).max() > 2, "fine-tuning does something"
    card = json.loads((tmp_path / "her.json").read_text())
    del card["source_points"]
    (tmp_path / "her.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="source=FILE, or adapt=absolute"):
        animate.run(config(files, f"output={tmp_path}/d.mp4", f"model={tmp_path}/her", "source=null", *options))


def test_no_steps_are_no_fine_tuning(files: Path) -> None:
    with pytest.raises(ValueError, match=r"finetune\.steps=0: at least 1, or method=ff"):
        animate.run(config(files, "method=ft", "finetune.steps=0"))


def model_of(cfg: DictConfig) -> tuple[Any, int]:
    """The model of a config, and the steps of fine-tuning that it asks for."""
    names = cfg.files
    given = check_files([names.source], names.driving, names.checkpoint, names.output, Path(cfg.paths.outputs_dir))
    model = animate.loaded(cfg, given, Phases())
    return model, animate.steps_of(cfg, model)


def test_steps_that_nobody_asks_for_are_those_measured(files: Path) -> None:
    model, steps = model_of(config(files, "method=ft"))
    tuner = model.method(steps)
    assert (tuner.max_steps, tuner.lr_generator, tuner.lr_psi) == (PAPERS.steps, PAPERS.lr_generator, PAPERS.lr_psi)
    model, steps = model_of(config(files, "method=ft", "finetune=paper"))
    paper = model.method(steps)
    assert (paper.lr_generator, paper.lr_psi, paper.lr_w, paper.weights["motion"]) == (5e-5, 5e-5, 2e-4, 0)


def test_fine_tuning_takes_as_many_steps_as_asked(files: Path) -> None:
    model, steps = model_of(config(files, "method=ft", "finetune.steps=7", "finetune.lr_generator=3e-3"))
    tuner = model.method(steps)
    assert (tuner.epochs, tuner.max_steps, tuner.lr_generator) == (7, 7, 3e-3)
    assert tuner.weights["fm"] == 10
    assert config(files, "finetune=paper").finetune.lr_generator == 5e-5
    model, _ = model_of(config(files, "method=ft", "loss=synthetic"))
    content, _ = model.checkpoint.loss
    assert any("facenet_synthetic" in name for name, _ in content.named_modules()), "not the checkpoint's"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoint=/nowhere/last.ckpt", "there is no such file"),
        ("source=null", "source=FILE is needed"),
        ("source=/nowhere/portrait.jpg", "/nowhere/portrait.jpg: there is no such file"),
        ("driving=null", "driving=FILE is needed"),
        ("driving=/nowhere/clip.mp4", "/nowhere/clip.mp4: there is no such file"),
        ("output=result.avi", "mp4"),
        ("adapt=both", "relative or absolute"),
        ("precision=fp8", "auto or fp32 or bf16"),
        ("device=tpu", "device=tpu is not there"),
        ("search_every=0", "a whole number from 1 on"),
        ("look.size=33", "an even number"),
        ("face=2", "faces found, face=2"),
    ],
)
def test_mistakes_are_told_before_work_is_lost(files: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        animate.run(config(files, f"output={tmp_path}/out.mp4", override))
    assert not list(tmp_path.iterdir())


def test_the_driver_is_not_overwritten(files: Path) -> None:
    before = (files / "clip.mp4").read_bytes()
    with pytest.raises(ValueError, match="would be overwritten"):
        animate.run(config(files, f"output={files}/../{files.name}/clip.mp4"))
    assert (files / "clip.mp4").read_bytes() == before


def test_names_of_files_go_as_they_are() -> None:
    given = ["source=my photo (1), new.jpg", "driving=0", "driving=a=b.mp4", "source=[a.jpg,b.jpg]", "look.paste=true"]
    assert file_arguments(given, VERBS["animate"].files) == [
        'files.source="my photo (1), new.jpg"', "files.driving=0", 'files.driving="a=b.mp4"',
        'files.source=["a.jpg","b.jpg"]', "look.paste=true",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source=clip.txt"], "clip.txt: cannot be read as a picture"),
        (["loss=vgg16", "loss.content.backbones.vgg16.path=/nowhere/vgg.pth"], "/nowhere/vgg.pth"),
    ],
)
def test_the_command_ends_with_one_line(files: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    """A file that is no picture; a fine-tuning loss whose network is not there."""
    (files / "clip.txt").write_text("hello")
    overrides = [override.replace("clip", f"{files}/clip") for override in overrides]
    cfg = config(files, "method=ft", f"output={tmp_path}/out.mp4", *overrides)
    with pytest.raises(SystemExit, match=rf"animate\.py: .*{message}"):
        animate.run_or_exit(cfg)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("model", "option", "message"), [
    ("last.ckpt", "finetune.steps=2", "finetune.steps=2 is for fine-tuning, and method=ff does none: add method=ft"),
    ("last.ckpt", "loss=vgg16", "loss=vgg16 is for fine-tuning"),
    ("her.safetensors", "finetune.steps=2", r"her\.safetensors is a person who has been learned; leave it out"),
    ("her.safetensors", "method=ft", "method=ft: .* is a person who has been learned"),
])  # fmt: skip
def test_options_of_a_fine_tuning_that_is_not_made_are_refused(
    files: Path, tmp_path: Path, model: str, option: str, message: str
) -> None:
    if model.endswith("safetensors"):
        talkinghead.load(files / "last.ckpt", detector=GreenFace()).learn(files / PORTRAIT).save(tmp_path / model)
    else:
        (tmp_path / model).symlink_to(files / model)
    arguments = [f"source={files / PORTRAIT}", f"driving={files / 'clip.mp4'}", f"model={tmp_path / model}", option]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        given = [*file_arguments(arguments, VERBS["animate"].files), *GREEN_DETECTOR, f"paths.root_dir={tmp_path}"]
        cfg = compose("animate", given, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    try:
        with pytest.raises(SystemExit, match=message):
            animate.run_or_exit(cfg)
    finally:
        HydraConfig.instance().cfg = None
    assert not list(tmp_path.rglob("*.mp4"))


def test_an_interruption_is_no_error_to_trace(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "follow_driver", interrupted)
    with pytest.raises(SystemExit, match="130"):
        animate.run_or_exit(config(files))
    assert capsys.readouterr().err.endswith("animate.py: interrupted; no video was written\n")


@pytest.mark.parametrize("where", ["reenactment.side_by_side.marked", "video.writer.mark"])
def test_a_kill_while_files_are_marked_leaves_none(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM while the contact sheet, or the video, is told to say what it is."""
    monkeypatch.setattr(f"talkinghead.{where}", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        cfg = config(files, f"output={tmp_path}/out.mp4", "max_frames=2", "look.sheet=2")
        monkeypatch.setattr("sys.argv", ["animate.py"])
        with pytest.raises(SystemExit, match="143"):
            animate.main.__wrapped__(cfg)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err.endswith("animate.py: terminated; no video was written\n")
    assert not list(tmp_path.iterdir())


def test_a_kill_after_the_video_is_told_as_it_is(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("talkinghead.reenactment.animation.write_atomic", interrupted)
    with pytest.raises(SystemExit, match="130"):
        animate.run_or_exit(config(files, f"output={tmp_path}/out.mp4", "max_frames=2"))
    assert capsys.readouterr().err.endswith(f"animate.py: interrupted; {tmp_path}/out.mp4 is whole\n")
    assert len(frames(tmp_path / "out.mp4")) == 2


def test_what_a_killed_run_left_goes(files: Path, tmp_path: Path) -> None:
    (left := tmp_path / ".old.mp4.0123abcd.tmp").touch()
    os.utime(left, (0, 0))
    animate.run(config(files, f"output={tmp_path}/out.mp4", "max_frames=2", "look.sheet=0"))
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_small_checkpoint_draws_as_the_large_one(files: Path, tmp_path: Path) -> None:
    size = shrink(files / "last.ckpt", tmp_path / "small.ckpt")
    assert size == (tmp_path / "small.ckpt").stat().st_size < 0.6 * (files / "last.ckpt").stat().st_size
    large, small = (networks(str(file)).eval() for file in (files / "last.ckpt", tmp_path / "small.ckpt"))
    assert len(small["discriminator"].W.weight) == 1
    x, y = torch.rand(2, 2, 3, SIZE, SIZE)
    for a, b in zip(outputs(large, x, y), outputs(small, x, y), strict=True):
        torch.testing.assert_close(a, b, atol=2e-2, rtol=2e-2)
    with pytest.raises(FileNotFoundError):
        shrink(tmp_path / "none.ckpt", tmp_path / "out.ckpt")
    torch.save({"state_dict": {}, "config": {"model": {}}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="no checkpoint of ours"):
        shrink(tmp_path / "other.ckpt", tmp_path / "out.ckpt")


@torch.no_grad()
def outputs(parts: nn.ModuleDict, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    e = parts["embedder"](x, y)
    return [e, parts["generator"](y, e), parts["discriminator"].personalize(e[:1])(x, y).score]
