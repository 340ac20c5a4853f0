"""A run goes on as what it is: its own checkpoint, its model, seed and data; rows of W follow their videos."""

import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from talkinghead.data.sampling import EpochOrder
from talkinghead.learners.resuming import find_checkpoint, restore_random_state, save_random_state
from talkinghead.learners.video_rows import ROWS, match_videos, visited_of

CONFIG = {"name": "tiny", "seed": 0, "model": {"width": 8}, "data": {"path": "/a/set", "size": 64, "build": None},
          "learner": {"_target_": "x", "lr": 1.0}, "trainer": {"max_epochs": 3}}  # fmt: skip


def save(folder: Path, age: int = 0, **changes: object) -> Path:
    path = folder / "checkpoints/last.ckpt"
    path.parent.mkdir(parents=True)
    loops = {"fit_loop": {"epoch_progress": {"current": {"completed": 3}}}}
    lightning = {
        "pytorch-lightning_version": "2.6", "epoch": 2, "global_step": 9, "loops": loops, "optimizer_states": [],
        "lr_schedulers": [], "callbacks": {},
    }  # fmt: skip
    torch.save({"state_dict": {}, "config": {**CONFIG, **changes}, **lightning}, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def find(wanted: str | None, root: Path, run: str = "tiny/now", told: bool = False, **changes: object) -> Path | None:
    return find_checkpoint(wanted, {**CONFIG, **changes}, root / run, root, told)


def test_auto_is_the_checkpoint_of_this_run_alone(tmp_path: Path) -> None:
    save(tmp_path / "tiny/other")
    assert find("auto", tmp_path) is None
    mine = save(tmp_path / "tiny/now")
    assert find("auto", tmp_path) == mine
    assert find(None, tmp_path) is None


def test_last_is_the_newest_of_the_same_model_seed_and_data(tmp_path: Path) -> None:
    older, newer = save(tmp_path / "tiny/a", age=9), save(tmp_path / "tiny/b", seed=1)
    assert find("last", tmp_path) == older
    assert find("last", tmp_path, seed=1) == newer
    assert find("last", tmp_path, told=True) == newer
    with pytest.raises(ValueError, match=r"seed: 1 there, 2 here.*allow_other_run=true") as caught:
        find("last", tmp_path, seed=2)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no run under"):
        find("last", tmp_path / "nowhere")


@pytest.mark.parametrize("change", [
    {"model": {"width": 9}}, {"seed": 5}, {"data": {**CONFIG["data"], "path": "/else"}}, {"learner": {"_target_": "y"}},
])  # fmt: skip
def test_another_run_is_refused_unless_told(tmp_path: Path, change: dict) -> None:
    path = save(tmp_path / "tiny/now")
    with pytest.raises(ValueError, match="is of another run"):
        find("auto", tmp_path, **change)
    assert find(str(path), tmp_path, told=True, **change) == path


def test_what_differs_and_what_is_finished_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "tiny/now")
    moved = {**CONFIG["data"], "path": "/b/set"}
    find("auto", tmp_path, data=moved, learner={"_target_": "x", "lr": 2.0})
    assert "learner.lr: 1.0 there, 2.0 here" in caplog.text
    assert "is finished: it has had 3 epochs" in caplog.text
    caplog.clear()
    find("auto", tmp_path, trainer={"max_epochs": 4})
    assert "is finished" not in caplog.text


@pytest.mark.parametrize("kept", [{}, {"loops": {}, "epoch": "x"}])
def test_weights_alone_are_no_run_to_go_on_with(tmp_path: Path, kept: dict) -> None:
    torch.save({"state_dict": {}, "config": CONFIG, **kept}, tmp_path / "small.ckpt")
    with pytest.raises(ValueError, match=r"small\.ckpt is not what a run saves.*init_from=FILE") as caught:
        find(str(tmp_path / "small.ckpt"), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04half"])
def test_no_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"ckpt_path=.* is (no|not a) checkpoint") as caught:
        find(str(tmp_path / "x.ckpt"), tmp_path)
    assert "\n" not in str(caught.value)


