"""Learning rates and loss weights over a run, also over one that goes on."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L

from talkinghead.callbacks.schedule import Schedule
from tests.helpers.tiny_learner import STEPS, TinyLearner, fit


class Rates(L.Callback):
    """What the optimizer and the weights are in each step."""

    def __init__(self) -> None:
        self.lr: list[float] = []
        self.adv: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        learner: Any = pl_module
        self.lr.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.adv.append(learner.weights["adv"])


def learner() -> TinyLearner:
    tiny: Any = TinyLearner()
    tiny.weights = {"cnt": 1.0, "adv": 2.0}
    return tiny


def schedule() -> Schedule:
    return Schedule(warmup=2, hold=0.5, floor=0.1, fading=["adv"], fade_from=0.1, fade_to=0.6)


def test_rate_warms_up_holds_and_falls_and_a_loss_fades_in(tmp_path: Path) -> None:
    seen = Rates()
    fit(learner(), schedule(), seen, folder=tmp_path, epochs=2)
    full = max(seen.lr)
    assert len(seen.lr) == 2 * STEPS == 10
    assert seen.lr[0] == pytest.approx(full / 2)
    assert seen.lr[1:5] == pytest.approx([full] * 4)
    assert seen.lr[6] == pytest.approx(full * 0.654508, rel=1e-4)  # (1 + cos 72°) / 2
    assert seen.lr[9] == pytest.approx(full * 0.1)
    assert seen.adv == pytest.approx([0, 0.4, 0.8, 1.2, 1.6, 2, 2, 2, 2, 2])


def test_a_run_that_goes_on_has_the_same_rates(tmp_path: Path) -> None:
    whole, first, rest = Rates(), Rates(), Rates()
    fit(learner(), schedule(), whole, folder=tmp_path, epochs=2)

    class Save(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "half.ckpt")
            trainer.should_stop = True

    fit(learner(), schedule(), first, Save(), folder=tmp_path, epochs=2)
    fit(learner(), schedule(), rest, folder=tmp_path, epochs=2, ckpt_path=tmp_path / "half.ckpt")
    assert [*first.lr, *rest.lr] == whole.lr
    assert [*first.adv, *rest.adv] == whole.adv


def test_a_loss_that_is_none_and_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"callbacks\.schedule\.fading: fm is no loss of this run"):
        fit(learner(), Schedule(fading=["fm"]), folder=tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"hold=1\.0"):
        Schedule(hold=1.0)
