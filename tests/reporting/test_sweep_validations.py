"""The table that a sweep of training runs ends with: what each job was given, and its last validation."""

from pathlib import Path

import pytest
from rich.console import Console

from talkinghead.reporting.sweep_validations import (
    TABLE,
    draw,
    last_validation,
    overrides_of,
    own_overrides,
    show_validations,
)
from talkinghead.storage import read_csv


def write_job(folder: Path, overrides: list[str], rows: list[str]) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text("".join(f"- {one}\n" for one in overrides) or "[]\n")
    if rows:
        (folder / "validation.csv").write_text("\n".join(["epoch,step,T,method,ssim", *rows, ""]))


def test_overrides_are_read_by_key_up_to_the_first_equals_sign(tmp_path: Path) -> None:
    write_job(tmp_path, ["seed=1", "+extra=a=b", "++data.path=/x", "'trainer.tags=[a, b]'"], [])
    expected = {"seed": "1", "extra": "a=b", "data.path": "/x", "trainer.tags": "[a, b]"}
    assert overrides_of(tmp_path) == expected


@pytest.mark.parametrize("content", [None, "", "seed: 1\n"])
def test_a_folder_that_does_not_say_was_given_nothing(tmp_path: Path, content: str | None) -> None:
    (tmp_path / ".hydra").mkdir()
    if content is not None:
        (tmp_path / ".hydra/overrides.yaml").write_text(content)
    assert overrides_of(tmp_path) == {}


def test_own_overrides_are_those_in_which_jobs_differ() -> None:
    jobs = [{"model": "a", "seed": "0"}, {"model": "a", "seed": "1"}, {"model": "a", "seed": "1", "lr": "2"}]
    assert own_overrides(jobs) == [{"seed": "0", "lr": ""}, {"seed": "1", "lr": ""}, {"seed": "1", "lr": "2"}]
    assert own_overrides(jobs[:1]) == [{}], "one job differs from none"
    assert own_overrides([]) == []


def test_the_last_validation_has_all_rows_of_the_last_step(tmp_path: Path) -> None:
    write_job(tmp_path, [], ["0,10,1,model,0.1", "0,10,8,model,0.2", "1,20,1,model,0.3", "1,20,8,model,0.4"])
    found = last_validation(tmp_path / "validation.csv")
    assert [(row["T"], row["ssim"]) for row in found] == [("1", "0.3"), ("8", "0.4")]
    (tmp_path / "empty.csv").write_text("epoch,step,T,method,ssim\n")
    assert last_validation(tmp_path / "empty.csv") == last_validation(tmp_path / "nowhere.csv") == []


def test_jobs_are_in_order_of_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (10, 2, 1):
        write_job(tmp_path / str(number), [f"seed={number}"], [f"0,5,1,model,0.{number}"])
    (tmp_path / "logs").mkdir()
    show_validations(tmp_path)
    assert [(row["job"], row["seed"]) for row in read_csv(tmp_path / TABLE)] == [("1", "1"), ("2", "2"), ("10", "10")]
    assert str(tmp_path / TABLE) in capsys.readouterr().out


def test_a_sweep_without_a_validation_writes_and_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_job(tmp_path / "0", ["seed=0"], [])
    show_validations(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert capsys.readouterr().out == ""


def test_the_drawn_table_leaves_empty_what_a_job_was_not_given() -> None:
    rows = [{"job": "0", "lr": "2", "ssim": "0.5"}, {"job": "1", "ssim": "0.6"}]
    console = Console(width=80)
    with console.capture() as shown:
        console.print(draw(rows, ["job", "lr", "ssim"]))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.get().splitlines() if "│" in line]
    assert cells == [["0", "2", "0.5"], ["1", "", "0.6"]]