def test_rows_follow_the_names_of_their_videos(caplog: pytest.LogCaptureFixture) -> None:
    rows = torch.arange(6.0).view(3, 2)
    moments = {"state": {0: {"exp_avg": rows + 10, "step": 4}}}
    checkpoint = {"videos": ["a", "b", "c"], "state_dict": {ROWS: rows}, "optimizer_states": [moments]}
    fresh = torch.full((4, 2), -1.0)
    match_videos(checkpoint, ["c", "new", "a", "newer"], {ROWS: fresh})
    assert checkpoint["state_dict"][ROWS].tolist() == [[4, 5], [-1, -1], [0, 1], [-1, -1]]
    assert moments["state"][0]["exp_avg"].tolist() == [[14, 15], [0, 0], [10, 11], [0, 0]]
    assert checkpoint["visited"].tolist() == [True, False, True, False], "new rows are to be filled, others are trained"
    assert "2 of 4 rows of W are matched by name, 2 are new, 1 are gone" in caplog.text


def test_rows_that_were_not_visited_yet_stay_so_wherever_they_move() -> None:
    checkpoint = {"videos": ["a", "b"], "state_dict": {ROWS: torch.eye(2)}, "visited": torch.tensor([True, False])}
    match_videos(checkpoint, ["b", "a"], {ROWS: torch.zeros(2, 2)})
    assert checkpoint["visited"].tolist() == [False, True]
    for wrong in (7, torch.ones(2), torch.ones(3, dtype=torch.bool)):
        with pytest.raises(ValueError, match="true or false for each of its 2 rows"):
            visited_of({"visited": wrong}, 2)


def test_rows_without_names_are_never_shifted() -> None:
    rows = torch.arange(6.0).view(3, 2)
    same = {"videos": ["a", "b", "c"], "state_dict": {ROWS: rows}}
    match_videos(same, ["a", "b", "c"], {ROWS: torch.zeros(3, 2)})
    assert same["state_dict"][ROWS] is rows
    with pytest.raises(ValueError, match="3 rows of W and the data set 4 videos"):
        match_videos({"state_dict": {ROWS: rows}}, ["a"] * 4, {ROWS: torch.zeros(4, 2)})


@pytest.mark.parametrize("lanes", [1, 3])
def test_videos_are_visited_equally_often_whatever_their_clips(lanes: int) -> None:
    videos = np.repeat(np.arange(12), [30, 1, 5, 1, 1, 1, 7, 1, 1, 1, 1, 10])  # 60 clips of 12 videos
    videos = np.random.default_rng(0).permutation(videos).tolist()
    order = EpochOrder([20, 20, 20], lanes, seed=0, window=2, videos=videos)
    visits = [order(epoch, lane, n).clip for epoch in range(40) for lane in range(lanes) for n in range(12 // lanes)]
    rows = Counter(int(videos[clip]) for clip in visits)
    assert set(rows.values()) == {40}
    often = Counter(clip for clip in visits if videos[clip] == np.bincount(videos).argmax())
    assert len(often) >= 18  # of its 30 clips in 40 epochs
    over_clips = EpochOrder([20, 20, 20], lanes, seed=0, window=2)
    uneven = Counter(int(videos[over_clips(0, lane, n).clip]) for lane in range(lanes) for n in range(60 // lanes))
    assert max(uneven.values()) == 30
    again = EpochOrder([20, 20, 20], lanes, seed=0, window=2, videos=videos)
    assert [again(39, lanes - 1, n) for n in range(4)] == [order(39, lanes - 1, n) for n in range(4)]


def test_one_clip_a_video_is_the_same_order_either_way() -> None:
    plain, drawn = EpochOrder([7, 5], 2, seed=3), EpochOrder([7, 5], 2, seed=3, videos=list(range(12)))
    assert [plain(1, 1, n) for n in range(20)] == [drawn(1, 1, n) for n in range(20)]


def test_the_random_numbers_of_cpu_and_device_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)  # in place of a GPU's

    def restore(state: torch.Tensor, _: torch.device) -> None:
        generator.set_state(state)

    module = SimpleNamespace(get_rng_state=lambda _: generator.get_state(), set_rng_state=restore)
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    checkpoint: dict[str, Any] = {}
    save_random_state(checkpoint, torch.device("cuda"))
    first = torch.rand(3), torch.rand(3, generator=generator)
    restore_random_state(checkpoint, torch.device("cuda"))
    assert torch.equal(torch.rand(3), first[0])
    assert torch.equal(torch.rand(3, generator=generator), first[1])
    restore_random_state({**checkpoint, "device_rng": torch.zeros(9, dtype=torch.uint8)}, torch.device("cuda"))
    restore_random_state(checkpoint, torch.device("cpu"))
    assert torch.equal(torch.rand(3), first[0])
    save_random_state(on_cpu := {}, torch.device("cpu"))
    assert set(on_cpu) == {"rng"}
