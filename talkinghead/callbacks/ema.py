"""Exponential moving average of E and G: used in validation and previews, stored in checkpoints beside the weights."""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as L
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from talkinghead.models.layers import settle_spectral_norm

CHECKPOINT_KEY = "ema"

TensorList = tuple[Tensor, ...] | list[Tensor]


class EMA(L.Callback):
    """Averages the learner's submodules named in `parts` after every training step; W and D are not averaged.

    Args:
        decay: weight of the old average, in [0, 1); at most (1 + n) / (10 + n) after n updates, so that the average of
            a short run is not dominated by its first weights
        parts: names of the learner's submodules

    A checkpoint's `state_dict` holds the weights that are trained; `checkpoint["ema"]["state_dict"]` the averaged ones
    under the same names, so `{**checkpoint["state_dict"], **checkpoint["ema"]["state_dict"]}` is the model to use.
    """

    def __init__(self, decay: float = 0.999, parts: tuple[str, ...] = ("embedder", "generator")) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay is {decay}, it must lie in [0, 1)")
        self.decay = decay
        self.parts = tuple(parts)
        self.num_updates = 0
        self._average: AveragedModel | None = None
        self._loaded: dict[str, Tensor] | None = None
        self._swapped = False
        self._settled = False  # spectral norm's vectors are those of the averaged weights

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._build(pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        assert self._average is not None
        self._average.update_parameters(self._averaged_parts(pl_module))
        self.num_updates += 1
        self._settled = False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._average is None and self._loaded is not None:  # validation of a checkpoint, without a fit
            self._build(pl_module)
        if self._average is not None and self.num_updates > 0:
            self._swap(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._swapped:
            self._swap(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._swapped:  # stopped in the middle of a validation: what is saved now must be the trained weights
            self._swap(pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._average is None or self.num_updates == 0:
            return
        self._settle()
        averaged = dict(self._average.module.state_dict())
        if self._swapped:
            trained, averaged = averaged, dict(self._averaged_parts(pl_module).state_dict())
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **trained}
        checkpoint[CHECKPOINT_KEY] = {"num_updates": self.num_updates, "state_dict": averaged}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get(CHECKPOINT_KEY)  # absent where the run before had no EMA: the average starts here
        if state is not None:
            self.num_updates, self._loaded = state["num_updates"], state["state_dict"]

    def _build(self, learner: L.LightningModule) -> None:
        parts = self._averaged_parts(learner)
        self._average = AveragedModel(parts, multi_avg_fn=self._update_average)
        self._average.requires_grad_(False)
        if self._loaded is not None:
            self._average.module.load_state_dict(self._loaded)
            self._average.n_averaged.fill_(self.num_updates)
            self._loaded, self._settled = None, True
        else:
            self.num_updates, self._settled = 0, False

    def _averaged_parts(self, learner: L.LightningModule) -> nn.ModuleDict:
        return nn.ModuleDict({name: learner.get_submodule(name) for name in self.parts})

    def _update_average(self, averaged: TensorList, current: TensorList, num_averaged: Tensor | int) -> None:
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        get_ema_multi_avg_fn(decay)(averaged, current, num_averaged)

    def _settle(self) -> None:
        """Update the average's singular vectors (spectral norm), once after each update of its weights.

        So the result does not depend on how often the average is saved or validated. The next update copies the trained
        weights' vectors over these, so training is not affected.
        """
        if not self._settled:
            assert self._average is not None
            settle_spectral_norm(self._average.module)
        self._settled = True

    @torch.no_grad()
    def _swap(self, learner: L.LightningModule) -> None:
        """Exchange the storages of the trained and the averaged weights; a second call restores them."""
        assert self._average is not None
        self._settle()
        for trained, averaged in zip(
            tensors(self._averaged_parts(learner)), tensors(self._average.module), strict=True
        ):
            trained.data, averaged.data = averaged.data, trained.data
        self._swapped = not self._swapped


def tensors(module: nn.Module) -> Iterator[Tensor]:
    """All parameters of a module, then all its buffers."""
    yield from module.parameters()
    yield from module.buffers()
