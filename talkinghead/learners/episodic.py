"""What all learners on episodes share: named losses, validation per shot count, checkpoints."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytorch_lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from talkinghead.learners.checkpoints import misfits
from talkinghead.learners.minimize import WHOLE, Share, clip_gradients, minimize
from talkinghead.learners.resuming import restore_random_state, save_random_state
from talkinghead.learners.video_rows import match_videos
from talkinghead.losses import ContentLoss
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.layers import without_power_iterations
from talkinghead.models.memory_format import lay_out, training_layout
from talkinghead.models.nearest_frame import nearest_frame
from talkinghead.models.trusted import built, read_checkpoint, section_of, weights_of
from talkinghead.types import Episode


class EpisodicLearner(L.LightningModule):
    """Abstract: learns from episodes of K shots and one target, by manual optimisation.

    Args:
        content: L_CNT, frozen; None where the weights do not name it
        weights: loss name -> weight in the sum; a loss of weight 0 or null is left out
        metrics: prototype, copied for each shot count and for the nearest-frame baseline; None: no validation
        validation_shots: numbers of shots T that validation and previews use
        gradient_clip_norm: largest norm of the gradients of one optimizer, before each of its steps; None: no clipping

    Attributes:
        config: plain dict that goes into every checkpoint (it stays loadable with `weights_only=True`)
    """

    players: Sequence[str]  # what each optimizer of `configure_optimizers` updates, for the log
    config: Mapping[str, Any] | None = None
    videos: Sequence[str] | None = None  # names of the rows of W, where the data set has them

    def __init__(
        self, content: nn.Module | None, weights: Mapping[str, float | int | None], metrics: ImageMetrics | None,
        validation_shots: Iterable[int], gradient_clip_norm: float | int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if gradient_clip_norm is not None and not gradient_clip_norm > 0:
            raise ValueError(f"learner.gradient_clip_norm={gradient_clip_norm}: more than 0, or null, please")
        self.gradient_clip_norm = gradient_clip_norm
        self.automatic_optimization = False
        self.weights = {name: float(weight or 0) for name, weight in weights.items()}
        if content is None and self.weights.get("cnt"):
            raise ValueError("weights.cnt is given and content is not: give learner.content, e.g. '${loss.content}'")
        self.validation_shots = sorted(set(validation_shots))
        names = [prefix for shots in self.validation_shots for prefix in (f"T={shots}", f"T={shots}/nearest")]
        # In lists, so that frozen networks are neither saved, averaged nor wrapped by DDP.
        self._frozen = [content]
        self._metrics = [{name: metrics.fresh() for name in names} if metrics is not None else {}]
        self._means: dict[str, Tensor] = {}  # of what was logged for parts of a batch so far
        self.last_output: Tensor | None = None

    @abstractmethod
    def reenact(self, batch: Episode, num_shots: int) -> Float[Tensor, "B 3 H W"]:
        """x_hat of the target frames, in [-1, 1], from the first `num_shots` shots and the target landmarks."""

    @property
    def content(self) -> nn.Module:
        """L_CNT; frozen, and kept out of `state_dict` and DDP."""
        assert self.content_or_none is not None
        return self.content_or_none

    @property
    def content_or_none(self) -> nn.Module | None:
        """L_CNT; None where the weights do not name it."""
        return self._frozen[0]

    @contextmanager
    def minimize(self, *optimizers: Optimizer, share: Share = WHOLE) -> Iterator[dict[str, Tensor]]:
        """Collect named losses, then step on their weighted sum and log them; all other parameters are frozen.

        Args:
            share: part of the batch that the losses are from; the step is taken after the last part
        """
        with (
            nullcontext() if share.first else without_power_iterations(self),
            minimize(optimizers, self.parameters(), self.weights, self.manual_backward, share) as losses,
        ):
            yield losses
        self.log_mean({f"loss/{name}": value.detach() for name, value in losses.items()}, share)

    def log_mean(self, values: Mapping[str, Tensor], share: Share) -> None:
        """Sum up the means over the parts of a batch, and log them with the last part."""
        means = {name: value * share.of for name, value in values.items()}
        if not share.first:
            means = {name: value + self._means[name] for name, value in means.items()}
        if share.last:
            self.log_dict(means)
        self._means.update(means)

    # Validation: each shot count, and the copied frame that a method has to beat.

    @torch.no_grad()
    def validation_step(self, batch: Episode, batch_idx: int) -> None:
        """Update the metrics of each shot count T, and those of the nearest source frame, copied."""
        for shots in self.validation_shots:
            outputs = {f"T={shots}": self.reenact(batch, shots), f"T={shots}/nearest": nearest_frame(batch, shots)}
            for name, x_hat in outputs.items():
                if name in self._metrics[0]:
                    self._metrics[0][name].update(x_hat.float(), batch.target.float(), batch.target_points)

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics of the previous validation."""
        for metrics in self._metrics[0].values():
            metrics.to(self.device).reset()

    def on_validation_epoch_end(self) -> None:
        """Log `val/T=8/ssim` and `val/T=8/nearest/ssim`, for each T and metric."""
        for name, metrics in self._metrics[0].items():
            self.log_dict({f"val/{name}/{key}": value for key, value in metrics.compute().items()}, rank_zero_only=True)

    # Life cycle.

    def setup(self, stage: str) -> None:
        """Before training, choose the memory format that is fastest on this device and in this precision."""
        if stage == "fit":
            bf16 = self.trainer.precision in ("bf16-mixed", "bf16-true")
            size = getattr(getattr(self.trainer, "datamodule", None), "size", 0)
            layout = training_layout(self.trainer.strategy.root_device, bf16, size)
            for network in (self, *self._frozen):
                if network is not None:
                    lay_out(network, layout)

    def on_fit_start(self) -> None:
        """Bring the frozen networks to this rank's device."""
        for network in self._frozen:
            if network is not None:
                network.to(self.device)

    def on_train_start(self) -> None:
        """Register gradient clipping, after the hooks of `configure_optimizers` that average gradients over ranks."""
        if self.gradient_clip_norm is not None:
            found = self.optimizers(use_pl_optimizer=False)
            for name, optimizer in zip(self.players, found if isinstance(found, list) else [found], strict=True):
                optimizer.register_step_pre_hook(partial(self._clip, name, self.gradient_clip_norm))

    def _clip(self, name: str, limit: float | int, optimizer: Optimizer, args: object, kwargs: object) -> None:
        self.log(f"gradient_norm/{name}", clip_gradients(optimizer, limit))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the plain config and the random states."""
        checkpoint["config"] = self.config
        if self.videos is not None:
            checkpoint["videos"] = list(self.videos)
        save_random_state(checkpoint, self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the random states, and reorder the rows of W to the videos of this data set."""
        match_videos(checkpoint, self.videos, self.state_dict())
        restore_random_state(checkpoint, self.device)


