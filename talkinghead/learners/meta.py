"""Meta-learning stage (arXiv 1905.08233, Sec. 3.2)."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, final

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.optim import Optimizer, SparseAdam

from talkinghead.learners.adversarial import AdversarialLearner
from talkinghead.learners.minimize import WHOLE, Share, fused_adam
from talkinghead.learners.sparse_rows import average_rows, fill_rows
from talkinghead.learners.video_rows import visited_of
from talkinghead.losses import adversarial, feature_matching, hinge, matching
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.fsth import Discriminator, Embedder, Generator
from talkinghead.models.guide import close_ups, parts_mask
from talkinghead.models.layers import without_power_iterations
from talkinghead.models.warp_guided import WarpGuidedGenerator
from talkinghead.types import Episode


@final
class MetaLearner(AdversarialLearner):
    """Learns E, G and D on episodes of K shots and one target. Without `weights.mch` it is the feed-forward variant.

    Args:
        num_discriminator_steps: updates of D per update of E and G
        matching_moves_w: L_MCH also updates W (paper); False: only E (authors' code)
        matched_shot: L_MCH takes e_hat_i, the "mean" (paper), or e_i of the "first" shot (authors' code)
        generator_first: E and G are updated before D (authors' code), not after it
        fake_moves_w: in D's update, W gets a gradient from x and x_hat; False: from x only (authors' code)
        first_visit: W_i <- e_hat_i when a video is drawn for the first time, in place of noise
        lr_generator: of E, G and P, Adam (Sec. 4)
        lr_discriminator: of D, Adam (Sec. 4)
        betas: of all Adams
        eps: of all Adams
        lr_w: of W; None: lr_discriminator
        accumulate: number of parts in which a batch is processed one after the other: the same update with less
            memory, for a second pass of E and G
        checkpoint_embedder: recompute the activations inside E's blocks in the backward pass instead of storing them
        gradient_clip_norm: of E and G together, of theta, w0 and b together, and of W's rows; None: no clipping
        compile_with: backend of `torch.compile` for E, G, V and L_CNT in training, e.g. "inductor"; None: as they are
    """

    players = ("generator", "discriminator", "rows")

    def __init__(
        self, embedder: Embedder, generator: Generator | WarpGuidedGenerator, discriminator: Discriminator,
        content: nn.Module, weights: Mapping[str, float], metrics: ImageMetrics | None = None,
        validation_shots: Iterable[int] = (1, 8, 32), *, num_discriminator_steps: int = 2,
        matching_moves_w: bool = True, lr_generator: float = 5e-5, lr_discriminator: float = 2e-4,
        betas: Sequence[float] = (0.0, 0.999), lr_w: float | None = None, eps: float = 1e-8,
        matched_shot: Literal["mean", "first"] = "mean", generator_first: bool = False,
        fake_moves_w: bool = True, first_visit: bool = False, gradient_clip_norm: float | int | None = None,
        accumulate: int = 1, checkpoint_embedder: bool = False, compile_with: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(content, weights, metrics, validation_shots, gradient_clip_norm)
        if matched_shot not in ("mean", "first"):
            raise ValueError(f"learner.matched_shot={matched_shot}: choose mean or first")
        self.embedder, self.generator, self.discriminator = embedder, generator, discriminator
        self.num_discriminator_steps = num_discriminator_steps
        self.matching_moves_w, self.matched_shot = matching_moves_w, matched_shot
        self.generator_first, self.fake_moves_w = generator_first, fake_moves_w
        self.lr_generator, self.lr_discriminator = lr_generator, lr_discriminator
        self.lr_w = lr_discriminator if lr_w is None else lr_w
        self.betas, self.eps = (float(betas[0]), float(betas[1])), eps
        if accumulate < 1:
            raise ValueError(f"learner.accumulate={accumulate}: at least 1, please")
        self.accumulate = accumulate
        self.embedder.encoder.checkpointing = checkpoint_embedder
        if compile_with and compile_with not in (known := torch._dynamo.list_backends(exclude_tags=())):
            raise ValueError(
                f"learner.compile_with={compile_with}: null compiles nothing; there are {', '.join(known)}"
            )
        self.compile_with = compile_with
        if first_visit and discriminator.W_norm is not None:
            raise ValueError("learner.first_visit=true copies e_hat into W, which normalize_w then divides: choose one")
        self.visited = torch.zeros(len(discriminator.W.weight), dtype=torch.bool) if first_visit else None
        self._ddp_params_and_buffers_to_ignore = ["discriminator.W.weight"]  # average_rows sends the rows used instead

    def on_fit_start(self) -> None:
        """Compile the networks, where asked; parameters and their names stay."""
        super().on_fit_start()
        if dist.is_available() and dist.is_initialized():  # DDP, to which W does not belong, does so for the others
            dist.broadcast(self.discriminator.W.weight.data, 0)
        if self.compile_with:
            for network in (self.embedder, self.generator, self.discriminator.V, self.content):
                network.compile(backend=self.compile_with)

    def embed(self, batch: Episode) -> tuple[Float[Tensor, "B K N"], Float[Tensor, "B N"]]:
        """e_i(s_k) = E(x_i(s_k), y_i(s_k)), and e_hat_i, their mean over the shots (Sec. 3.2)."""
        e = self.embedder(batch.shots.flatten(0, 1), batch.shots_landmarks.flatten(0, 1))  # all B * K shots at once
        e = e.unflatten(0, batch.shots.shape[:2])  # [B, K, N]
        return e, e.mean(1)

    def training_step(self, batch: Episode, batch_idx: int) -> None:
        """One episode per row: `num_discriminator_steps` updates of D, one of E and G."""
        if self.accumulate > 1:
            return self.accumulated_step(batch)
        e, e_hat = self.embed(batch)  # the mean of e_i(s_k) over the K shots
        shown = self.generator.condition(batch)  # y_i(t); to a warp-guided G also a shot, moved to y_i(t)
        x_hat = self.generator(shown, e_hat)  # G(y_i(t), e_hat_i; psi, P): one pass for all updates below
        matched = e_hat if self.matched_shot == "mean" else e[:, 0]
        if self.visited is not None:
            fill_rows(self.discriminator.W.weight, self.visited, batch.video_index, e_hat.detach())

        if self.generator_first:
            self.move_generator(batch, x_hat, matched)
        for _ in range(self.num_discriminator_steps):
            self.move_discriminator(batch, x_hat.detach(), matched.detach())
        if not self.generator_first:
            self.move_generator(batch, x_hat, matched)

        self.last_output = x_hat.detach()
        self.log_dict(self.embeddings(e_hat.detach(), batch.video_index))

    def accumulated_step(self, batch: Episode) -> None:
        """The updates of `training_step`, from parts of the batch whose gradients add up.

        The activations of one part are gone before the next: E and G pass without gradients first, for D's updates and
        the rows of W, and again for their own.
        """
        parts = batch.split(self.accumulate)
        shares = [Share(len(p.key) / len(batch.key), n == 0, n == len(parts) - 1) for n, p in enumerate(parts)]
        with torch.no_grad():
            outputs = [self.output(part, iterate=share.first) for part, share in zip(parts, shares, strict=True)]
        x_hats, matched, e_hats = zip(*outputs, strict=True)
        if self.visited is not None:
            fill_rows(self.discriminator.W.weight, self.visited, batch.video_index, torch.cat(e_hats))

        moves = ["discriminator"] * self.num_discriminator_steps
        for player in ["generator", *moves] if self.generator_first else [*moves, "generator"]:
            for n, (part, share) in enumerate(zip(parts, shares, strict=True)):
                if player == "discriminator":
                    self.move_discriminator(part, x_hats[n], matched[n], share)
                else:
                    x_hat, e, _ = self.output(part, iterate=False)
                    self.move_generator(part, x_hat, e, share)

        self.last_output = torch.cat(x_hats)
        self.log_dict(self.embeddings(torch.cat(e_hats), batch.video_index))

    def output(self, batch: Episode, iterate: bool) -> tuple[Tensor, Tensor, Tensor]:
        """x_hat, what L_MCH matches, and e_hat; `iterate`: with a power iteration of spectral norm, as in training."""
        with nullcontext() if iterate else without_power_iterations(self.embedder, self.generator):
            e, e_hat = self.embed(batch)
            x_hat = self.generator(self.generator.condition(batch), e_hat)
        return x_hat, e_hat if self.matched_shot == "mean" else e[:, 0], e_hat

    def move_discriminator(
        self, batch: Episode, x_hat: Float[Tensor, "B 3 H W"], matched: Float[Tensor, "B N"], share: Share = WHOLE
    ) -> None:
        """One update of theta, w0, b and W."""
        x, y, i = batch.target, batch.target_landmarks, batch.video_index
        _, opt_d, opt_w = self.step_optimizers()
        with self.minimize(opt_d, opt_w, share=share) as loss:
            loss["dsc"] = hinge(*self.discriminator.compare(x, x_hat, y, i, self.fake_moves_w))
            if self.weights.get("mch") and self.matching_moves_w:
                loss["mch"] = matching(matched, self.discriminator.rows(i))  # e_hat is detached: updates W

    def move_generator(
        self, batch: Episode, x_hat: Float[Tensor, "B 3 H W"], matched: Float[Tensor, "B N"], share: Share = WHOLE
    ) -> None:
        """One update of phi, psi and P."""
        x, y, i = batch.target, batch.target_landmarks, batch.video_index
        opt_g, _, _ = self.step_optimizers()
        with self.minimize(opt_g, share=share) as loss:
            with torch.no_grad():  # L_FM needs the activations on x, no gradient
                real = self.discriminator(x, y, i)
            fake = self.discriminator(x_hat, y, i)
            loss["cnt"] = self.content(x, x_hat)
            loss["adv"] = adversarial(fake.score)
            loss["fm"] = feature_matching(real.features, fake.features)
            if self.weights.get("mch"):
                loss["mch"] = matching(matched, self.discriminator.rows(i))  # W is frozen: updates E
            if self.weights.get("parts"):  # not in the paper, and neither is the next
                loss["parts"] = parts(x, x_hat, batch.target_points)
            if self.weights.get("close_ups"):  # L_CNT of mouth and eyes alone, where a few pixels tell much
                loss["close_ups"] = self.content(*(close_ups(each, batch.target_points) for each in (x, x_hat)))
        self.log_mean({"score/real": real.score.mean(), "score/fake": fake.score.detach().mean()}, share)

    @torch.no_grad()
    def embeddings(self, e_hat: Float[Tensor, "B N"], i: Tensor) -> dict[str, Tensor]:
        """How well e_hat matches W: mean norms, mean cosine, and the share of components of e_hat that are always 0."""
        rows = self.discriminator.W(i)
        if self.discriminator.W_norm is not None:  # as the score sees them, without another power iteration
            rows = rows / self.discriminator.W_norm.sigma
        return {
            "embedding/e_hat": e_hat.norm(dim=1).mean(), "embedding/w": rows.norm(dim=1).mean(),
            "embedding/cosine": cosine_similarity(e_hat, rows).mean(),
            "embedding/dead": (e_hat == 0).all(0).float().mean(),
        }  # fmt: skip

    def reenact(self, batch: Episode, num_shots: int) -> Float[Tensor, "B 3 H W"]:
        """Feed-forward: G(y, e_hat) with e_hat from the first `num_shots` shots."""
        _, e_hat = self.embed(batch.take(num_shots))
        return self.generator(self.generator.condition(batch.take(num_shots)), e_hat)

    def configure_optimizers(self) -> list[Optimizer]:
        """Adam for E and G, Adam for theta, w0 and b, and Adam on the used rows of W only."""
        rows = self.discriminator.W.weight
        theta = [p for p in self.discriminator.parameters() if p is not rows]
        phi_psi = [*self.embedder.parameters(), *self.generator.parameters()]
        opt_g = fused_adam(phi_psi, self.lr_generator, self.betas, self.eps)
        opt_d = fused_adam(theta, self.lr_discriminator, self.betas, self.eps)
        opt_w = SparseAdam([rows], self.lr_w, self.betas, self.eps)
        opt_w.register_step_pre_hook(average_rows)
        return [opt_g, opt_d, opt_w]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the videos visited so far, which `first_visit` needs."""
        super().on_save_checkpoint(checkpoint)
        if self.visited is not None:
            checkpoint["visited"] = self.visited.clone()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the visited videos."""
        super().on_load_checkpoint(checkpoint)
        if self.visited is not None:
            self.visited = visited_of(checkpoint, len(self.visited))


def parts(
    x: Float[Tensor, "B 3 H W"], x_hat: Float[Tensor, "B 3 H W"], points: Float[Tensor, "B 68 2"]
) -> Float[Tensor, ""]:
    """Mean absolute difference on lips and lids, few pixels that count little in L_CNT; in [0, 2]. Not in the paper."""
    mask = parts_mask(points, x.shape[-1])
    return ((x - x_hat.float()).abs() * mask).sum() / (3 * mask.sum()).clamp(min=1)
