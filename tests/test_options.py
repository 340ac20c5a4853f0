"""Names of files go as they are, and numbers are checked before any work."""

import os
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from talkinghead.faces.crop import Framing
from talkinghead.faces.detectors import Dlib, FaceAlignment
from talkinghead.options import Range, check_numbers
from talkinghead.preparation.clip import Settings as Preparation
from talkinghead.reenactment.animation import Look
from talkinghead.reenactment.inputs import (
    SHIPPED,
    check_files,
    dashed,
    file_arguments,
    names_of,
    with_shipped,
)
from talkinghead.reenactment.pipeline import Settings

NAMES = ("source", "driving", "output", "checkpoint")


def understood(argument: str) -> object:
    """What the config holds in the end."""
    (changed,) = file_arguments([argument], NAMES)
    (override,) = OverridesParser.create().parse_overrides([changed])
    assert override.key_or_group == f"files.{argument.partition('=')[0]}"
    config = OmegaConf.create({"value": override.value()})
    return OmegaConf.to_container(config, resolve=True)["value"]  # type: ignore[index]


@pytest.mark.parametrize(
    "name",
    [
        "портрет.jpg", "a=b.jpg", "my (1).jpg", "my portrait, old.png", "123", "5.mp4", "true", "1e5", "nan", "-1",
        "007", 'a"b', "a\\", 'a\\"b', "it's", "${oc.env:HOME}", "\\${x}", "a${", "$", "{a:1}", "~x", "*?", "a#b", "[x",
        "x]", "a: b", "C:\\x", "a\tb", '"', "C" * 300,
    ],
)  # fmt: skip
def test_a_name_is_taken_as_it_is(name: str) -> None:
    assert understood(f"source={name}") == name
    assert understood(f"output={name}") == name


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("[портрет.jpg]", ["портрет.jpg"]), ("[a=b.jpg]", ["a=b.jpg"]), ("[my (1).jpg,b.jpg]", ["my (1).jpg", "b.jpg"]),
        ("[1,2]", ["1", "2"]), ("[a.jpg, b c.jpg]", ["a.jpg", "b c.jpg"]), ('["a,b.jpg",c.jpg]', ["a,b.jpg", "c.jpg"]),
        ("['a,b.jpg', c{1}.jpg]", ["a,b.jpg", "c{1}.jpg"]), ("[true,${x}]", ["true", "${x}"]), ("[]", []),
    ],
)  # fmt: skip
def test_so_are_the_names_in_a_list(given: str, names: list[str]) -> None:
    assert understood(f"source={given}") == names


def test_files_that_are_there_tell_what_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("[x]", "a, b.jpg", "c.jpg", "'q'"):
        Path(name).touch()
    assert understood("source=[x]") == "[x]"
    assert understood("source='q'") == "'q'"
    assert understood("source=[a, b.jpg,c.jpg]") == ["a, b.jpg", "c.jpg"]


def test_a_camera_is_a_number_and_nothing_is_nothing() -> None:
    assert understood("driving=0") == 0
    assert understood("driving=5.mp4") == "5.mp4"
    assert understood("checkpoint=5") == "5"
    assert understood("source=null") is None
    assert understood("source='quoted by hand.jpg'") == "quoted by hand.jpg"
    assert file_arguments(["shots=1", "+source2=x"], NAMES) == ["shots=1", "+source2=x"]


def test_dashes_are_told() -> None:
    assert dashed(["--source", "a.jpg"], NAMES) == "--source: options are written without dashes, source=a.jpg"
    assert (
        dashed(["x=1", "--output=b.mp4"], NAMES) == "--output=b.mp4: options are written without dashes, output=b.mp4"
    )
    assert dashed(["--model", "b"], NAMES) == "--model: options are written without dashes, model=b"
    assert dashed(["--driving"], NAMES) == "--driving: options are written without dashes, driving=FILE"
    assert dashed(["--help", "source=--source"], NAMES) is None


