"""Three lines of Python: load, learn, animate."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
import yaml
from hydra.utils import instantiate
from PIL import Image
from torch import nn

import talkinghead
from talkinghead.api import FINETUNE, Model, Person
from talkinghead.provenance.reading import read
from talkinghead.reenactment.pipeline import Settings
from tests.cli.test_animate import LOSS, MODEL, SIZE
from tests.helpers.preparation_videos import GreenFace, green_frame, write_clip

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, two portraits and a driver."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    parts = nn.ModuleDict({name: instantiate(MODEL[name]) for name in ("embedder", "generator", "discriminator")})
    torch.save({"state_dict": parts.state_dict(), "config": {"model": MODEL, "loss": LOSS}}, folder / "last.ckpt")
    for n, name in enumerate(("ann", "bob")):
        cv2.imwrite(str(folder / f"{name}.png"), green_frame(120, 160, 50 + 10 * n, 30, 60)[..., ::-1])
    write_clip(folder / "clip.mp4", 6)
    return folder


def load(file: Path, **options: Any) -> Any:
    return talkinghead.load(file, detector=GreenFace(), settings=Settings(precision="fp32"), **options)


def test_a_portrait_comes_alive_and_the_person_is_kept(files: Path, tmp_path: Path) -> None:
    model = load(files / "last.ckpt")
    assert isinstance(model, Model)
    person = model.learn([files / "ann.png"])
    made = person.animate(files / "clip.mp4", tmp_path / "ann.mp4")
    assert made.video == tmp_path / "ann.mp4"
    with av.open(str(made.video)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 6
    assert any(statement["generated"] for statement in read(made.video.read_bytes())), "it says so of itself"

    again = load(person.save(tmp_path / "ann"))
    assert isinstance(again, Person)
    one, other = list(person.frames(files / "clip.mp4")), list(again.frames(files / "clip.mp4"))
    assert len(one) == 6
    assert one[0].shape == (SIZE, SIZE, 3)
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(one, other, strict=True))


def test_pictures_may_be_arrays_names_or_one_of_them(files: Path) -> None:
    model = load(files / "last.ckpt")
    image = cv2.imread(str(files / "ann.png"))[..., ::-1]
    frames = [
        list(model.learn(source).frames(files / "clip.mp4"))
        for source in (
            str(files / "ann.png"),
            [files / "ann.png"],
            image,
            [np.ascontiguousarray(image)],
            Image.open(files / "ann.png"),
        )
    ]
    for other in frames[1:]:
        np.testing.assert_array_equal(frames[0], other)
    with pytest.raises(ValueError, match=r"picture 0 is float64 \[4, 4, 3\]: uint8 \[H, W, 3\] is wanted"):
        model.learn(np.zeros((4, 4, 3)))


def test_steps_fine_tune_and_are_watched(files: Path) -> None:
    model, seen = load(files / "last.ckpt"), []
    person = model.learn(files / "ann.png", steps=3, watch=lambda state, driving: seen.append(state.step))
    assert seen == [1, 2, 3]
    assert person.about["method"] == "ft"
    still, moved = model.learn(files / "ann.png").reenactor.generator.psi, person.reenactor.generator.psi
    assert not torch.equal(still, moved)


def test_learning_and_animating_at_once_are_the_same(files: Path, tmp_path: Path) -> None:
    model = load(files / "last.ckpt")
    model.animate(files / "ann.png", files / "clip.mp4", tmp_path / "one.mp4", steps=2, save=tmp_path / "her")
    model.learn(files / "ann.png", steps=2).animate(files / "clip.mp4", tmp_path / "two.mp4")
    with av.open(str(tmp_path / "one.mp4")) as one, av.open(str(tmp_path / "two.mp4")) as two:
        for a, b in zip(one.decode(video=0), two.decode(video=0), strict=True):
            np.testing.assert_array_equal(a.to_ndarray(), b.to_ndarray())
    assert isinstance(load(tmp_path / "her.safetensors"), Person)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, files: load("nobody"), "model=nobody: there is no such file; warp_256 and fsth_64 ship"),
        (lambda model, files: model.learn("nobody.jpg"), "source=nobody.jpg: there is no such file"),
        (lambda model, files: model.learn([]).animate(files / "clip.mp4", "x.mp4"), "no picture to learn from"),
        (lambda model, files: model.learn(files / "ann.png").animate("no.mp4", "x.mp4"), "driving=no.mp4: there is no"),
        (lambda model, files: model.learn(files / "ann.png").animate(files / "clip.mp4", "x.gif"), r"an \.mp4 file"),
        (lambda model, files: model.learn(files / "ann.png").frames("no.mp4"), "driving=no.mp4: there is no"),
        (lambda model, files: list(model.learn(files / "ann.png").frames(files / "ann.png")), "ann.png"),
        (lambda model, files: model.learn(files / "ann.png", steps=-1), "steps=-1: a whole number from 0 on"),
        (lambda model, files: load(files / "last.ckpt", finetune={"epoch": 3}), "finetune: FineTuner has no epoch"),
        (lambda model, files: load(files / "last.ckpt", device="gpu"), "device=gpu is not there"),
        (lambda model, files: load(files / "last.ckpt", device=7), "device=cuda:7 is not there"),
        (lambda model, files: load(files / "clip.mp4"), r"clip\.mp4"),
        (lambda model, files: model.animate(files / "ann.png", "/dev/null", "x.mp4"), "a pipe or a device"),
        (lambda model, files: model.learn("/dev/null"), "source=/dev/null: it is a pipe or a device"),
        (lambda model, files: load("/dev/null"), "model=/dev/null: it is a pipe or a device"),
        (
            lambda model, files: load(files / "last.ckpt", finetune={"frozen": ["xyz"]}).learn("nobody.jpg", 1),
            "finetune.frozen: the generator has no",
        ),
        (lambda model, files: Settings(face=0), "face=0: a whole number"),
        (lambda model, files: talkinghead.Look(size=15), "look.size=15: a whole number"),
    ],
)
def test_mistakes_are_named(files: Path, call: Any, message: str) -> None:
    with pytest.raises(talkinghead.InputError, match=message):
        call(load(files / "last.ckpt"), files)


def test_nothing_that_is_read_or_that_others_made_is_overwritten(files: Path, tmp_path: Path) -> None:
    for name in ("ann.png", "clip.mp4"):
        shutil.copy(files / name, tmp_path / name)
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "weights.safetensors").write_bytes(b"of another program")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    portrait, clip, model = tmp_path / "ann.png", tmp_path / "clip.mp4", load(files / "last.ckpt")
    person = model.learn(portrait)
    for call in (
        lambda: person.animate(clip, clip),
        lambda: person.animate(clip, tmp_path / "ann.mp4"),  # its contact sheet would be ann.png
        lambda: model.animate(portrait, clip, tmp_path / "ann.mp4"),
        lambda: model.animate(portrait, clip, clip),
        lambda: model.animate(portrait, clip, tmp_path / "new.mp4", save=tmp_path / "notes"),
        lambda: person.save(tmp_path / "notes"),
        lambda: person.save(tmp_path / "weights"),
        lambda: person.save(""),
        lambda: person.save(f"{tmp_path}/"),
        lambda: person.save(tmp_path),
    ):
        with pytest.raises(talkinghead.InputError, match=r"overwritten|not made by|is no person|a folder"):
            call()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    person.save(tmp_path / "her")
    person.save(tmp_path / "her")  # a person may be written again


@pytest.mark.parametrize("value", ["no", "off", "maybe", 2, None])
@pytest.mark.parametrize(
    ("options", "names", "prefix"),
    [
        (talkinghead.Look(), ("paste", "side_by_side", "sound", "mark"), "look."),
        (Settings(), ("blinks", "limits", "one_person"), ""),
    ],
    ids=["look", "settings"],
)  # fmt: skip
def test_words_are_no_truth_values(options: Any, names: tuple[str, ...], prefix: str, value: Any) -> None:
    for name in names:
        wrong = dataclasses.replace(options)
        object.__setattr__(wrong, name, value)  # tests check types at the constructor, users' programs do not
        with pytest.raises(ValueError, match=rf"^{prefix}{name}={value}: true or false is wanted"):
            wrong.__post_init__()


def test_numbers_of_fine_tuning_that_are_not_given_stay(files: Path) -> None:
    method = load(files / "last.ckpt", finetune={"lr_discriminator": 1e-3}).method(steps=2)
    assert method.lr_discriminator == 1e-3
    assert method.weights["fm"] == FINETUNE["weights"]["fm"]
    assert method.num_discriminator_steps == FINETUNE["num_discriminator_steps"]


def test_fine_tuning_numbers_are_those_of_the_config() -> None:
    small = yaml.safe_load((ROOT / "conf/finetune/small.yaml").read_text())
    full = yaml.safe_load((ROOT / "conf/finetune/paper.yaml").read_text())
    merged = {**full, **small, "weights": {**full["weights"], **small["weights"]}}
    assert {name: merged[name] for name in FINETUNE} == FINETUNE


def test_import_is_light() -> None:
    code = "import sys, talkinghead; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


WRONG = """
import sys, talkinghead, torch
folder = sys.argv[1]
model = talkinghead.load("fsth_64")
for call in (
    lambda: model.learn(None), lambda: model.learn([folder + "/ann.png", None]),
    lambda: model.learn(torch.zeros(3, 8, 8)),
    lambda: model.animate(folder + "/ann.png", None, "x.mp4"),
    lambda: model.animate(folder + "/ann.png", ["a.mp4"], "x.mp4"),
    lambda: talkinghead.load("fsth_64", finetune={"batch_size": "x"}).learn(folder + "/ann.png", 1),
):
    try:
        call()
    except talkinghead.InputError as error:
        print(error)
"""


def test_things_of_another_kind_are_named(files: Path) -> None:
    """In a process of its own: under the tests, types are checked at every call."""
    command = [sys.executable, "-c", WRONG, str(files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = "images: a name, a PIL picture or an array uint8 [H, W, 3] is wanted, not "
    driving = "driving: the name of a video, or a camera's number, is wanted, not "
    assert done.stdout.splitlines() == [
        *(wanted + kind for kind in ("NoneType", "NoneType", "Tensor")),
        *(driving + kind for kind in ("NoneType", "list")),
        "finetune.batch_size=x: a whole number from 1 on, please",
    ]
