"""What learners share: means over parts of a batch, validation by hand, and what a checkpoint holds of them."""

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from talkinghead.learners.episodic import EpisodicLearner
from talkinghead.learners.minimize import Share
from talkinghead.metrics.suite import MAX_PSNR, ImageMetrics
from talkinghead.models.layers import SpectralNorm
from talkinghead.types import Episode, Frames
from tests.helpers.learning import episode_of, fit

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}


class Grey(EpisodicLearner):
    """Draws every picture in one grey."""

    players = ("level",)

    def __init__(self, level: float = 0.0, content: nn.Module | None = None, **options: Any) -> None:
        options = {"weights": {}, "metrics": None, "validation_shots": (2, 1, 2), **options}
        super().__init__(content, **options)
        self.level = nn.Parameter(torch.tensor(level))

    def reenact(self, batch: Episode, num_shots: int) -> Tensor:
        return self.level.expand_as(batch.target)

    def training_step(self, batch: Episode, batch_idx: int) -> None:
        optimizer = self.optimizers()
        with self.minimize(optimizer) as loss:
            loss["one"] = (self.level - 1).square()
            loss["other"] = (self.level + 1).square()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def episode(target: float, shots: tuple[float, ...] = (0.5, -0.5)) -> Episode:
    """Of flat pictures whose landmarks lie at their grey level."""

    def flat(levels: Tensor) -> Frames:
        images = levels[..., None, None, None].expand(*levels.shape, 3, 16, 16)
        return Frames(images, images, levels[..., None, None].expand(*levels.shape, 68, 2))

    return episode_of(flat(torch.tensor([shots])), flat(torch.tensor([target])))


def validate(learner: EpisodicLearner, *episodes: Episode) -> dict[str, float]:
    trainer = L.Trainer(**QUIET)
    (logged,) = trainer.validate(learner, DataLoader(list(episodes), batch_size=None), verbose=False)
    return dict(logged)


def test_validation_is_the_mean_over_episodes_for_each_shot_count_beside_the_nearest_shot() -> None:
    learner = Grey(0.0, metrics=ImageMetrics())
    logged = validate(learner, episode(0.5), episode(-0.5))
    ours = -20 * math.log10(0.25)  # in [0, 1] the grey is 0.25 away
    copied = -20 * math.log10(0.5)
    assert learner.validation_shots == [1, 2]
    assert logged["val/T=1/psnr"] == pytest.approx(ours, abs=1e-4)
    assert logged["val/T=2/psnr"] == pytest.approx(ours, abs=1e-4)
    assert logged["val/T=1/nearest/psnr"] == pytest.approx((MAX_PSNR + copied) / 2, abs=1e-4), (
        "the first shot is right once"
    )
    assert logged["val/T=2/nearest/psnr"] == pytest.approx(MAX_PSNR, abs=1e-4), "each target has its shot"


def test_a_validation_knows_nothing_of_the_one_before() -> None:
    learner = Grey(0.0, metrics=ImageMetrics())
    validate(learner, episode(1.0))
    assert validate(learner, episode(0.0))["val/T=1/psnr"] == pytest.approx(MAX_PSNR)


def test_weights_of_nothing_leave_a_loss_in_the_log_and_out_of_the_sum() -> None:
    learner = Grey(0.0, weights={"one": 2, "other": None})
    trainer = fit(learner, [episode(0.0)])
    assert trainer.callback_metrics["loss/one"] == trainer.callback_metrics["loss/other"] == 1
    assert learner.level.item() == pytest.approx(0.4), "0 - 0.1 * 2 * -2"


def test_a_mean_over_parts_is_weighted_by_their_size_and_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, logged = Grey(), []
    monkeypatch.setattr(learner, "log_dict", logged.append)
    for share, value in ((Share(0.5, last=False), 2.0), (Share(0.25, first=False, last=False), 4.0)):
        learner.log_mean({"a": torch.tensor(value)}, share)
    assert logged == []
    learner.log_mean({"a": torch.tensor(8.0)}, Share(0.25, first=False))
    learner.log_mean({"a": torch.tensor(3.0)}, Share())
    assert logged == [{"a": 4.0}, {"a": 3.0}], "0.5 * 2 + 0.25 * 4 + 0.25 * 8; and the next batch begins anew"


def test_spectral_norms_move_with_the_first_part_of_a_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Grey()
    learner.layer = nn.Linear(4, 4)
    nn.utils.parametrize.register_parametrization(learner.layer, "weight", SpectralNorm(learner.layer.weight))
    monkeypatch.setattr(learner, "log_dict", lambda values: None)
    monkeypatch.setattr(learner, "manual_backward", Tensor.backward)
    optimizer, moved = torch.optim.SGD(learner.parameters(), lr=0.0), []
    for share in (Share(0.5, last=False), Share(0.5, first=False)):
        before = {name: value.clone() for name, value in learner.named_buffers()}
        with learner.minimize(optimizer, share=share) as loss:
            loss["sum"] = learner.layer(torch.ones(1, 4)).sum()
        moved.append(any(not torch.equal(value, before[name]) for name, value in learner.named_buffers()))
    assert moved == [True, False]


def test_the_frozen_content_network_is_neither_saved_nor_trained() -> None:
    content = nn.Linear(2, 2)
    learner = Grey(content=content)
    assert learner.content is content
    assert list(learner.state_dict()) == ["level"]
    assert [name for name, _ in learner.named_parameters()] == ["level"]


def test_a_checkpoint_holds_the_config_and_the_names_of_the_videos_and_random_numbers_go_on(tmp_path: Path) -> None:
    learner = Grey()
    learner.config, learner.videos = {"model": {"size": 64}}, ["b", "a"]
    fit(learner, [episode(0.0)]).save_checkpoint(tmp_path / "a.ckpt")
    expected = torch.rand(3)
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert (checkpoint["config"], checkpoint["videos"]) == ({"model": {"size": 64}}, ["b", "a"])
    learner.on_load_checkpoint(checkpoint)
    assert torch.equal(torch.rand(3), expected)
