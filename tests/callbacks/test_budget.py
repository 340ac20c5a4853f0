"""The time budget: an estimate in the log, and runs cut to whole epochs that end with a validation."""

from pathlib import Path

import pytest
import pytorch_lightning as L

from talkinghead.callbacks import budget as module
from talkinghead.callbacks.budget import TimeBudget
from tests.helpers.tiny_learner import TinyLearner, fit


class Clock:
    """Ten seconds a step."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Ticks(L.Callback):
    """Moves the clock; notes the epochs that end with a validation."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.validated = clock, []

    def on_train_batch_start(self, *args: object) -> None:
        self.clock.now += 10

    def on_validation_end(self, trainer: L.Trainer, learner: L.LightningModule) -> None:
        self.validated.append((trainer.current_epoch, trainer.fit_loop.total_batch_idx + 1))


@pytest.mark.parametrize(
    ("minutes", "steps", "validated"),
    [
        (None, 40, [(3, 20), (7, 40)]),
        (60, 40, [(3, 20), (7, 40)]),
        (3.5, 15, [(2, 15)]),  # an epoch takes 50 s, or 59 before a validation was measured
        (4.4, 20, [(3, 20)]),
        (0.7, 3, [(0, 3)]),
    ],
)
def test_runs_are_cut_to_what_fits_and_end_with_a_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    minutes: float | int | None, steps: int, validated: list,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    ticks = Ticks(clock)
    callbacks = [ticks, TimeBudget(minutes, skip=1, steps=1)]
    trainer = fit(TinyLearner(), *callbacks, folder=tmp_path, epochs=8, check_val_every_n_epoch=4)
    assert trainer.global_step == steps
    assert ticks.validated == validated
    assert "for 40 steps on this machine (10.00 s each)" in caplog.text
    assert ("cut to" in caplog.text) == (steps < 40)


def test_a_run_cut_by_slow_first_steps_gets_its_epochs_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    slow = Ticks(clock)
    monkeypatch.setattr(slow, "on_train_batch_end", lambda *_: setattr(clock, "now", clock.now + 30 * (clock.now < 60)))
    budget = TimeBudget(minutes=7, skip=0, steps=2)  # two steps of 40 s: 2.1 epochs would fit; then 10 s a step
    trainer = fit(TinyLearner(), slow, budget, folder=tmp_path, epochs=8, limit_val_batches=0)
    assert trainer.global_step == 30
    assert clock.now == 360


def test_wrong_numbers_are_an_error() -> None:
    with pytest.raises(ValueError, match="minutes > 0"):
        TimeBudget(0)
