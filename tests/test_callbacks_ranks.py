"""Two ranks on the CPU: a signal to one of them saves once, between two steps, and ends both."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L
import torch
from pytorch_lightning.strategies import DDPStrategy

from talkinghead.callbacks.best import BestCheckpoint
from talkinghead.callbacks.ema import EMA
from talkinghead.callbacks.last import LastCheckpoint
from tests.tiny_learner import STEPS, TinyLearner

STEP = STEPS + 2  # in the second epoch, after a validation


def train(folder: Path, rank: int) -> None:
    """Run by each of the two processes; rank number `rank` gets SIGTERM in the middle of a step."""

    def fault(trainer: L.Trainer, losses: dict, x_hat: torch.Tensor) -> Any:
        if trainer.fit_loop.total_batch_idx + 1 == STEP and trainer.global_rank == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses, x_hat

    torch.set_num_threads(1)
    callbacks: list[L.Callback] = [EMA(), BestCheckpoint(folder, "l1"), LastCheckpoint(folder, every_minutes=None)]
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend="gloo", find_unused_parameters=True),
        max_epochs=3, callbacks=callbacks, logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    learner = TinyLearner(fault)
    try:
        trainer.fit(learner)
    finally:
        ended = {"steps": trainer.fit_loop.total_batch_idx + 1, "weights": learner.state_dict()}
        torch.save(ended, folder / f"rank{trainer.global_rank}.part")
        (folder / f"rank{trainer.global_rank}.part").rename(folder / f"rank{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_signal_to_one_rank_stops_both_between_two_steps(rank: int, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path), str(rank)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 143, run.stderr[-4000:]
    deadline = time.monotonic() + 120
    while not all((tmp_path / f"rank{n}.pt").is_file() for n in range(2)) and time.monotonic() < deadline:
        time.sleep(0.05)
    ranks = [torch.load(tmp_path / f"rank{n}.pt", weights_only=True) for n in range(2)]
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert ranks[0]["steps"] == ranks[1]["steps"] == last["ema"]["num_updates"] == STEP
    for name, value in last["state_dict"].items():
        assert torch.equal(ranks[0]["weights"][name], value), name
        assert torch.equal(ranks[1]["weights"][name], value), name
    assert sorted(path.name for path in tmp_path.glob("*.ckpt*")) == ["best.ckpt", "last.ckpt"]
    assert not list(tmp_path.glob(".*.tmp"))


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
