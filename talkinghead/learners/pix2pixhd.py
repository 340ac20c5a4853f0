"""Pix2pixHD as a few-shot method (arXiv 1711.11585; as the baseline of arXiv 1905.08233, Sec. 4)."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from talkinghead.learners.adversarial import AdversarialLearner
from talkinghead.learners.minimize import fused_adam, minimize
from talkinghead.learners.shots import draw, shuffled_batches
from talkinghead.losses import feature_matching
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.pix2pixhd import GlobalGenerator, LocalEnhancer, MultiScaleDiscriminator, MultiScaleOutput
from talkinghead.types import Episode, Frames, Reenactor

Network = TypeVar("Network", bound=nn.Module)
Move = Callable[[Optimizer], AbstractContextManager[dict[str, Tensor]]]


@final
class Pix2PixHDLearner(AdversarialLearner):
    """Maps landmark image -> frame: trained on all people at once, then fine-tuned by `learn` on T frames of one.

    Pretraining uses no shots, so before `learn` it draws an average person.

    Args:
        lr: Adam of G and of D
        betas: Adam of G and of D
        decay_from: share of the epochs after which lr falls linearly towards 0; 1: never
        finetune_epochs: passes over the T frames
        finetune_lr: of Adam, constant
        finetune_batch_size: shots per step, at most T
        gradient_clip_norm: of G and of D separately, in pretraining; None: no clipping
    """

    players = ("generator", "discriminator")

    def __init__(
        self, generator: GlobalGenerator | LocalEnhancer, discriminator: MultiScaleDiscriminator, content: nn.Module,
        weights: Mapping[str, float | int | None], metrics: ImageMetrics | None = None,
        validation_shots: Iterable[int] = (1,), lr: float = 2e-4, betas: Sequence[float] = (0.5, 0.999),
        decay_from: float = 0.5, finetune_epochs: int = 40, finetune_lr: float = 2e-4, finetune_batch_size: int = 8,
        *, gradient_clip_norm: float | int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(content, weights, metrics, validation_shots, gradient_clip_norm)
        if not 0 <= decay_from <= 1:
            raise ValueError(f"decay_from={decay_from} is a share of the epochs, in [0, 1]")
        if min(finetune_epochs, finetune_batch_size) < 1:
            raise ValueError(
                f"finetune_epochs={finetune_epochs} and finetune_batch_size={finetune_batch_size} must be at least 1"
            )
        self.generator, self.discriminator = generator, discriminator
        self.lr, self.decay_from = lr, decay_from
        self.betas = (float(betas[0]), float(betas[1]))
        self.finetune_epochs, self.finetune_lr = finetune_epochs, finetune_lr
        self.finetune_batch_size = finetune_batch_size

    # Pretraining on all people.

    def training_step(self, batch: Episode, batch_idx: int) -> None:
        """One update of D and one of G on the targets; the shots are ignored."""
        opt_g, opt_d = self.step_optimizers()
        x_hat, real, fake = self.play(
            self.generator, self.discriminator, batch.target, batch.target_landmarks, opt_g, opt_d, self.minimize
        )
        self.last_output = x_hat.detach()
        self.log_dict({"score/real": mean_score(real), "score/fake": mean_score(fake)})

    def play(
        self, generator: nn.Module, discriminator: MultiScaleDiscriminator, x: Float[Tensor, "B 3 H W"],
        y: Float[Tensor, "B 3 H W"], opt_g: Optimizer, opt_d: Optimizer, move: Move,
    ) -> tuple[Float[Tensor, "B 3 H W"], MultiScaleOutput, MultiScaleOutput]:  # fmt: skip
        """One update of D and one of G, in pretraining and fine-tuning; `move` is `minimize` for these players."""
        x_hat = generator(y)

        with move(opt_d) as loss:
            real, fake = discriminator(x, y), discriminator(x_hat.detach(), y)
            loss["dsc"] = (least_squares(real.scores, 1.0) + least_squares(fake.scores, 0.0)) / 2

        with move(opt_g) as loss:
            with torch.no_grad():
                real = discriminator(x, y)
            fake = discriminator(x_hat, y)
            if self.weights.get("adv"):
                loss["adv"] = least_squares(fake.scores, 1.0)
            if self.weights.get("fm"):
                loss["fm"] = multi_scale_matching(real, fake)
            if self.weights.get("cnt"):
                loss["cnt"] = self.content(x, x_hat)  # the perceptual loss of Sec. 4
        return x_hat, real, fake

    def on_train_epoch_start(self) -> None:
        """Set the learning rate of both players, which falls linearly in the last epochs."""
        lr = self.lr * remaining(self.current_epoch, self.trainer.max_epochs, self.decay_from)
        for optimizer in self.step_optimizers():
            for group in optimizer.param_groups:
                group["lr"] = lr

    def configure_optimizers(self) -> list[Optimizer]:
        """Adam for G and Adam for D."""
        return [fused_adam(part.parameters(), self.lr, self.betas) for part in (self.generator, self.discriminator)]

    def reenact(self, batch: Episode, num_shots: int) -> Float[Tensor, "B 3 H W"]:
        """The pretrained G on the targets' landmark images: an average person, the same for every number of shots.

        Only `learn` adapts it; fine-tuning on every validation episode would take longer than the training.
        """
        return self.generator(batch.target_landmarks)

    # A new person.

    def learn(self, shots: Frames) -> Reenactor:
        """Fine-tune copies of G and D on the T frames with the same losses. Raises ValueError where T is 0."""
        if len(shots.images) == 0:
            raise ValueError("Pix2pixHD learns a person from at least one frame, and was given none")
        self.content.to(shots.images.device)
        generator, discriminator = trainable_copy(self.generator), trainable_copy(self.discriminator)
        opt_g, opt_d = (
            fused_adam(part.parameters(), self.finetune_lr, self.betas) for part in (generator, discriminator)
        )
        players = [*generator.parameters(), *discriminator.parameters()]

        def move(optimizer: Optimizer) -> AbstractContextManager[dict[str, Tensor]]:
            return minimize([optimizer], players, self.weights)

        for _, (x, y, _) in shuffled_batches(shots, self.finetune_epochs, self.finetune_batch_size):
            self.play(generator, discriminator, x, y, opt_g, opt_d, move)
        return partial(draw, generator.requires_grad_(False).eval())


def least_squares(scores: Sequence[Float[Tensor, "B 1 _ _"]], goal: float) -> Float[Tensor, ""]:
    """Mean squared distance of the patches' scores from `goal`, summed over the scales (LSGAN, arXiv 1611.04076)."""
    return torch.stack([(score - goal).square().mean() for score in scores]).sum()


def multi_scale_matching(real: MultiScaleOutput, fake: MultiScaleOutput) -> Float[Tensor, ""]:
    """L_FM of each scale: sum over its layers of the mean absolute difference; averaged over the scales.

    The mean over the scales follows the published code.
    """
    num_layers = len(real.features[0])
    flat = [[layer for scale in verdict.features for layer in scale] for verdict in (real, fake)]
    return num_layers * feature_matching(*flat)


def mean_score(verdict: MultiScaleOutput) -> Float[Tensor, ""]:
    """The score of D, averaged over patches, pictures and scales."""
    return torch.stack([score.detach().mean() for score in verdict.scores]).mean()


def remaining(epoch: int, max_epochs: int | None, decay_from: float) -> float:
    """Factor of the learning rate in an epoch: 1 at first, then falling linearly towards 0 after the last."""
    if max_epochs is None or max_epochs <= 0:
        return 1.0
    start = round(decay_from * max_epochs)
    return min(1.0, (max_epochs - epoch) / (max_epochs - start)) if epoch >= start else 1.0


def trainable_copy(module: Network) -> Network:
    """A deep copy whose parameters all require gradients."""
    return copy.deepcopy(module).requires_grad_(True).train()
