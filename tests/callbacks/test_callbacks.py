"""What callbacks show and guard, on the real Trainer."""

import csv
import re
from pathlib import Path
from typing import Any

import cv2
import pytest
import pytorch_lightning as L
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from talkinghead.callbacks import progress as progress_module
from talkinghead.callbacks.guard import CollapseGuard, TrainingCollapsed
from talkinghead.callbacks.last_checkpoint import LastCheckpoint
from talkinghead.callbacks.metrics_csv import MetricsLogger
from talkinghead.callbacks.previews import PreviewGrid
from talkinghead.callbacks.progress import Progress
from talkinghead.callbacks.table import ValidationTable, append_csv, validation_rows
from talkinghead.callbacks.timing import Timing
from tests.helpers.tiny_learner import BATCH, SHOTS, SIZE, STEPS, TinyLearner, episode, fit

# Previews


def test_preview_grid_shows_fixed_episodes(tmp_path: Path) -> None:
    fit(TinyLearner(), PreviewGrid(tmp_path, num_rows=3, shots=(1, 4, 32)), folder=tmp_path, epochs=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["epoch=0000-step=0000005.png", "epoch=0001-step=0000010.png", "latest.png"]
    grid = cv2.imread(str(tmp_path / "latest.png"))
    columns = 6  # source, landmarks, T=1, T=4, target, nearest; there are no 32 shots
    assert grid.shape == (22 + 3 * 128 + 2 * 4, columns * 128 + (columns - 1) * 4, 3)
    first = cv2.imread(str(tmp_path / names[0]))
    assert (grid[22:, :128] == first[22:, :128]).all()
    assert (grid[22:, 264:392] != first[22:, 264:392]).any()
    source = ((episode(0).shots[0, 0] + 1) / 2 * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1]
    enlarged = cv2.resize(source, (128, 128), interpolation=cv2.INTER_CUBIC)
    assert (grid[22:150, :128] == enlarged).all()


def test_previews_reach_tensorboard(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name=None, version="tensorboard")
    fit(TinyLearner(), PreviewGrid(tmp_path / "previews"), folder=tmp_path, logger=logger)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (image,) = events.Images("previews")
    assert image.step == STEPS
    assert image.height == 22 + 4 * 128 + 3 * 4


def test_previews_prefer_different_clips(tmp_path: Path) -> None:
    class Clips(TinyLearner):
        def val_dataloader(self) -> DataLoader:
            batches = [episode(n)._replace(key=keys) for n, keys in enumerate([["a", "a"], ["b", "a"], ["c", "d"]])]
            return DataLoader(batches, batch_size=None)

    for rows, sources in ((3, [(0, 0), (1, 0), (2, 0)]), (6, [(0, 0), (1, 0), (2, 0), (2, 1), (0, 1), (1, 1)])):
        fit(Clips(), PreviewGrid(tmp_path, num_rows=rows), folder=tmp_path)
        grid = cv2.imread(str(tmp_path / "latest.png"))
        shown = [grid[22 + n * 132 + 64, 4:124:8] for n in range(rows)]
        for pixels, (seed, index) in zip(shown, sources, strict=True):
            source = ((episode(seed).shots[index, 0] + 1) / 2 * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1]
            assert (pixels == cv2.resize(source, (128, 128), interpolation=cv2.INTER_CUBIC)[64, 4:124:8]).all()


# The guard


def faulty(step: int, **changes: Any) -> Any:
    def fault(trainer: L.Trainer, losses: dict, x_hat: torch.Tensor) -> tuple:
        if trainer.fit_loop.total_batch_idx + 1 < step:
            return losses, x_hat
        output = changes.get("output", lambda x: x)(x_hat)
        return losses | {name: torch.tensor(value) for name, value in changes.get("losses", {}).items()}, output

    return fault


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (faulty(3, losses={"loss/cnt": float("nan")}), r"step 3: loss/cnt is nan"),
        (faulty(3, losses={"loss/dsc": float("inf")}), r"step 3: loss/dsc is inf"),
        (faulty(3, output=lambda x: x + torch.nan), r"step 3: output is nan"),
        (faulty(2, output=lambda x: x * 1e-3 - 1), r"step 4: outputs are flat.*3 steps in a row"),
        (faulty(2, output=lambda x: x[:1].expand_as(x)), r"step 4: outputs are all the same"),
        (faulty(1, losses={"loss/dsc": 0.0, "score/real": 30.0}), r"step 4: the discriminator has won.*30\.0"),
    ],
)
def test_guard_stops_and_keeps_the_batch(tmp_path: Path, fault: Any, message: str) -> None:
    guard = CollapseGuard(tmp_path, flat_steps=3, saturated_steps=4, every=1)
    with pytest.raises(TrainingCollapsed, match=message) as error:
        fit(TinyLearner(fault), guard, folder=tmp_path)
    (path,) = tmp_path.glob("collapse-step=*.pt")
    assert str(path) in str(error.value)
    evidence = torch.load(path, weights_only=True)
    assert torch.equal(evidence["episode"]["target"], episode(0).target)
    assert evidence["output"].shape == (BATCH, 3, SIZE, SIZE)
    assert evidence["reason"] in str(error.value)


