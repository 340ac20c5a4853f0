"""Meta-learning stage (arXiv 1905.08233, Sec. 3.2)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Adam, Optimizer, SparseAdam

from talkinghead.learners.adversarial import AdversarialLearner
from talkinghead.learners.rows import average_rows
from talkinghead.losses.adversarial import adversarial, feature_matching, hinge
from talkinghead.losses.matching import matching
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.fsth import Discriminator, Embedder, Generator
from talkinghead.models.guide import parts_mask
from talkinghead.models.warp_guided import WarpGuidedGenerator
from talkinghead.types import Episode


@final
class MetaLearner(AdversarialLearner):
    """Learns E, G and D on episodes of K shots and one target. Without `weights.mch` it is the feed-forward variant.

    num_discriminator_steps     updates of D per update of E and G
    matching_moves_w            W follows e_hat too (paper); False: only e_hat follows W (authors' code)
    lr_generator, lr_discriminator, betas   Adam, Sec. 4
    """

    def __init__(
        self, embedder: Embedder, generator: Generator | WarpGuidedGenerator, discriminator: Discriminator,
        content: nn.Module, weights: Mapping[str, float], metrics: ImageMetrics | None = None,
        validation_shots: Iterable[int] = (1, 8, 32), num_discriminator_steps: int = 2, matching_moves_w: bool = True,
        lr_generator: float = 5e-5, lr_discriminator: float = 2e-4, betas: Sequence[float] = (0.0, 0.999),
    ) -> None:  # fmt: skip
        super().__init__(content, weights, metrics, validation_shots)
        self.embedder, self.generator, self.discriminator = embedder, generator, discriminator
        self.num_discriminator_steps = num_discriminator_steps
        self.matching_moves_w = matching_moves_w
        self.lr_generator, self.lr_discriminator = lr_generator, lr_discriminator
        self.betas = (float(betas[0]), float(betas[1]))
        self._ddp_params_and_buffers_to_ignore = ["discriminator.W.weight"]  # average_rows sends the rows used instead

    def embed(self, batch: Episode) -> tuple[Float[Tensor, "B K N"], Float[Tensor, "B N"]]:
        """e_i(s_k) = E(x_i(s_k), y_i(s_k)), and e_hat_i, their mean over the shots (Eq. 1)."""
        e = self.embedder(batch.shots.flatten(0, 1), batch.shots_landmarks.flatten(0, 1))
        e = e.unflatten(0, batch.shots.shape[:2])
        return e, e.mean(1)

    def training_step(self, batch: Episode, batch_idx: int) -> None:
        """One episode per row: `num_discriminator_steps` updates of D, one of E and G."""
        x, y, i = batch.target, batch.target_landmarks, batch.video_index
        opt_g, opt_d, opt_w = self.game()

        _, e_hat = self.embed(batch)  # the mean of e_i(s_k) over the K shots
        shown = self.generator.condition(batch)  # y_i(t); to a warp-guided G also a shot, moved to y_i(t)
        x_hat = self.generator(shown, e_hat)  # G(y_i(t), e_hat_i; psi, P)

        for _ in range(self.num_discriminator_steps):
            with self.minimize(opt_d, opt_w) as loss:  # theta, w0, b and W
                loss["dsc"] = hinge(*self.discriminator.compare(x, x_hat.detach(), y, i))  # Eq. 9
                if self.weights.get("mch") and self.matching_moves_w:
                    loss["mch"] = matching(e_hat.detach(), self.discriminator.W(i))  # Eq. 7, W's side of it

        with self.minimize(opt_g) as loss:  # phi, psi, P
            with torch.no_grad():
                real = self.discriminator(x, y, i)
            fake = self.discriminator(x_hat, y, i)
            loss["cnt"] = self.content(x, x_hat)  # Eq. 4
            loss["adv"] = adversarial(fake.score)  # Eq. 5
            loss["fm"] = feature_matching(real.features, fake.features)
            if self.weights.get("mch"):
                loss["mch"] = matching(e_hat, self.discriminator.W(i))  # Eq. 7, E's side of it
            if self.weights.get("parts"):
                loss["parts"] = parts(x, x_hat, batch.target_points)  # lips and lids; not in the paper

        self.last_output = x_hat.detach()
        self.log_dict({"score/real": real.score.mean(), "score/fake": fake.score.detach().mean()})

    def reenact(self, batch: Episode, num_shots: int) -> Float[Tensor, "B 3 H W"]:
        """Feed-forward: G(y, e_hat) with e_hat from the first `num_shots` shots."""
        _, e_hat = self.embed(batch.take(num_shots))
        return self.generator(self.generator.condition(batch.take(num_shots)), e_hat)

    def configure_optimizers(self) -> list[Optimizer]:
        """Adam for E and G, Adam for theta, w0 and b, and Adam on the used rows of W only."""
        rows = self.discriminator.W.weight
        theta = [p for p in self.discriminator.parameters() if p is not rows]
        phi_psi = [*self.embedder.parameters(), *self.generator.parameters()]
        opt_g = Adam(phi_psi, self.lr_generator, self.betas)
        opt_d = Adam(theta, self.lr_discriminator, self.betas)
        opt_w = SparseAdam([rows], self.lr_discriminator, self.betas)
        opt_w.register_step_pre_hook(average_rows)
        return [opt_g, opt_d, opt_w]


def parts(
    x: Float[Tensor, "B 3 H W"], x_hat: Float[Tensor, "B 3 H W"], points: Float[Tensor, "B 68 2"]
) -> Float[Tensor, ""]:
    """Mean absolute difference on lips and lids: few pixels, in which a face comes alive."""
    mask = parts_mask(points, x.shape[-1])
    return ((x - x_hat.float()).abs() * mask).sum() / (3 * mask.sum()).clamp(min=1)
