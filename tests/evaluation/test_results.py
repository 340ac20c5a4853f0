"""results.csv: keyed rows that several processes add to, whole at every moment."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from talkinghead.evaluation.results import ALL_CLIPS, ResultKey, Results

KEY = ResultKey("synthetic/test", "ours", "FT", 8, "anna", "0123456789ab", "default", "ba9876543210")


def test_columns_and_numbers(tmp_path: Path) -> None:
    results = Results(tmp_path / "new" / "results.csv")
    assert results.rows() == []
    results.add(KEY, {"num_targets": 32, "ssim": 0.123456789, "nme": float("nan"), "learning_s": 1.0, "commit": "c"})
    header, row = (tmp_path / "new" / "results.csv").read_text().splitlines()
    assert header == (
        "data,method,variant,T,seed,clip,identity,num_targets,ssim,nme,"
        "learning_s,ms_per_frame,checkpoint,config,config_hash,protocol,clips,commit"
    )
    assert row == "synthetic/test,ours,FT,8,-,anna,,32,0.123457,nan,1,,0123456789ab,default,ba9876543210,-,-,c"


def test_rows_of_before_there_were_seeds_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(
        "data,method,variant,T,person,num_targets,ssim,checkpoint,config,config_hash,commit\n"
        "synthetic/test,ours,FT,8,anna,32,0.5,0123456789ab,default,ba9876543210,c\n"
    )
    old = Results(path).find(KEY)
    assert old is not None
    assert (old["seed"], old["protocol"]) == ("-", "-")
    Results(path).add(replace(KEY, seed="0", protocol="clip_parts_random_32_32"), {"ssim": 0.6})
    assert [(row["seed"], row["ssim"]) for row in Results(path).rows()] == [("-", "0.5"), ("0", "0.6")]


HEADER = b"data,method,variant,T,person\n"
NO_CSV = {
    "binary": (b"\x89PNG\r\n\x1a\n\xff\x00\x01", "is no csv file"),
    "zeros": (b"data,method\0,variant\n", "is no csv file|no column"),
    "huge": (HEADER + b"a,b,-,1," + b"x" * 200_000 + b"\n", "field larger than field limit"),
    "other": (b"a,b\n1,2\n", "no column data, method, variant, T, clip"),
    "cells": (HEADER + b"a,b,-,1\n", "row 1 has not as many cells"),
    "shots": (HEADER + b"a,b,-,many,anna\n", "row 1: T is 'many'"),
}


@pytest.mark.parametrize("name", NO_CSV)
def test_what_is_no_results_csv_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    content, message = NO_CSV[name]
    path = tmp_path / "results.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        Results(path).rows()
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message):
        Results(path).add(KEY, {"ssim": 0.5})
    assert path.read_bytes() == content, "it stays what it was"


def test_a_folder_of_that_name_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        Results(tmp_path).rows()


def test_a_new_metric_is_a_new_column_and_a_known_key_is_replaced(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.csv")
    bert = ResultKey("synthetic/test", "nearest", "-", 8, "bert")
    results.add(KEY, {"ssim": 0.1})
    results.add(bert, {"ssim": 0.2})
    results.add(KEY, {"ssim": 0.3, "lpips": 0.4})
    assert [(row["clip"], row["ssim"], row["lpips"]) for row in results.rows()] == [
        ("anna", "0.3", "0.4"),
        ("bert", "0.2", ""),
    ]
    found = results.find(bert)
    assert found is not None
    assert found["ssim"] == "0.2"


def test_older_files_say_person_and_people(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("data,method,variant,T,person,ssim,people\nd,ours,FT,8,anna,0.5,-\nd,ours,FT,8,*,,1-abc\n")
    old = Results(path).rows()
    assert [(row["clip"], row["clips"], row["seed"]) for row in old] == [("anna", "-", "-"), ("*", "1-abc", "-")]
    Results(path).add(KEY, {"ssim": 0.1})
    assert [(row["clip"], row["clips"], row["seed"]) for row in Results(path).rows()][:2] == [
        ("anna", "-", "-"),
        ("*", "1-abc", "-"),
    ]
    assert "person" not in path.read_text()


def test_rows_are_told_apart_by_every_part_of_the_key(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.csv")
    results.add(KEY, {"ssim": 0.1})
    others = {"data": "x", "method": "x", "variant": "FF", "T": 1, "checkpoint": "x", "config": "x", "config_hash": "x",
              "seed": "x", "protocol": "x", "clips": "x"}  # fmt: skip
    for name, value in others.items():
        assert results.find(ResultKey(**{**KEY.__dict__, name: value})) is None, name
    results.add(ResultKey(**{**KEY.__dict__, "clip": "bert"}), {"ssim": 0.2})
    together = results.of(ResultKey(**{**KEY.__dict__, "clip": ALL_CLIPS}))
    assert [row["clip"] for row in together] == ["anna", "bert"]


def add_many(path: Path, name: str, count: int) -> None:
    results = Results(path)
    for n in range(count):
        results.add(ResultKey("d", name, "-", 1, f"person{n}"), {"ssim": 0.5, "num_targets": 32})


def start(path: Path, name: str, count: int) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, __file__, str(path), name, str(count)], env=environment)


def test_processes_lose_no_row_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    running = [start(path, name, 40) for name in ("a", "b")]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    rows = Results(path).rows()
    assert len(rows) == 80
    assert {(row["method"], row["clip"]) for row in rows} == {(m, f"person{n}") for m in "ab" for n in range(40)}


def test_a_kill_leaves_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    process = start(path, "a", 10**6)
    deadline = time.monotonic() + 300
    while not path.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with open(path, newline="") as file:
        lines = list(csv.reader(file))
    assert len(lines) > 1
    assert {len(line) for line in lines} == {len(lines[0])}
    before = len(lines) - 1
    Results(path).add(ResultKey("d", "b", "-", 1, "anna"), {"ssim": 0.5})
    assert len(Results(path).rows()) == before + 1


if __name__ == "__main__":
    add_many(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