def test_files_are_checked_before_work(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "d.mp4").touch()
    source, driving = [str(tmp_path / "a.jpg")], str(tmp_path / "d.mp4")
    for model, output, words in (
        ("5", None, "checkpoint=5: there is no such file"), (None, "5", "output=5: the name of an .mp4 file"),
        (None, str(tmp_path / "a.jpg" / "x.mp4"), r"a\.jpg is no folder"),
    ):  # fmt: skip
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            check_files(source, driving, model, output, tmp_path)
    for wrong, words in (
        ({"driving": ["a.mp4", "b.mp4"]}, "driving=.*: one file, please"),
        ({"output": ["x.mp4"]}, "output=.*: one file"),
        ({"model": [1]}, "checkpoint=.*: one file"),
        ({"driving": 10**20}, "there is no such camera; a file of that name is"),
        ({"output": "é" * 120 + ".mp4"}, "its name has 244 bytes, 225 are the most"),
    ):
        with pytest.raises(ValueError, match=words):
            check_files(source, **{"driving": driving, "model": None, "output": None, **wrong}, folder=tmp_path)
    long = tmp_path / ("ж" * 100 + ".jpg")
    long.touch()
    named = check_files([str(long)], driving, None, None, tmp_path).output
    assert len(os.fsencode(named.name)) <= 225
    assert named.name.endswith("_d.mp4")
    given = check_files(source, driving, None, str(tmp_path / "new" / "folder" / "x.mp4"), tmp_path)
    assert given.model == SHIPPED
    assert not (tmp_path / "new").exists()
    assert names_of(123) == ["123"]
    assert names_of(["a", 5]) == ["a", "5"]
    assert names_of(None) == []


def test_ranges() -> None:
    whole, share = Range(1, optional=True), Range(0, 0.5, whole=False)
    assert None in whole
    assert 3 in whole
    assert 0.25 in share
    for value in (0, 1.5, True, "3", float("inf")):
        assert value not in whole, value
    for value in (None, float("nan"), float("inf"), -0.1, 0.6, False, "x"):
        assert value not in share, value
    with pytest.raises(ValueError, match=r"look\.n=abc: a whole number from 1 on, or null, please"):
        check_numbers({"n": "abc"}, {"n": whole}, "look.")


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (Settings, "max_frames", [-3, 0]), (Settings, "shots", [0]), (Settings, "smooth", [float("nan"), -1.0]),
        (Settings, "seconds", [0, float("inf"), -5]), (Settings, "face", [0]), (Settings, "driving_face", [0]),
        (Settings, "min_face", [0]), (Settings, "search_every", [0]), (Settings, "reference", [-1]),
        (Settings, "seed", [-1]),
        (Look, "size", [0, 15, 10**6, -2]), (Look, "feather", [float("nan"), 0.7, -0.1]), (Look, "sheet", [-1, 10**9]),
        (Look, "crf", [52, -1]), (Preparation, "image_size", [0, 10**6]), (Preparation, "frames_per_clip", [0]),
        (Preparation, "fps", [0.0, float("nan"), -25.0]), (Preparation, "min_frames", [0]),
        (Preparation, "min_face", [0]),
        (Preparation, "margin", [0.0, float("nan"), 1e9]), (Preparation, "down", [float("inf")]),
        (Preparation, "quality", [0, 101]), (Preparation, "search_every", [0]),
        (Dlib, "longest", [0, -640]), (Dlib, "threshold", [float("nan")]), (FaceAlignment, "longest", [0]),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_named(kind: type, name: str, values: list) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"{name}={value}: a (whole )?number from .*, please"):
            kind(**{name: value})
    kind()


def test_framing_is_checked_where_it_is_given() -> None:
    for margin, down, words in ((0.0, 0.0, "margin=0.0"), (float("nan"), 0.0, "margin=nan"), (1.7, 1e3, "down=1000.0")):
        with pytest.raises(ValueError, match=rf"framing\.{words}: a number from"):
            Framing(margin, down).checked()
    assert Framing(1.8, 0.1).checked() == (1.8, 0.1)
    with pytest.raises(ValueError, match=r"look\.size=65: an even number"):
        Look(size=65)


def test_a_checkpoint_may_be_called_a_model() -> None:
    assert file_arguments(["model=a.ckpt"], NAMES) == file_arguments(["checkpoint=a.ckpt"], NAMES)
    assert file_arguments(["model=fsth_64"], ["source"]) == ["model=fsth_64"], "a group of train.py and evaluate.py"


def test_train_and_evaluate_take_a_model_that_ships_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["checkpoint=warp_256", "+init_from=warp_256", "method=[ff]", "checkpoint=other.ckpt", "row=warp_256"]
    assert with_shipped(given) == [f'checkpoint="{SHIPPED}"', f'+init_from="{SHIPPED}"', *given[2:]]
    (tmp_path / "warp_256").touch()
    assert with_shipped(given) == given, "a file of that name comes first"
