"""A run that is stopped anywhere goes on with exactly the episodes it would have seen (with Lightning's own loops)."""

import multiprocessing
import os
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import pytorch_lightning as L
import torch

from talkinghead.data.augmentation import Augmentation
from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.data.loader import EpochBatches
from talkinghead.types import Episode
from tests.helpers.data_sets import SIZE, make_clip, write_data_set

NUM_EPOCHS, NUM_BATCHES = 3, 5


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clips = [make_clip(n, 8) for n in range(16)]
    return write_data_set(tmp_path_factory.mktemp("tiny"), {"train": [clips[:6], clips[6:12]], "val": [clips[12:]]})


class Recorder(L.LightningModule):
    """Writes down what it is trained on; steps two optimizers by hand, the first twice."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)
        self.seen: list[tuple] = []

    def training_step(self, batch: Episode, batch_idx: int) -> None:
        assert batch.target.dtype == torch.float32
        seen = (batch.target_points.sum().item(), batch.target.mean().item(), batch.shots.shape[1])
        self.seen.append((self.current_epoch, batch_idx, *batch.key, *seen))
        for optimizer in (self.optimizers()[0], *self.optimizers()):
            optimizer.zero_grad()
            self.manual_backward(self.layer(batch.target.mean().view(1, 1)).sum())
            optimizer.step()

    def validation_step(self, batch: Episode, _: int) -> None:
        assert batch.target.dtype == torch.float32

    def configure_optimizers(self) -> list:
        return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]


class Stop(L.Callback):
    """Saves at one hook of one batch, then ends the run the hard way."""

    def __init__(self, hook: str, epoch: int, batch: int, path: Path) -> None:
        self.when = (epoch, batch)
        self.path = path
        setattr(self, hook, self._maybe_stop)

    def _maybe_stop(self, trainer: L.Trainer, *_: object) -> None:
        done = trainer.fit_loop.epoch_loop.batch_idx
        if (trainer.current_epoch, done) == self.when and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)
            raise RuntimeError("power cut")


class Terminate(L.Callback):
    """Sends the run SIGTERM at one hook of one batch; Lightning ends it at the next safe point, where this saves."""

    def __init__(self, hook: str, epoch: int, batch: int, path: Path) -> None:
        self.when = (epoch, batch)
        self.path = path
        self.others = set(multiprocessing.active_children())  # of tests before, not of this run
        setattr(self, hook, self._maybe_terminate)

    def _maybe_terminate(self, trainer: L.Trainer, *_: object) -> None:
        if (trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx) == self.when and not trainer.sanity_checking:
            for worker in set(multiprocessing.active_children()) - self.others:
                os.kill(worker.pid, signal.SIGTERM)  # what a cluster's scheduler does
            os.kill(os.getpid(), signal.SIGTERM)

    def on_exception(self, trainer: L.Trainer, *_: object) -> None:
        trainer.save_checkpoint(self.path)


QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def data_module(path: Path, num_workers: int, **options) -> EpisodeDataModule:
    options = {"episodes_per_epoch": 2 * NUM_BATCHES, "batch_size": 2, "seed": 3, **options}
    return EpisodeDataModule(
        path, size=SIZE, num_shots=3, num_workers=num_workers, val_shots=3, val_episodes=2, **options
    )


def fit(
    path: Path,
    tmp: Path,
    num_workers: int,
    callbacks: list | None = None,
    ckpt: Path | None = None,
    seed: int = 3,
    data: dict | None = None,
    **options,
) -> Recorder:
    model = Recorder()
    options = {"max_epochs": NUM_EPOCHS, **options}
    trainer = L.Trainer(accelerator="cpu", callbacks=callbacks, default_root_dir=tmp, **QUIET, **options)
    trainer.fit(model, data_module(path, num_workers, seed=seed, **data or {}), ckpt_path=ckpt, weights_only=True)
    return model


@pytest.fixture(scope="module")
def uninterrupted(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    model = fit(data_set, tmp_path_factory.mktemp("whole"), num_workers=0)
    assert [seen[:2] for seen in model.seen] == [(e, b) for e in range(NUM_EPOCHS) for b in range(NUM_BATCHES)]
    assert len({seen[2:] for seen in model.seen}) == NUM_EPOCHS * NUM_BATCHES
    return model


@pytest.mark.parametrize(
    ("hook", "epoch", "batch"),
    [
        ("on_train_batch_end", 0, 0),
        ("on_train_batch_end", 1, 2),
        ("on_train_batch_end", 1, NUM_BATCHES - 1),
        ("on_validation_end", 1, NUM_BATCHES - 1),
        ("on_train_epoch_end", 0, NUM_BATCHES - 1),
    ],
)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_run_sees_what_it_would_have_seen(
    data_set: Path, tmp_path: Path, uninterrupted: Recorder, hook: str, epoch: int, batch: int, num_workers: int
) -> None:
    checkpoint = tmp_path / "stopped.ckpt"
    with pytest.raises(RuntimeError, match="power cut"):
        fit(data_set, tmp_path, num_workers, [Stop(hook, epoch, batch, checkpoint)])
    before = set(multiprocessing.active_children())
    resumed = fit(data_set, tmp_path, num_workers, ckpt=checkpoint)
    done = epoch * NUM_BATCHES + batch + 1
    assert resumed.seen == uninterrupted.seen[done:]
    assert torch.equal(resumed.layer.weight, uninterrupted.layer.weight)
    assert set(multiprocessing.active_children()) <= before  # a run that ends leaves no worker behind


@pytest.mark.parametrize("num_workers", [0, 2])
def test_looks_and_numbers_of_shots_go_on_exactly(data_set: Path, tmp_path: Path, num_workers: int) -> None:
    data: dict = {"augmentation": Augmentation(), "drawn_shots": [1, 1, 2, 3]}
    whole = fit(data_set, tmp_path, num_workers=0, data=data)
    checkpoint = tmp_path / "stopped.ckpt"
    with pytest.raises(RuntimeError, match="power cut"):
        fit(data_set, tmp_path, num_workers, [Stop("on_train_batch_end", 1, 2, checkpoint)], data=data)
    assert fit(data_set, tmp_path, num_workers, ckpt=checkpoint, data=data).seen == whole.seen[NUM_BATCHES + 3 :]
    assert {seen[-1] for seen in whole.seen} == {1, 2, 3}


@pytest.mark.parametrize(
    ("hook", "epoch", "batch", "num_done"),
    [
        ("on_train_batch_start", 1, 2, 8),
        ("on_train_batch_end", 1, NUM_BATCHES - 1, 10),
        ("on_validation_batch_start", 0, NUM_BATCHES - 1, 5),
        ("on_train_epoch_end", 0, NUM_BATCHES - 1, 5),
    ],
)
def test_terminated_run_goes_on(
    data_set: Path, tmp_path: Path, uninterrupted: Recorder, hook: str, epoch: int, batch: int, num_done: int
) -> None:
    checkpoint = tmp_path / "stopped.ckpt"
    with pytest.raises(SystemExit):
        fit(data_set, tmp_path, 1, [Terminate(hook, epoch, batch, checkpoint)])
    resumed = fit(data_set, tmp_path, 1, ckpt=checkpoint)
    assert resumed.seen == uninterrupted.seen[num_done:]
    assert torch.equal(resumed.layer.weight, uninterrupted.layer.weight)


def test_reloading_loaders_and_validating_within_the_epoch_change_nothing(
    data_set: Path, tmp_path: Path, uninterrupted: Recorder
) -> None:
    checkpoint = tmp_path / "stopped.ckpt"
    options = {"reload_dataloaders_every_n_epochs": 1, "val_check_interval": 2}
    with pytest.raises(RuntimeError, match="power cut"):
        fit(data_set, tmp_path, 1, [Stop("on_validation_end", 1, 1, checkpoint)], **options)
    resumed = fit(data_set, tmp_path, 1, ckpt=checkpoint, **options)
    assert resumed.seen == uninterrupted.seen[7:]


def test_overfitting_repeats_the_same_batches(data_set: Path, tmp_path: Path) -> None:
    seen = [episode[2:] for episode in fit(data_set, tmp_path, 0, overfit_batches=2).seen]
    assert len(seen) == 2 * NUM_EPOCHS
    assert seen[0] != seen[1]
    assert seen == seen[:2] * NUM_EPOCHS


def test_going_on_under_another_order_warns(data_set: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "stopped.ckpt"
    with pytest.raises(RuntimeError, match="power cut"):
        fit(data_set, tmp_path, 0, [Stop("on_train_batch_end", 0, 1, checkpoint)])
    with pytest.warns(UserWarning, match="seed 3 -> 4"):
        fit(data_set, tmp_path, 0, ckpt=checkpoint, seed=4)


@pytest.mark.parametrize("worlds", [(8, 4), (8, 12), (4, 8, 3), (1, 5, 1)])
def test_whatever_the_number_of_ranks_no_visit_comes_twice_and_none_is_lost(worlds: tuple[int, ...]) -> None:
    seen, done, episodes = [], 0, 200
    for n, world in enumerate(worlds):
        ranks = [EpochBatches(episodes, 2, rank, world) for rank in range(world)]
        for batches in ranks:
            batches.epoch = 5
            batches.start = batches.resume(epoch=5, visits=done)
        steps = list(zip(*ranks, strict=True))
        for step in steps if n == len(worlds) - 1 else steps[: 3 + n]:
            seen += [request.position for requests in step for request in requests]
            done += 2 * world
    assert sorted(seen) == list(range(done))
    assert episodes - done < 2 * worlds[-1], "but for the rest that fills no batch"


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end", "on_train_epoch_end"])
def test_a_run_goes_on_with_other_batches(data_set: Path, tmp_path: Path, hook: str, batch_size: int) -> None:
    """What another number of ranks changes: how many episodes a step has."""
    checkpoint, data = tmp_path / "stopped.ckpt", {"episodes_per_epoch": 12, "window": 1}
    whole = fit(data_set, tmp_path, 0, data={**data, "batch_size": 1})
    batch = 1 if hook == "on_train_batch_end" else 5
    with pytest.raises(RuntimeError, match="power cut"):
        fit(data_set, tmp_path, 0, [Stop(hook, 1, batch, checkpoint)], data=data)
    resumed = fit(data_set, tmp_path, 0, ckpt=checkpoint, data={**data, "batch_size": batch_size})
    done = 12 + 2 * (batch + 1)
    keys = [key for seen in resumed.seen for key in seen[2:-3]]
    assert keys == [seen[2] for seen in whole.seen[done:]]
    assert [seen[:2] for seen in resumed.seen[-12 // batch_size :]] == [(2, n) for n in range(12 // batch_size)]


class RankRecorder(Recorder):
    """Writes what its rank saw to a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.validated: list[tuple] = []

    def validation_step(self, batch: Episode, _: int) -> None:
        if not self.trainer.sanity_checking:
            self.validated.append((self.current_epoch, batch.key[0], batch.target_points.sum().item()))

    def on_train_end(self) -> None:
        torch.save((self.seen, self.validated), self.folder / f"rank{self.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_ranks_share_no_episode(data_set: Path, tmp_path: Path, num_workers: int) -> None:
    data = data_module(data_set, num_workers, episodes_per_epoch=4 * NUM_BATCHES)
    trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp_spawn", max_epochs=2, **QUIET)
    trainer.fit(RankRecorder(tmp_path), data)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for epoch in range(2):
        trained = [sorted(seen[2:] for seen in rank[0] if seen[0] == epoch) for rank in ranks]
        assert len(trained[0]) == len(trained[1]) == NUM_BATCHES
        assert set(trained[0]).isdisjoint(trained[1])
        validated = [{seen for seen in rank[1] if seen[0] == epoch} for rank in ranks]
        assert len(validated[0]) == len(validated[1]) == 1
        assert validated[0].isdisjoint(validated[1])


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [(1, 2), (2, 1)])
def test_a_run_goes_on_with_other_ranks(data_set: Path, tmp_path: Path, ranks: tuple[int, int]) -> None:
    checkpoint, seen = tmp_path / "stopped.ckpt", []
    for n, world in enumerate(ranks):
        folder = tmp_path / str(n)
        folder.mkdir()
        stop = [Stop("on_train_batch_end", 1, 1, checkpoint)] if n == 0 else []
        trainer = L.Trainer(
            accelerator="cpu", devices=world, strategy="ddp_spawn", max_epochs=2, callbacks=[StepsDone(folder), *stop],
            **QUIET,
        )  # fmt: skip
        data = data_module(data_set, 0, episodes_per_epoch=12, batch_size=1)
        with pytest.raises(Exception, match="power cut") if n == 0 else nullcontext():
            trainer.fit(RankRecorder(folder), data, ckpt_path=checkpoint if n else None, weights_only=True)
        for rank in range(world):
            seen += torch.load(folder / f"steps{rank}.pt")
    second = [step[2] for step in seen if step[0] == 1]
    assert len(second) == len(set(second)) == 12, "every clip of the second epoch once, over both starts"


class StepsDone(L.Callback):
    """Writes after each step what the rank has seen so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: L.Trainer, learner: RankRecorder, *_: object) -> None:
        torch.save(learner.seen, self.folder / f"steps{trainer.global_rank}.pt")

    def on_train_end(self, trainer: L.Trainer, learner: RankRecorder) -> None:
        torch.save(learner.seen, self.folder / f"steps{trainer.global_rank}.pt")
