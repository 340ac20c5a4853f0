"""The table that a run, a sweep and a csv end in."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from pytorch_lightning.loggers import CSVLogger

from talkinghead.evaluation.results import ResultKey, Results
from talkinghead.reporting.overview import build_overview, find_methods, flatten
from talkinghead.reporting.sweep_table import SweepTable, finish
from talkinghead.reporting.tables import main
from talkinghead.storage import read_csv

ROOT = Path(__file__).parents[2]


PROTOCOL = "clip_parts_random_32_32"
HUGE = b"data,method,variant,T,person\na,b,-,1," + b"x" * 200_000


def write_rows(path: Path, shots: tuple[int, ...] = (1, 8), seeds: str = "01") -> None:
    """FT on three people, the nearest frame on one."""
    results = Results(path)
    for T in shots:
        for seed in seeds:
            for person in ("anna", "ben", "carl"):
                key = ResultKey("set/test", "ours", "FT", T, person, "0123", "default", "h", seed, PROTOCOL)
                results.add(key, {"identity": person, "ssim": 0.1 * T / 8 + 0.5 + 0.01 * len(person)})
            key = ResultKey("set/test", "nearest", "-", T, "anna", seed=seed, protocol=PROTOCOL)
            results.add(key, {"identity": "anna", "ssim": 0.5, "learning_s": 0.1, "unheard_of": 1.0})


def test_methods_and_shots_with_seeds_and_identities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "results.csv")
    main([str(tmp_path / "results.csv")])
    text = capsys.readouterr().out
    assert "## set/test" in text
    assert "| T | method | seeds | identities | SSIM ↑ | learning (s) ↓ |" in text
    assert "| 1 | FT | 0, 1 | 3 | **0.549** (" in text
    assert "| 8 | nearest | 0, 1 | 1 | 0.500 | 0.10 |" in text
    assert "frame_choice.split=parts" in text
    assert "not in the table: unheard_of" in text


def test_rows_for_a_plot_by_T(tmp_path: Path) -> None:
    write_rows(tmp_path / "results.csv")
    flat = flatten(build_overview(Results(tmp_path / "results.csv").rows()))
    ft = [row for row in flat if (row["method"], row["metric"]) == ("FT", "ssim")]
    assert [(row["T"], row["seeds"], row["identities"]) for row in ft] == [("1", "0 1", "3"), ("8", "0 1", "3")]
    assert float(ft[0]["low"]) < float(ft[0]["mean"]) == pytest.approx(0.0125 + 0.5 + 0.11 / 3)
    assert {row["low"] for row in flat if row["method"] == "nearest"} == {""}, "one person says nothing of others"


def test_settings_are_told_apart_only_where_they_must_be() -> None:
    row = {"data": "d", "method": "ours", "variant": "FT", "T": "1", "seed": "0", "clip": "a", "config": "c"}
    one, other = ({**row, "ssim": "1", "checkpoint": checkpoint} for checkpoint in "xy")

    def labels(*rows: dict[str, str]) -> list[str]:
        return [method.label for method in find_methods(rows)]

    assert labels(one) == ["FT"]
    assert labels(one, other) == ["FT, x", "FT, y"]
    assert labels(one, {**other, "seed": "1"}) == ["FT"], "a training for each seed"
    assert labels(one, {**one, "config": "k"}) == ["FT, c", "FT, k"]
    assert set(build_overview([one, other])[0][1]) == {(1, "FT, x"), (1, "FT, y")}


class Tables(CSVLogger):
    """A logger that has tables, as wandb's has."""

    tables: ClassVar[list[Any]] = []

    def log_table(self, key: str, columns: list[str], data: list[list[str]]) -> None:
        self.tables.append((key, columns, data))


