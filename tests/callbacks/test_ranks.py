"""Two ranks on the CPU: a signal to one of them saves once, between two steps, and ends both; none waits for ever."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import pytorch_lightning as L
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from talkinghead.callbacks.best_checkpoint import BestCheckpoint
from talkinghead.callbacks.ema import EMA
from talkinghead.callbacks.last_checkpoint import LastCheckpoint
from talkinghead.callbacks.ranks import RankLost, gradients_as, ranks_answer, time_limit
from tests.helpers.ranks import on_two_ranks
from tests.helpers.tiny_learner import STEPS, TinyLearner

ROOT = Path(__file__).parents[2]
STEP = STEPS + 2  # in the second epoch, after a validation


def train(folder: Path, rank: int, how: int, minutes: float) -> None:
    """Run by each of the two processes; rank number `rank` gets a signal in the middle of a step."""

    def fault(trainer: L.Trainer, losses: dict, x_hat: torch.Tensor) -> Any:
        if trainer.fit_loop.total_batch_idx + 1 == STEP and trainer.global_rank == rank:
            os.kill(os.getpid(), how)
        return losses, x_hat

    torch.set_num_threads(1)
    callbacks: list[L.Callback] = [EMA(), BestCheckpoint(folder, "l1"), LastCheckpoint(folder, every_minutes=None)]
    trainer = L.Trainer(
        accelerator="cpu", devices=2, max_epochs=3, strategy=DDPStrategy(
            process_group_backend="gloo", find_unused_parameters=True, timeout=time_limit(minutes)),
        callbacks=callbacks, logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    learner = TinyLearner(fault)
    try:
        with ranks_answer(trainer):
            trainer.fit(learner)
    except RankLost as error:
        sys.exit(str(error))
    finally:
        ended = {"steps": trainer.fit_loop.total_batch_idx + 1, "weights": learner.state_dict()}
        torch.save(ended, folder / f"rank{trainer.global_rank}.part")
        (folder / f"rank{trainer.global_rank}.part").rename(folder / f"rank{trainer.global_rank}.pt")


def two_ranks(folder: Path, rank: int, how: signal.Signals, minutes: float) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder), str(rank), str(int(how)), str(minutes)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_signal_to_one_rank_stops_both_between_two_steps(rank: int, tmp_path: Path) -> None:
    run = two_ranks(tmp_path, rank, signal.SIGTERM, minutes=1)
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


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "how", "minutes"), [(1, signal.SIGSTOP, 0.1), (1, signal.SIGKILL, 1)])
def test_a_rank_that_hangs_or_dies_ends_the_other(
    rank: int, how: signal.Signals, minutes: float, tmp_path: Path
) -> None:
    run = two_ranks(tmp_path, rank, how, minutes)  # returns when all that could write to its pipes have ended
    assert run.returncode == 1, run.stderr[-4000:]
    assert f"has not answered within {minutes:g} minutes (trainer.strategy.timeout.minutes)" in run.stderr


class Child:
    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, signum: int) -> None:
        self.signals.append(signum)


@pytest.mark.parametrize("said", [
    "Application timeout caused pair closure", "Timed out waiting 1800000ms for recv operation to complete",
    "[…/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:30098.",
    "NCCL communicator was aborted on rank 0.", "Timed out after 61 seconds waiting for clients. 1/2 clients joined.",
])  # fmt: skip
def test_a_lost_rank_is_told_in_one_line_and_the_others_end(said: str) -> None:
    child = Child()
    strategy = SimpleNamespace(launcher=SimpleNamespace(procs=[child]), _timeout=time_limit(30))
    trainer = Mock(L.Trainer, world_size=2, global_rank=0, strategy=strategy)
    within = r"^rank 0 stops: .* within 30 minutes \(trainer\.strategy.*Here: "
    with pytest.raises(RankLost, match=within) as error, ranks_answer(trainer):
        raise RuntimeError(f"{said}\nException raised from …")
    assert str(error.value).endswith(said)
    assert child.signals == [signal.SIGKILL]


@pytest.mark.parametrize(("world_size", "said"), [(1, "gloo: timed out"), (2, "mat1 and mat2 cannot be multiplied")])
def test_other_errors_stay_what_they_are(world_size: int, said: str) -> None:
    trainer = Mock(L.Trainer, world_size=world_size)
    with pytest.raises(RuntimeError, match=said) as error, ranks_answer(trainer):
        raise RuntimeError(said)
    assert type(error.value) is RuntimeError


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_no_time_is_no_limit(minutes: float) -> None:
    with pytest.raises(ValueError, match=r"trainer\.strategy\.timeout\.minutes=.*more than 0"):
        time_limit(minutes)


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))


def test_gradients_are_sent_as_the_config_says() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        option = "trainer.strategy.ddp_comm_hook.dtype=bf16"
        plain, half = (compose("config", ["trainer=ddp", *more]).trainer.strategy for more in ([], [option]))
    assert instantiate(plain)._ddp_comm_hook is None
    assert instantiate(half)._ddp_comm_hook is bf16_compress_hook
    with pytest.raises(ValueError, match=r"ddp_comm_hook\.dtype=int8: choose null, bf16 or fp16"):
        gradients_as("int8")


def gradient_sent_in_bf16(rank: int) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Linear(3, 2))
    model.register_comm_hook(None, gradients_as("bf16"))
    model(torch.full((1, 3), 0.1 * (1 + rank))).sum().backward()
    return model.module.weight.grad


def test_the_hook_averages_in_bf16(tmp_path: Path) -> None:
    one, other = on_two_ranks(gradient_sent_in_bf16, tmp_path)
    assert torch.equal(one, other)
    assert torch.allclose(one, torch.tensor(0.15), rtol=1 / 128)
    assert torch.equal(one, one.bfloat16().float())
