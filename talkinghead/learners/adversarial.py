"""What all adversarial learners share: two players that are updated in turn."""

from typing import cast

from torch.optim import Optimizer

from talkinghead.learners.episodic import EpisodicLearner


class AdversarialLearner(EpisodicLearner):
    """Abstract: a generator against a discriminator; the arguments are those of `EpisodicLearner`."""

    def step_optimizers(self) -> list[Optimizer]:
        """The optimizers; Lightning counts the first one only, so `trainer.global_step` is the number of batches."""
        counted, plain = self.optimizers(), self.optimizers(use_pl_optimizer=False)
        assert isinstance(counted, list)
        assert isinstance(plain, list)
        return [cast(Optimizer, counted[0]), *plain[1:]]

    def on_fit_start(self) -> None:
        """Raises ValueError under fp16: its loss scale cannot serve two optimizers in turn."""
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError("trainer.precision=16-mixed has one loss scale for two players: use bf16-mixed or 32-true")
        super().on_fit_start()