def test_guard_leaves_healthy_runs_alone(tmp_path: Path) -> None:
    fit(TinyLearner(), CollapseGuard(tmp_path, flat_steps=1, saturated_steps=1, every=1), folder=tmp_path, epochs=2)
    assert not list(tmp_path.glob("*.pt"))


def test_a_short_run_that_is_flat_to_its_end_fails(tmp_path: Path) -> None:
    """60 steps of the 500 that the limit wants: the run must not end as if all were well."""
    flat = TinyLearner(faulty(2, output=lambda x: x * 1e-3 - 1))
    with pytest.raises(TrainingCollapsed, match=r"led nowhere: outputs are flat.*60 steps in a row") as error:
        fit(flat, CollapseGuard(tmp_path), folder=tmp_path, epochs=12)
    (path,) = tmp_path.glob("collapse-step=*.pt")
    assert str(path) in str(error.value)
    evidence = torch.load(path, weights_only=True)
    assert "outputs are flat" in evidence["reason"]
    assert evidence["output"].std() < 0.01 < evidence["episode"]["target"].std()


def test_guard_looks_at_every_nth_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(CollapseGuard, "collapsed", lambda self, *_: looked.append(self))
    fit(TinyLearner(), CollapseGuard(tmp_path, every=4), folder=tmp_path, epochs=2)
    assert len(looked) == 3  # steps 1, 4 and 8 of 10


def test_guard_says_nothing_where_the_targets_are_alike(tmp_path: Path) -> None:
    guard = CollapseGuard(tmp_path, flat_steps=1, every=1)
    x = episode(0).target[:1].expand(BATCH, -1, -1, -1)
    assert guard.collapsed({}, x.clone(), x) is None
    assert guard.collapsed({}, torch.zeros_like(x), torch.zeros_like(x) + 0.5) is None
    assert "flat" in str(guard.collapsed({}, torch.zeros_like(x), x))


# What one sees


