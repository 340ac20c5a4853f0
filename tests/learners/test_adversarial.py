"""Two players: which optimizer counts the steps, and why fp16 is refused."""

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn

from talkinghead.learners.adversarial import AdversarialLearner
from talkinghead.types import Episode, Frames
from tests.helpers.learning import episode_of, fit


class Duel(AdversarialLearner):
    """Two numbers; the second moves three times a batch."""

    players = ("first", "second")

    def __init__(self) -> None:
        super().__init__(None, {}, None, (1,))
        self.first, self.second = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def reenact(self, batch: Episode, num_shots: int) -> Tensor:
        return batch.target

    def training_step(self, batch: Episode, batch_idx: int) -> None:
        first, second = self.step_optimizers()
        with self.minimize(first) as loss:
            loss["first"] = -self.first
        for _ in range(3):
            with self.minimize(second) as loss:
                loss["second"] = -self.second

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD([value], lr=1.0) for value in (self.first, self.second)]


def episode() -> Episode:
    images = torch.zeros(1, 3, 4, 4)
    frames = Frames(images, images, torch.zeros(1, 68, 2))
    return episode_of(Frames(*(value[:, None] for value in frames)), frames)


def test_steps_are_counted_as_batches_however_often_the_second_player_moves() -> None:
    learner = Duel()
    trainer = fit(learner, [episode()] * 2)
    assert trainer.global_step == 2
    assert (learner.first.item(), learner.second.item()) == (2, 6)


def test_one_loss_scale_for_two_players_is_refused() -> None:
    fp16 = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(ValueError, match=r"trainer\.precision=16-mixed .* use bf16-mixed or 32-true"):
        fit(Duel(), [episode()], plugins=[fp16])
    fit(Duel(), [episode()], precision="bf16-mixed")
