"""Shards that are missing, cut or damaged are named, and the exit status says so."""

import subprocess
import sys
from pathlib import Path

from tests.helpers.data_sets import make_clip, write_data_set

ROOT = Path(__file__).parents[2]


def run(*folders: Path | str) -> tuple[int, str]:
    command = [sys.executable, "-m", "talkinghead.tools.check_shards", *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_each_kind_of_damage_is_named(tmp_path: Path) -> None:
    clips = [make_clip(n) for n in range(8)]
    data = write_data_set(tmp_path / "data", {"train": [clips[:2], clips[2:4], clips[4:6]], "val": [clips[6:]]})
    assert run(data) == (0, f"{data}: 4 of 4 shards are right; 0 clips are in the others\n")
    missing, cut, damaged = sorted((data / "train").glob("*.tar"))
    missing.unlink()
    content = cut.read_bytes()
    cut.write_bytes(content[:-1])
    other = bytearray(damaged.read_bytes())
    other[len(other) // 2] ^= 1
    damaged.write_bytes(other)
    assert run(data) == (1, (
        f"{missing}: missing\n{cut}: {len(content) - 1} bytes, and not {len(content)}\n"
        f"{damaged}: damaged: another sha256\n{data}: 1 of 4 shards are right; 6 clips are in the others\n"
    ))  # fmt: skip
    url = f"file://{data}"
    status, told = run(url)
    assert (status, told.replace(url, str(data))) == run(data), "at a URL, too"
    status, told = run("file:///nowhere")
    assert (status, "no data set at file:///nowhere" in told, "Traceback" in told) == (2, True, False)
    status, told = run(tmp_path)
    assert status == 2
    assert "has no dataset.json: give the folder of a prepared data set" in told
