"""Callbacks on the real Trainer, with a learner of a few weights."""

import csv
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import pytorch_lightning as L
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader, Dataset

from talkinghead.callbacks import progress as progress_module
from talkinghead.callbacks.ema import EMA
from talkinghead.callbacks.guard import CollapseGuard, TrainingCollapsed
from talkinghead.callbacks.last import LastCheckpoint
from talkinghead.callbacks.precision import best_precision
from talkinghead.callbacks.previews import PreviewGrid
from talkinghead.callbacks.progress import Progress
from talkinghead.callbacks.table import ValidationTable, append_csv, validation_rows
from talkinghead.callbacks.timing import Timing
from talkinghead.types import Episode

SIZE, SHOTS, BATCH, STEPS = 16, 4, 2, 5
CONF = Path(__file__).parents[1] / "conf"


def episode(seed: int) -> Episode:
    generator = torch.Generator().manual_seed(seed)

    def images(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, 3, SIZE, SIZE, generator=generator) * 2 - 1

    points = torch.rand(BATCH, SHOTS + 1, 68, 2, generator=generator) * SIZE
    return Episode(
        images(BATCH, SHOTS), images(BATCH, SHOTS), images(BATCH), images(BATCH), points[:, 1:], points[:, 0],
        torch.zeros(BATCH, dtype=torch.long), ["a", "b"],
    )  # fmt: skip