def test_a_run_ends_with_its_table_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "results.csv")
    logger = Tables(tmp_path, name=None, version="metrics")
    finish(Results(tmp_path / "results.csv").rows(), tmp_path, "this run", [logger])
    text = capsys.readouterr().out
    assert "set/test: mean over identities, 95 % interval" in text
    assert "0, 1" in text
    assert f"{tmp_path}/table.csv" in text
    logged = read_csv(tmp_path / "metrics/metrics.csv")
    assert [(row["step"], row["table/set/test/FT/ssim"][:5]) for row in logged] == [("1", "0.549"), ("8", "0.636")]
    means, intervals, results = logger.tables[-3:]
    assert (means[0], intervals[0], results[0]) == ("table", "table_intervals", "results")
    assert {"T", "method", "metric", "mean"} <= set(intervals[1])
    assert len(intervals[2]) == len(read_csv(tmp_path / "table.csv")) == 6
    lines = [dict(zip(means[1], line, strict=True)) for line in means[2]]
    assert [(line["T"], line["method"]) for line in lines] == [(1, "FT"), (1, "nearest"), (8, "FT"), (8, "nearest")]
    assert lines[0]["ssim"] == pytest.approx(0.549, abs=1e-3), "a number, by which wandb can sort and plot"
    assert len(results[2]) == len(read_csv(tmp_path / "results.csv"))


def test_a_sweep_ends_with_the_rows_of_all_its_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (shots, seed) in enumerate([(1, "0"), (1, "1"), (8, "0"), (8, "1")]):
        write_rows(tmp_path / str(number) / "rows.csv", (shots,), seed)
    (tmp_path / "4").mkdir()  # a job that failed
    SweepTable().on_multirun_end(SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(tmp_path)))))
    assert "table of the sweep" in capsys.readouterr().out
    ft = [row for row in read_csv(tmp_path / "table.csv") if (row["method"], row["metric"]) == ("FT", "ssim")]
    assert [(row["T"], row["seeds"]) for row in ft] == [("1", "0 1"), ("8", "0 1")]


def test_a_sweep_of_training_runs_ends_with_their_last_validations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, seed in enumerate("012"):
        job = tmp_path / str(number)
        (job / ".hydra").mkdir(parents=True)
        (job / ".hydra/overrides.yaml").write_text(f"- experiment=meta_synthetic\n- seed={seed}\n")
        rows = [f"{epoch},{9 + epoch},{T},model,0.{epoch}{T}{seed}" for epoch in (0, 1) for T in (1, 8)]
        if seed != "2":  # that one failed
            (job / "validation.csv").write_text("\n".join(["epoch,step,T,method,ssim", *rows, ""]))
    SweepTable().on_multirun_end(SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(tmp_path)))))
    text = capsys.readouterr().out
    assert "last validation of each job" in text
    assert "no validation in job 2" in text
    rows = read_csv(tmp_path / "validation_table.csv")
    assert [(row["job"], row["seed"], row["epoch"], row["T"], row["ssim"]) for row in rows] == [
        ("0", "0", "1", "1", "0.110"), ("0", "0", "1", "8", "0.180"),
        ("1", "1", "1", "1", "0.111"), ("1", "1", "1", "8", "0.181"),
    ]  # fmt: skip
    assert "experiment" not in rows[0], "all jobs have it"


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff\xfe", HUGE, None])
def test_what_is_no_csv_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "results.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        main([str(path)])
    message = str(end.value)
    assert message.startswith("talkinghead.reporting.tables: ")
    assert str(path) in message
    assert "\n" not in message
    with pytest.raises(SystemExit, match="is a folder"):
        main([str(tmp_path)])
    (tmp_path / "bad.csv").write_text("data,method,variant,T,person,ssim\nd,m,-,1,anna,much\n")
    with pytest.raises(SystemExit, match="ssim is 'much', not a number"):
        main([str(tmp_path / "bad.csv")])


def test_the_command(tmp_path: Path) -> None:
    write_rows(tmp_path / "results.csv", (1,), "0")
    command = [sys.executable, "-m", "talkinghead.reporting.tables", str(tmp_path / "results.csv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "| 1 | FT | 0 | 3 |" in done.stdout
    assert "Warning" not in done.stderr