def test_progress_without_a_terminal_prints_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(TinyLearner(), Progress(plain_every_seconds=0.0), folder=tmp_path, epochs=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2 * STEPS
    assert "it" in lines[0]
    assert lines[-1].startswith("epoch 2/2  5/5")
    assert "run 0:00:00 left" in lines[-1]
    assert "cnt 0." in lines[-1]
    fit(TinyLearner(), Progress(plain_every_seconds=1000.0), folder=tmp_path, epochs=2)
    assert capsys.readouterr().out.count("epoch") == 2


def test_progress_bar_on_a_terminal_keeps_five_losses_on_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def five(trainer: L.Trainer, losses: dict, x_hat: torch.Tensor) -> tuple:
        numbers = {"dsc": 1.6112, "mch": 12.109, "cnt": 333.964, "adv": -0.0801, "fm": 0.31815}
        return {**losses, **{f"loss/{name}": torch.tensor(value) for name, value in numbers.items()}}, x_hat

    with (tmp_path / "screen.txt").open("w") as screen:
        console = Console(file=screen, force_terminal=True, width=120)
        monkeypatch.setattr(progress_module, "get_console", lambda: console)
        monkeypatch.setattr("pytorch_lightning.callbacks.progress.rich_progress.get_console", lambda: console)
        monkeypatch.setattr("pytorch_lightning.callbacks.progress.rich_progress.reconfigure", lambda **_: None)
        fit(TinyLearner(five), Progress(), folder=tmp_path, epochs=2)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", (tmp_path / "screen.txt").read_text()).splitlines()
    last = [line for line in lines if line.startswith("epoch 2/2")][-1]
    for word in ("5/5", "it", "run", "left", "dsc: 1.61", "mch: 12.1", "cnt: 334", "adv: -0.0801", "fm: 0.318"):
        assert word in last, word


def test_speed_and_time_in_words() -> None:
    assert progress_module.describe_speed(2.5) == "2.50 s/it"
    assert progress_module.describe_speed(0.02) == "50.0 it/s"
    assert progress_module.describe_seconds(3723.4) == "1:02:03"
    assert progress_module.describe_seconds(float("inf")) == "-:--:--"


def test_timing_is_logged(tmp_path: Path) -> None:
    trainer = fit(TinyLearner(), Timing(), folder=tmp_path)
    step, rate = trainer.callback_metrics["time/step_s"], trainer.callback_metrics["time/frames_per_s"]
    assert float(step * rate) == pytest.approx(BATCH * (SHOTS + 1), rel=1e-3)
    assert 0 <= trainer.callback_metrics["time/data_s"] <= step


def test_validation_table(tmp_path: Path) -> None:
    fit(TinyLearner(), ValidationTable(tmp_path, show=False), folder=tmp_path, epochs=2)
    rows = list(csv.DictReader((tmp_path / "validation.csv").open()))
    assert [(row["epoch"], row["step"], row["T"], row["method"]) for row in rows] == [
        (str(epoch), str((epoch + 1) * STEPS), shots, method)
        for epoch in range(2)
        for shots in ("1", "4")
        for method in ("model", "nearest")
    ]
    assert float(rows[1]["l1"]) == pytest.approx(float(rows[0]["l1"]) + 1, abs=1e-3)


def test_validation_table_sorts_shots_as_numbers_and_takes_new_columns(tmp_path: Path) -> None:
    values = {f"val/T={shots}/ssim": torch.tensor(0.5) for shots in (32, 8, 1)} | {"loss/cnt": torch.tensor(1.0)}
    assert [row["T"] for row in validation_rows(values)] == ["1", "8", "32"]
    append_csv(tmp_path / "t.csv", [{"T": "1", "ssim": "0.5"}])
    append_csv(tmp_path / "t.csv", [{"T": "8", "nme": "0.1"}])
    assert (tmp_path / "t.csv").read_text() == "T,ssim,nme\n1,0.5,\n8,,0.1\n"


def test_steps_that_are_done_again_are_in_no_csv_twice(tmp_path: Path) -> None:
    """A run killed after step 3 of the second epoch goes on from the end of the first."""

    def logged() -> list[tuple[str, str]]:
        with (tmp_path / "metrics/metrics.csv").open(newline="") as file:
            return [(row["step"], "val" if row["val/T=1/l1"] else "train") for row in csv.DictReader(file)]

    def go(last: Path, epochs: int, **options: Any) -> None:
        logger = MetricsLogger(tmp_path, name=None, version="metrics")
        fit(TinyLearner(), ValidationTable(tmp_path, show=False), LastCheckpoint(last), folder=tmp_path, epochs=epochs,
            logger=logger, **options)  # fmt: skip

    go(tmp_path / "first", 1)
    go(tmp_path / "second", 2, ckpt_path=tmp_path / "first/last.ckpt")
    once, table = logged(), (tmp_path / "validation.csv").read_text()
    assert once == [*[(str(n), "train") for n in range(5)], ("4", "val"), *[(str(n), "train") for n in range(5, 10)],
                    ("9", "val")]  # fmt: skip
    metrics = tmp_path / "metrics/metrics.csv"
    metrics.write_bytes(metrics.read_bytes() + b"10,0.2")  # a kill in the middle of a row
    go(tmp_path / "third", 2, ckpt_path=tmp_path / "first/last.ckpt")
    assert logged() == once
    assert (tmp_path / "validation.csv").read_text() == table


@pytest.mark.parametrize(("again", "kept"), [
    ({"loss/cnt": 0.4}, ["3 0.1", "4 0.4"]),  # the step is done again, and so will be its validation
    ({"val/T=1/l1": 0.3}, ["3 0.1", "4 0.2", "4 "]),
])  # fmt: skip
def test_a_step_that_is_done_again_replaces_its_validation_too(
    tmp_path: Path, again: dict[str, float], kept: list[str]
) -> None:
    for rows in ([(3, {"loss/cnt": 0.1}), (4, {"loss/cnt": 0.2}), (4, {"val/T=1/l1": 0.9})], [(4, again), (4, again)]):
        logger = MetricsLogger(tmp_path, name=None, version="metrics")
        for step, values in rows:
            logger.log_metrics(values, step)
        logger.save()
    written = list(csv.DictReader((tmp_path / "metrics/metrics.csv").open(newline="")))
    assert [f"{row['step']} {row['loss/cnt']}" for row in written] == kept
