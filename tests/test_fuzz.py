"""Damaged and hostile files end in a result or one line: a few of each kind here, a thousand with `-m slow`."""

import random
from pathlib import Path

import pytest

from tests import fuzz
from tests.fuzz_kinds import KINDS, MENDABLE, Kind


@pytest.mark.parametrize("name", KINDS)
def test_some_of_each_kind(name: str) -> None:
    KINDS[name].prepare()
    for number in range(3):
        outcome = fuzz.outcome_of(KINDS[name], number, seed=1)
        assert outcome.name in ("ok", "refused"), outcome


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_thousand(name: str) -> None:
    KINDS[name].prepare()
    outcomes = [fuzz.outcome_of(KINDS[name], number, seed=0) for number in range(130)]
    assert [one for one in outcomes if one.name in fuzz.BAD] == []


def test_a_case_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        KINDS["shard"].make(tmp_path / name, random.Random("a seed"))
    one, two = ((tmp_path / name / "set/test/000000.tar").read_bytes() for name in ("one", "two"))
    assert one == two


def crash(folder: Path) -> None:
    raise RuntimeError("unforeseen")


def hang(folder: Path) -> None:
    while True:
        pass


def write_outside(folder: Path) -> None:
    (folder / "outside").write_text("")


def change(folder: Path) -> None:
    (folder / "x").write_text("other")


def refuse(folder: Path) -> None:
    raise ValueError("in one line")


def refuse_at_length(folder: Path) -> None:
    raise ValueError("in\ntwo lines")


@pytest.mark.parametrize(("use", "name"), [
    (crash, "traceback"), (hang, "hang"), (write_outside, "outside"), (change, "loss"), (refuse, "refused"),
    (refuse_at_length, "traceback"), (lambda folder: None, "ok"), (lambda folder: "wrong: NaN", "wrong"),
])  # fmt: skip
def test_what_happens_is_told(use: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(folder: Path, rng: random.Random) -> str:
        (folder / "x").write_text("whole")
        return "as it is"

    monkeypatch.setattr(fuzz, "CPU_S", 1)
    monkeypatch.setattr(fuzz, "WALL_S", 30)
    assert fuzz.outcome_of(Kind("test", make, use, refusals=MENDABLE), 0, 0).name == name  # type: ignore[arg-type]
