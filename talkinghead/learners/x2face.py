"""X2Face (arXiv 1807.10550), a baseline: trained on episodes by L1, and driven by pictures instead of landmarks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from talkinghead.learners.episodic import EpisodicLearner
from talkinghead.learners.minimize import fused_adam
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.x2face import DrivingNetwork, EmbeddingNetwork, warp
from talkinghead.types import Episode, Frames, Reenactor

AT_ONCE = 16  # frames per forward pass when a person is learned or reenacted


@final
class X2FaceLearner(EpisodicLearner):
    """Trained to warp source frames to an embedded face, and that to the target, which also drives (its stage I).

    Args:
        weights: of `l1`, and of `cnt`, which needs `content`: a content loss on the same pictures
        lr: of Adam
        betas: of Adam
        gradient_clip_norm: of both networks together; None: no clipping
    """

    players = ("generator",)

    def __init__(
        self, embedder: EmbeddingNetwork, driver: DrivingNetwork, weights: Mapping[str, float | int | None],
        content: nn.Module | None = None, metrics: ImageMetrics | None = None,
        validation_shots: Iterable[int] = (1, 8, 32), lr: float = 1e-4, betas: Sequence[float] = (0.9, 0.999),
        gradient_clip_norm: float | int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(content, weights, metrics, validation_shots, gradient_clip_norm)
        self.embedder, self.driver = embedder, driver
        self.lr, self.betas = lr, (float(betas[0]), float(betas[1]))

    def training_step(self, batch: Episode, batch_idx: int) -> None:
        """Target and shots are F frames of a video, each of which is source and driving frame of every other one."""
        x = torch.cat([batch.target[:, None], batch.shots], dim=1)
        clips, frames = x.shape[:2]
        x = x.flatten(0, 1)
        faces, samplers = self.embedder(x).unflatten(0, (clips, frames)), self.driver(x)
        x_hat = torch.stack([warp(faces.roll(n, 1).flatten(0, 1), samplers) for n in range(1, frames)])
        with self.minimize(cast(Optimizer, self.optimizers())) as loss:
            loss["l1"] = (x - x_hat).abs().mean()
            if self.weights.get("cnt"):
                loss["cnt"] = self.content(x.repeat(frames - 1, 1, 1, 1), x_hat.flatten(0, 1))
        self.last_output = x_hat[0, ::frames].detach()  # the target, from the last shot

    def reenact(self, batch: Episode, num_shots: int) -> Float[Tensor, "B 3 H W"]:
        """Warp the mean of the shots' embedded faces, driven by the target frames themselves."""
        shots = batch.take(num_shots).shots
        faces = self.embedder(shots.flatten(0, 1)).unflatten(0, shots.shape[:2])
        return warp(faces.mean(1), self.driver(batch.target))

    @torch.no_grad()
    def learn(self, shots: Frames) -> Reenactor:
        """Embed the shots; their landmarks are ignored, and no weight is updated."""
        with evaluating(self):
            face = torch.cat([self.embedder(part) for part in shots.images.split(AT_ONCE)]).mean(0, keepdim=True)

        @torch.no_grad()
        def reenact(driving: Frames) -> Float[Tensor, "M 3 H W"]:
            with evaluating(self):
                parts = driving.images.split(AT_ONCE)
                return torch.cat([warp(face.expand(len(part), -1, -1, -1), self.driver(part)) for part in parts])

        return reenact

    def configure_optimizers(self) -> Optimizer:
        """One Adam for the embedding and the driving network together."""
        return fused_adam([*self.embedder.parameters(), *self.driver.parameters()], self.lr, self.betas)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Batch norm uses its running statistics inside the block; afterwards the mode is as before."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
