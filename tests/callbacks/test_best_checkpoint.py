"""Which validation is the best one, and what `best.ckpt` then holds."""

from pathlib import Path

import pytest
import torch

from talkinghead.callbacks.best_checkpoint import BestCheckpoint
from talkinghead.callbacks.ema import EMA
from talkinghead.callbacks.last_checkpoint import LastCheckpoint
from tests.helpers.tiny_learner import STEPS, TinyLearner, fit


class Scores(TinyLearner):
    """Each validation logs the next of these values."""

    def __init__(self, *values: dict[str, float]) -> None:
        super().__init__()
        self.values = list(values)

    def validation_step(self, batch: object, index: int) -> None:
        if index == 0:
            self.log_dict({f"val/T={name}": value for name, value in self.values.pop(0).items()})


def best_step(folder: Path, *values: dict[str, float], metric: str | None = None) -> int | None:
    best = BestCheckpoint(folder, metric)
    fit(Scores(*values), EMA(), best, folder=folder, epochs=len(values))
    return torch.load(best.path, weights_only=True)["ema"]["num_updates"] // STEPS if best.path.is_file() else None


NAN = float("nan")


@pytest.mark.parametrize(("values", "best"), [
    ([{"1/ssim": 0.1, "8/ssim": 0.5}, {"1/ssim": 0.4, "8/ssim": 0.4}, {"1/ssim": 0.2, "8/ssim": 0.5}], 2),  # the mean
    ([{"8/nme": 0.3, "8/ssim": 0.1}, {"8/nme": 0.2, "8/ssim": 0.2}, {"8/nme": 0.4, "8/ssim": 0.3}], 2),  # nme decides
    ([{"8/nme": 0.1, "8/face_found": 0.25}, {"8/nme": 0.2, "8/face_found": 1.0}], 2),  # one easy face is not the best
    ([{"8/nme": NAN, "8/face_found": 0.0}, {"8/nme": 0.9, "8/face_found": 0.5}], 2),
    ([{"8/ssim": 0.3, "8/nearest/ssim": 0.1}, {"8/ssim": 0.2, "8/nearest/ssim": 0.9}], 1),  # not the baseline's
    ([{"8/ssim": NAN}, {"8/ssim": 0.2}, {"8/ssim": NAN}], 2),
    ([{"8/l1": 0.3}], None),
])  # fmt: skip
def test_best_checkpoint(values: list[dict[str, float]], best: int | None, tmp_path: Path) -> None:
    assert best_step(tmp_path, *values) == best


def test_best_checkpoint_by_a_named_metric(tmp_path: Path) -> None:
    values = {"8/psnr": 12.0, "8/lpips": 0.3, "8/nme": 0.1}, {"8/psnr": 13.0, "8/lpips": 0.4, "8/nme": 0.2}
    assert best_step(tmp_path / "psnr", *values, metric="psnr") == 2
    assert best_step(tmp_path / "lpips", *values, metric="lpips") == 1
    with pytest.raises(ValueError, match=r"callbacks.best.metric=fid.*val/T=8/lpips"):
        best_step(tmp_path / "fid", *values, metric="fid")


def test_resumed_run_remembers_its_best(tmp_path: Path) -> None:
    best, last = BestCheckpoint(tmp_path), LastCheckpoint(tmp_path)
    fit(Scores({"8/ssim": 0.5}), EMA(), best, last, folder=tmp_path)
    again = BestCheckpoint(tmp_path)
    fit(Scores({"8/ssim": 0.4}), EMA(), again, last, folder=tmp_path, epochs=2, ckpt_path=last.path)
    assert torch.load(best.path, weights_only=True)["ema"]["num_updates"] == STEPS
    assert again.best == {"ssim": pytest.approx(0.5)}


def test_a_run_that_goes_on_in_another_folder_takes_its_best_along(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    last = LastCheckpoint(old)
    fit(Scores({"8/ssim": 0.5}), EMA(), BestCheckpoint(old), last, folder=old)
    fit(Scores({"8/ssim": 0.4}), EMA(), BestCheckpoint(new), LastCheckpoint(new), folder=new, epochs=2,
        ckpt_path=last.path)  # fmt: skip
    assert (new / "best.ckpt").read_bytes() == (old / "best.ckpt").read_bytes()
    assert torch.load(new / "last.ckpt", weights_only=True)["ema"]["num_updates"] == 2 * STEPS