class Episodes(Dataset):
    """The same batch again and again, so that a resumed run needs no position."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Episode:
        return episode(0)


class TinyLearner(L.LightningModule):
    """Keeps the contract of the learners: parts, named losses, `last_output`, `reenact`."""

    def __init__(self, fault: Any = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.embedder = spectral_norm(nn.Conv2d(6, 3, 3, padding=1))
        self.generator = nn.Sequential(spectral_norm(nn.Conv2d(6, 8, 3, padding=1)), nn.ReLU(), nn.Conv2d(8, 3, 1))
        self.discriminator = nn.Conv2d(3, 1, 3)
        self.last_output: torch.Tensor | None = None
        self.fault = fault
        self.seen: list[torch.Tensor] = []

    def reenact(self, batch: Episode, num_shots: int) -> torch.Tensor:
        batch = batch.take(num_shots)
        pairs = torch.cat([batch.shots, batch.shots_landmarks], dim=2)
        e_hat = self.embedder(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2]).mean(1)
        return torch.tanh(self.generator(torch.cat([batch.target_landmarks, e_hat], dim=1)))

    def training_step(self, batch: Episode, index: int) -> None:
        optimizer = self.optimizers()
        x_hat = self.reenact(batch, SHOTS)
        loss = (x_hat - batch.target).abs().mean()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        losses = {
            "loss/cnt": loss.detach(),
            "loss/dsc": loss.detach(),
            "score/real": loss * 0 + 1,
            "score/fake": loss * 0,
        }
        self.last_output = x_hat.detach()
        if self.fault is not None:
            losses, self.last_output = self.fault(self.trainer, losses, self.last_output)
        self.log_dict(losses)

    def validation_step(self, batch: Episode, index: int) -> None:
        self.seen.append(self.generator[2].weight.detach().clone())
        for shots in (1, SHOTS):
            error = (self.reenact(batch, shots) - batch.target).abs().mean()
            self.log_dict({f"val/T={shots}/l1": error, f"val/T={shots}/nearest/l1": error + 1})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([*self.embedder.parameters(), *self.generator.parameters()], 1e-2)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Episodes(STEPS), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Episodes(2), batch_size=None)


def fit(
    learner: TinyLearner,
    *callbacks: L.Callback,
    folder: Path,
    epochs: int = 1,
    ckpt_path: Path | None = None,
    **options: Any,
) -> L.Trainer:
    options = {"logger": False, "enable_checkpointing": any(isinstance(c, LastCheckpoint) for c in callbacks)} | options
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), default_root_dir=folder, log_every_n_steps=1,
        enable_progress_bar=any(isinstance(c, Progress) for c in callbacks), enable_model_summary=False,
        num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(learner, ckpt_path=ckpt_path, weights_only=True)
    return trainer


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


# Averaged weights


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


# Interrupted and resumed


def interrupt_at(step: int, how: signal.Signals) -> Any:
    def fault(trainer: L.Trainer, losses: dict, x_hat: torch.Tensor) -> tuple:
        if trainer.fit_loop.total_batch_idx + 1 == step:
            os.kill(os.getpid(), how)
        return losses, x_hat

    return fault


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stopped_run_ends_with_the_same_weights(tmp_path: Path, how: signal.Signals) -> None:
    through, stopped, resumed = TinyLearner(), TinyLearner(fault=interrupt_at(7, how)), TinyLearner()
    fit(through, EMA(decay=0.9), LastCheckpoint(tmp_path / "through"), folder=tmp_path, epochs=3)
    with pytest.raises(SystemExit):
        fit(stopped, EMA(decay=0.9), LastCheckpoint(tmp_path / "stopped", None), folder=tmp_path, epochs=3)
    last = tmp_path / "stopped" / "last.ckpt"
    steps = torch.load(last, weights_only=True)["ema"]["num_updates"]
    assert steps == 7
    trainer = fit(
        resumed, EMA(decay=0.9), LastCheckpoint(tmp_path / "stopped"), folder=tmp_path, epochs=3, ckpt_path=last
    )
    assert trainer.fit_loop.total_batch_idx + 1 == 3 * STEPS
    assert_same_end(tmp_path / "through" / "last.ckpt", last)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
    assert saved == [1, 2, 3, 4, 5, 5]
    saved.clear()
    fit(TinyLearner(), Saves(), LastCheckpoint(tmp_path, every_minutes=60.0), folder=tmp_path)
    assert saved == [5]
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]


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
    guard = CollapseGuard(tmp_path, flat_steps=3, saturated_steps=4)
    with pytest.raises(TrainingCollapsed, match=message) as error:
        fit(TinyLearner(fault), guard, folder=tmp_path)
    (path,) = tmp_path.glob("collapse-step=*.pt")
    assert str(path) in str(error.value)
    evidence = torch.load(path, weights_only=True)
    assert torch.equal(evidence["episode"]["target"], episode(0).target)
    assert evidence["output"].shape == (BATCH, 3, SIZE, SIZE)
    assert evidence["reason"] in str(error.value)


def test_guard_leaves_healthy_runs_alone(tmp_path: Path) -> None:
    fit(TinyLearner(), CollapseGuard(tmp_path, flat_steps=1, saturated_steps=1), folder=tmp_path, epochs=2)
    assert not list(tmp_path.glob("*.pt"))


def test_guard_says_nothing_where_the_targets_are_alike(tmp_path: Path) -> None:
    guard = CollapseGuard(tmp_path, flat_steps=1)
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


def test_progress_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "screen.txt").open("w") as screen:
        console = Console(file=screen, force_terminal=True, width=160)
        monkeypatch.setattr(progress_module, "get_console", lambda: console)
        monkeypatch.setattr("pytorch_lightning.callbacks.progress.rich_progress.get_console", lambda: console)
        monkeypatch.setattr("pytorch_lightning.callbacks.progress.rich_progress.reconfigure", lambda **_: None)
        fit(TinyLearner(), Progress(), folder=tmp_path, epochs=2)
    text = (tmp_path / "screen.txt").read_text()
    for word in ("Epoch 1/1", "5/5", "it", "run", "left", "cnt:"):
        assert word in text, word


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


# Configuration


def composed(overrides: list[str], folder: Path, group: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+{group}={overrides[0]}", *overrides[1:], f"+paths.output_dir={folder}",
                                    "+validation_shots=[1,4]"])  # fmt: skip
    return instantiate(config[group])


@pytest.mark.parametrize("name", ["default", "cpu"])
def test_trainer_configs(name: str, tmp_path: Path) -> None:
    trainer = composed([name], tmp_path, "trainer")
    assert isinstance(trainer, L.Trainer)
    assert trainer.precision == best_precision("cpu" if not torch.cuda.is_available() else "auto")
    assert composed([name, "trainer.precision=32-true"], tmp_path, "trainer").precision == "32-true"


def test_distributed_trainer_on_the_cpu(tmp_path: Path) -> None:
    trainer = composed(["ddp_cpu"], tmp_path, "trainer")
    assert trainer.world_size == 2
    assert trainer.strategy.process_group_backend == "gloo"


@pytest.mark.parametrize(("name", "count"), [("default", 2), ("csv", 1), ("tensorboard", 1), ("none", 0)])
def test_logger_configs(name: str, count: int, tmp_path: Path) -> None:
    loggers = list(composed([name], tmp_path, "logger").values())
    assert len(loggers) == count
    fit(TinyLearner(), folder=tmp_path, logger=loggers)
    assert (tmp_path / "metrics" / "metrics.csv").is_file() == any(isinstance(log, CSVLogger) for log in loggers)


@pytest.mark.slow
def test_wandb_offline_takes_previews(tmp_path: Path) -> None:
    loggers = list(composed(["wandb", "logger.wandb.offline=true"], tmp_path, "logger").values())
    fit(TinyLearner(), PreviewGrid(tmp_path / "previews"), folder=tmp_path, logger=loggers)
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/previews*.png"))


def test_callback_configs(tmp_path: Path) -> None:
    callbacks = composed(["default", "callbacks.best.monitor='val/T=4/l1'"], tmp_path, "callbacks")
    fit(TinyLearner(), *callbacks.values(), folder=tmp_path, epochs=2, logger=False)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (tmp_path / "previews" / "latest.png").is_file()
    assert (tmp_path / "validation.csv").is_file()
    assert composed(["default", "callbacks.ema=null"], tmp_path, "callbacks")["ema"] is None
    assert not composed(["none"], tmp_path, "callbacks")


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(
        _is_avx512_bf16_supported=lambda: False, _is_amx_tile_supported=lambda: False))  # fmt: skip
    assert best_precision() == "32-true"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert best_precision() == "bf16-mixed"