def learner_in(file: str, changes: Mapping[str, Any], option: str) -> nn.Module:
    """A learner with its weights, built from the config inside its checkpoint, as baselines are.

    Args:
        changes: arguments of the learner that are given here, not by the file
        option: that names the file, for messages

    Raises:
        FileNotFoundError: there is no such file, or a pretrained network of its content loss is missing.
        ValueError: the file's config does not make a learner, or its weights do not fit.
    """
    section = {**section_of(file, "learner"), **changes, "metrics": None}
    where = f"{file}: learner"
    without = {**section, "content": {"_target_": "talkinghead.models.backbones.Pixels"}}
    with torch.device("meta"):  # sizes first: a config of huge networks allocates nothing
        empty = built(without, where)
    if not isinstance(empty, EpisodicLearner):
        raise ValueError(f"{where} is no learner: it is not a checkpoint of train.py")
    state = weights_of(read_checkpoint(file, option), file)
    wrong = misfits(state, empty.state_dict())
    if wrong:
        raise ValueError(f"{file}: its weights are not those of its config: {len(wrong)} differ, {wrong[0]} first")
    learner: EpisodicLearner = built(section, where)
    if not isinstance(learner.content_or_none, ContentLoss | None):
        raise ValueError(f"{where}.content is no content loss")
    learner.load_state_dict(state)
    return learner
