"""Averaged weights and checkpoints: what a run saves, and how it goes on."""

import contextlib
import csv
import itertools
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader

from talkinghead.callbacks.ema import EMA
from talkinghead.callbacks.guard import TrainingCollapsed
from talkinghead.callbacks.last_checkpoint import STOP, LastCheckpoint
from talkinghead.callbacks.metrics_csv import MetricsLogger
from talkinghead.data.remote import DataFault
from talkinghead.types import Episode
from tests.helpers.tiny_learner import STEPS, Episodes, TinyLearner, fit


def test_ema_follows_its_formula(tmp_path: Path) -> None:
    class Record(L.Callback):
        def __init__(self) -> None:
            self.weights: list[torch.Tensor] = []

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
            self.weights.append(pl_module.generator[2].weight.detach().clone())

    record, learner = Record(), TinyLearner()
    fit(learner, record, EMA(decay=0.3), folder=tmp_path)
    expected = record.weights[0]
    for n, weight in enumerate(record.weights[1:], start=1):
        decay = min(0.3, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weight
    assert torch.allclose(learner.seen[-1], expected, atol=1e-7)
    assert not torch.allclose(learner.seen[-1], record.weights[-1], atol=1e-4)
    assert torch.equal(learner.generator[2].weight, record.weights[-1])  # swapped back


def test_ema_changes_nothing_of_the_training(tmp_path: Path) -> None:
    with_ema, without = TinyLearner(), TinyLearner()
    fit(with_ema, EMA(), folder=tmp_path, epochs=3)
    fit(without, folder=tmp_path, epochs=3)
    for name, value in without.state_dict().items():
        assert torch.equal(with_ema.state_dict()[name], value), name


def test_ema_in_checkpoints(tmp_path: Path) -> None:
    learner, ema = TinyLearner(), EMA(decay=0.9)
    fit(learner, ema, LastCheckpoint(tmp_path), folder=tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    averaged = checkpoint["ema"]["state_dict"]
    assert checkpoint["ema"]["num_updates"] == STEPS
    assert set(averaged) == {name for name in checkpoint["state_dict"] if not name.startswith("discriminator")}
    assert torch.equal(checkpoint["state_dict"]["generator.2.weight"], learner.generator[2].weight)
    assert torch.equal(averaged["generator.2.weight"], learner.seen[-1])
    other = TinyLearner()
    other.load_state_dict({**checkpoint["state_dict"], **averaged})


def test_checkpoint_written_during_validation_holds_the_trained_weights(tmp_path: Path) -> None:
    class SaveInValidation(L.Callback):
        def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
            trainer.save_checkpoint(tmp_path / "inside.ckpt")

    learner = TinyLearner()
    fit(learner, EMA(decay=0.9), SaveInValidation(), folder=tmp_path)
    checkpoint = torch.load(tmp_path / "inside.ckpt", weights_only=True)
    assert torch.equal(checkpoint["state_dict"]["generator.2.weight"], learner.generator[2].weight)
    assert torch.equal(checkpoint["ema"]["state_dict"]["generator.2.weight"], learner.seen[-1])


def test_validating_a_checkpoint_uses_the_average(tmp_path: Path) -> None:
    learner = TinyLearner()
    fit(learner, EMA(decay=0.9), LastCheckpoint(tmp_path), folder=tmp_path)
    other = TinyLearner()
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[EMA(decay=0.9)])
    trainer.validate(other, ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False)
    assert torch.equal(other.seen[-1], learner.seen[-1])


def test_averaged_weights_are_spectrally_normalised(tmp_path: Path) -> None:
    class Norm(L.Callback):
        norm = 0.0

        def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
            self.norm = float(torch.linalg.matrix_norm(pl_module.generator[0].weight.flatten(1), 2))

    norm = Norm()
    fit(TinyLearner(), EMA(decay=0.9), norm, folder=tmp_path, epochs=4)
    assert norm.norm == pytest.approx(1, abs=0.02)


def test_average_saved_between_validations_is_normalised_by_its_own_weights(tmp_path: Path) -> None:
    last = LastCheckpoint(tmp_path, None)
    with pytest.raises(SystemExit):
        fit(TinyLearner(fault=interrupt_at(3, signal.SIGTERM)), EMA(decay=0.9), last, folder=tmp_path, epochs=3)
    checkpoint = torch.load(last.path, weights_only=True)
    averaged = checkpoint["ema"]["state_dict"]
    trained_vectors = {name: checkpoint["state_dict"][name] for name in averaged if name.endswith(("._u", "._v"))}
    assert len(trained_vectors) == 4
    for layer in ("embedder", "generator.0"):
        error, unsettled = (norm_error(layer, {**averaged, **vectors}) for vectors in ({}, trained_vectors))
        assert error < 1e-3
        assert error < unsettled / 5


def norm_error(layer: str, state: dict[str, torch.Tensor]) -> float:
    """How far the spectral norm of a layer's weight is from 1."""
    learner = TinyLearner().eval()
    learner.load_state_dict(state, strict=False)
    with torch.no_grad():
        return abs(float(torch.linalg.matrix_norm(learner.get_submodule(layer).weight.flatten(1), 2)) - 1)


def test_saving_more_often_changes_neither_training_nor_average(tmp_path: Path) -> None:
    seldom, often = (LastCheckpoint(tmp_path / name, minutes) for name, minutes in (("seldom", None), ("often", 0.0)))
    for last in (seldom, often):
        fit(TinyLearner(), EMA(decay=0.9), last, folder=tmp_path, epochs=2)
    assert_same_end(seldom.path, often.path)


# Interrupted and resumed


def interrupt_at(step: int, how: signal.Signals) -> Any:
    def fault(trainer: L.Trainer, losses: dict, x_hat: torch.Tensor) -> tuple:
        if trainer.fit_loop.total_batch_idx + 1 == step:
            os.kill(os.getpid(), how)
        return losses, x_hat

    return fault


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_stopped_run_ends_with_the_same_weights(tmp_path: Path, how: signal.Signals) -> None:
    before = [signal.getsignal(name) for name in STOP]
    through, stopped, resumed = TinyLearner(), TinyLearner(fault=interrupt_at(7, how)), TinyLearner()
    fit(through, EMA(decay=0.9), LastCheckpoint(tmp_path / "through"), folder=tmp_path, epochs=3)
    with pytest.raises(SystemExit) as stop:
        fit(stopped, EMA(decay=0.9), LastCheckpoint(tmp_path / "stopped", None), folder=tmp_path, epochs=3)
    assert stop.value.code == {signal.SIGTERM: 143, signal.SIGINT: 1, signal.SIGUSR1: 0}[how]
    last = tmp_path / "stopped" / "last.ckpt"
    steps = torch.load(last, weights_only=True)["ema"]["num_updates"]
    assert steps == 7
    trainer = fit(
        resumed, EMA(decay=0.9), LastCheckpoint(tmp_path / "stopped"), folder=tmp_path, epochs=3, ckpt_path=last
    )
    assert trainer.fit_loop.total_batch_idx + 1 == 3 * STEPS
    assert_same_end(tmp_path / "through" / "last.ckpt", last)
    assert [signal.getsignal(name) for name in STOP] == before


def test_the_stopped_step_is_the_last_row_of_the_metrics(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name=None, version="metrics")
    stopped, trainer_steps = TinyLearner(fault=interrupt_at(7, signal.SIGINT)), 7
    with pytest.raises(SystemExit):
        fit(stopped, LastCheckpoint(tmp_path, None), folder=tmp_path, epochs=3, logger=logger)
    rows = list(csv.DictReader((tmp_path / "metrics" / "metrics.csv").open()))
    assert int(rows[-1]["step"]) == trainer_steps - 1  # steps count from zero there
    assert float(rows[-1]["loss/cnt"]) > 0


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_validation_start"])
def test_signal_in_an_epochs_last_step_or_validation_stops_the_run_after_it(tmp_path: Path, hook: str) -> None:
    class Stop(L.Callback):
        def tell(self, trainer: L.Trainer, *args: object) -> None:
            if trainer.fit_loop.total_batch_idx + 1 == STEPS:
                os.kill(os.getpid(), signal.SIGTERM)

    through, last, stop = LastCheckpoint(tmp_path / "through"), LastCheckpoint(tmp_path / "stopped", None), Stop()
    setattr(stop, hook, stop.tell)
    fit(TinyLearner(), EMA(decay=0.9), through, folder=tmp_path, epochs=3)
    stopped = TinyLearner()
    with pytest.raises(SystemExit):
        fit(stopped, EMA(decay=0.9), last, stop, folder=tmp_path, epochs=3)
    assert len(stopped.seen) == 2, "the validation is done before the run stops: both its batches"
    assert torch.load(last.path, weights_only=True)["ema"]["num_updates"] == STEPS
    fit(TinyLearner(), EMA(decay=0.9), last, folder=tmp_path, epochs=3, ckpt_path=last.path)
    assert_same_end(through.path, last.path)


SCONTROL = """#!/bin/sh
[ -f "$FOLDER/last.ckpt" ] && echo "$@" >> "$FOLDER/calls"
exit $STATUS
"""


@pytest.mark.parametrize(("how", "array", "status", "call"), [
    (signal.SIGUSR1, False, 0, "requeue 77\n"), (signal.SIGUSR1, True, 0, "requeue 70_3\n"),
    (signal.SIGUSR1, False, 1, "requeue 77\n"), (signal.SIGTERM, False, 0, None),
])  # fmt: skip
def test_slurm_job_is_requeued_once_it_is_saved(
    how: signal.Signals, array: bool, status: int, call: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    job = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "talkinghead", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1",
           "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip
    job |= {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3"} if array else {}
    job |= {"FOLDER": str(tmp_path), "STATUS": str(status), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    learner = TinyLearner(fault=interrupt_at(7, how))
    with pytest.raises(SystemExit):
        fit(learner, EMA(decay=0.9), LastCheckpoint(tmp_path, None), folder=tmp_path, epochs=3)
    assert SLURMEnvironment.detect(), "Lightning has its own handlers here"
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["ema"]["num_updates"] == 7
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    calls = tmp_path / "calls"
    assert (calls.read_text() if calls.is_file() else None) == call
    assert ("was not requeued" in caplog.text) == (status == 1)


def test_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    class Fail(L.Callback):
        def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
            if trainer.current_epoch == 1:
                checkpoint["half"] = lambda: None  # cannot be pickled

    with pytest.raises((AttributeError, pickle.PicklingError)):
        fit(TinyLearner(), EMA(decay=0.9), Fail(), LastCheckpoint(tmp_path), folder=tmp_path, epochs=2)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["ema"]["num_updates"] == STEPS


def assert_same_end(first: Path, second: Path) -> None:
    one, two = (torch.load(path, weights_only=True) for path in (first, second))
    for part in (lambda c: c["state_dict"], lambda c: c["ema"]["state_dict"]):
        for name, value in part(one).items():
            assert torch.equal(part(two)[name], value), name


def test_killed_run_goes_on_from_the_clock_checkpoint(tmp_path: Path) -> None:
    def dies(trainer: L.Trainer, losses: dict, x_hat: torch.Tensor) -> tuple:
        if trainer.fit_loop.total_batch_idx + 1 == 8:
            raise RuntimeError("killed")
        return losses, x_hat

    fit(TinyLearner(), EMA(decay=0.9), LastCheckpoint(tmp_path / "through"), folder=tmp_path, epochs=3)
    last = LastCheckpoint(tmp_path / "killed", every_minutes=0.0)
    with pytest.raises(RuntimeError, match="killed"):
        fit(TinyLearner(dies), EMA(decay=0.9), last, folder=tmp_path, epochs=3)
    assert torch.load(last.path, weights_only=True)["ema"]["num_updates"] == 7
    fit(TinyLearner(), EMA(decay=0.9), LastCheckpoint(last.path.parent), folder=tmp_path, epochs=3, ckpt_path=last.path)
    assert_same_end(tmp_path / "through" / "last.ckpt", last.path)


def test_last_checkpoint_by_the_clock(tmp_path: Path) -> None:
    saved = []

    class Saves(L.Callback):
        def on_save_checkpoint(self, trainer: L.Trainer, *args: object) -> None:
            saved.append(trainer.fit_loop.total_batch_idx + 1)

    fit(TinyLearner(), Saves(), LastCheckpoint(tmp_path, every_minutes=0.0), folder=tmp_path)
    assert saved == [1, 2, 3, 4, 5]  # the last step's behind its validation
    saved.clear()
    fit(TinyLearner(), Saves(), LastCheckpoint(tmp_path, every_minutes=60.0), folder=tmp_path)
    assert saved == [5]
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]


@pytest.mark.parametrize("every", [1, 2])
def test_run_killed_after_any_two_saves_takes_each_step_and_validation_once(tmp_path: Path, every: int) -> None:
    """From a save between an epoch's last step and its validation Lightning skips that, and later repeats a step."""

    class Killed(Exception):
        pass

    class Short(TinyLearner):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(Episodes(2), batch_size=None)

    class Trace(L.Callback):
        """What the run did up to its `moment`-th save, after which it dies."""

        def __init__(self, moment: int) -> None:
            self.moment, self.done = moment, list[tuple[str, int]]()

        def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
            self.done.append(("step", trainer.fit_loop.total_batch_idx))

        def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.done.append(("validation", trainer.fit_loop.total_batch_idx))

    class Dying(LastCheckpoint):
        def _save(self, trainer: L.Trainer) -> None:
            super()._save(trainer)
            trace.moment -= 1
            if trace.moment == 0:
                raise Killed

    def run(moment: int) -> list[tuple[str, int]]:
        nonlocal trace
        trace, last = Trace(moment), tmp_path / "last.ckpt"
        with contextlib.suppress(Killed):
            fit(Short(), trace, Dying(tmp_path, 0.0), folder=tmp_path, epochs=3, check_val_every_n_epoch=every,
                logger=MetricsLogger(tmp_path, name=None, version="metrics"),
                ckpt_path=last if last.is_file() else None)  # fmt: skip
        return trace.done

    def logged() -> list[tuple[str, str]]:
        path = tmp_path / "metrics/metrics.csv"
        rows = [(row["step"], row["loss/cnt"]) for row in csv.DictReader(path.open())]
        path.unlink()
        return rows

    trace = Trace(0)
    through = run(0)
    rows = logged()
    assert [kind for kind, _ in through].count("step") == len([loss for _, loss in rows if loss]) == 6
    for first, second in itertools.product((1, 2), (1, 2)):
        (tmp_path / "last.ckpt").unlink()
        assert run(first) + run(second) + run(0) == through, (first, second)
        assert logged() == rows, (first, second)


def test_data_that_fails_in_a_validation_leaves_the_save_before_it(tmp_path: Path) -> None:
    """A checkpoint written there would go on without the validation."""

    class Unreadable(TinyLearner):
        def validation_step(self, batch: Episode, index: int) -> None:
            raise DataFault("no permission")

    with pytest.raises(DataFault):
        fit(Unreadable(), LastCheckpoint(tmp_path, 0.0), folder=tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == STEPS - 1


class Poison(L.Callback):
    """Makes a weight NaN after a step, as a learning rate of 1e3 does, where no guard looks."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.step:
            pl_module.generator[2].weight.data[0, 0] = torch.nan


def test_nan_weights_are_never_saved(tmp_path: Path) -> None:
    """The run fails, and last.ckpt is the one of the epoch before."""
    with pytest.raises(TrainingCollapsed, match=r"step 10: generator\.2\.weight is NaN.*last\.ckpt is as it was"):
        fit(TinyLearner(), Poison(10), LastCheckpoint(tmp_path), folder=tmp_path, epochs=3)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())
