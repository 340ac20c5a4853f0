"""Feed-forward and fine-tuned learning of new people from one checkpoint (arXiv 1905.08233, Sec. 3.3)."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, final

from jaxtyping import Float
from numpy import ndarray
from torch import nn

from talkinghead.learners.checkpoints import content_in, git_commit, image_size_of, networks
from talkinghead.learners.finetune import FeedForward, FineTuner
from talkinghead.learners.finetune_defaults import measured
from talkinghead.models.trusted import inside, section_of
from talkinghead.storage import digest

Loss = tuple[nn.Module, dict[str, float]]  # L_CNT, and weights by name
LANDMARK_STYLE = "dlib's 68 points, drawn by talkinghead.faces.landmark_image.draw_landmarks: lines 2 px wide at 256 px"


@final
class LoadedCheckpoint:
    """The networks of a checkpoint, loaded once, and the methods that learn people with them.

    Args:
        numbers: arguments of `FineTuner`, except the number of steps; where `weights` is None, those of the loss
        loss: L_CNT of fine-tuning and the weights that go with it; None: the checkpoint's
    """

    def __init__(
        self, checkpoint: Path, numbers: Mapping[str, Any], loss: Loss | None = None, device: str = "cpu"
    ) -> None:
        self.checkpoint, self.numbers, self.device = checkpoint, numbers, device
        self.config = inside(str(checkpoint))
        self._loss = loss
        self._networks: Any = networks(str(checkpoint)).to(device)

    @property
    def size(self) -> int:
        """Side of the networks' pictures, pixels."""
        return image_size_of(str(self.checkpoint))

    @property
    def steps(self) -> int:
        """Default number of fine-tuning steps for this kind of generator."""
        return measured(self._networks["generator"]).steps

    @cached_property
    def loss(self) -> Loss:
        """L_CNT and the loss weights of meta-learning. Raises what the loss raises where its network is missing."""
        if self._loss is not None:
            return self._loss[0].to(self.device), self._loss[1]
        weights = section_of(str(self.checkpoint), "loss").get("weights")
        words = isinstance(weights, Mapping) and any(isinstance(one, str | list | dict) for one in weights.values())
        if words or not isinstance(weights, Mapping):
            raise ValueError(f"{self.checkpoint}: loss.weights are not numbers by name: give loss=NAME")
        content = content_in(str(self.checkpoint)).to(self.device)
        return content, {name: float(weight or 0) for name, weight in weights.items()}

    def method(self, steps: int) -> FeedForward | FineTuner:
        """`FineTuner` with this number of steps; `FeedForward` for 0."""
        embedder, generator, discriminator = (
            self._networks[name] for name in ("embedder", "generator", "discriminator")
        )
        if steps == 0:
            return FeedForward(embedder, generator)
        content, weights = self.loss
        options = {"weights": weights, **self._numbers(steps)}
        tuner = FineTuner(embedder, generator, discriminator, content, **options)
        tuner.check_frozen(generator)
        return tuner

    def about(
        self, steps: int, num_shots: int, points: Float[ndarray, "68 2"], crop: Mapping[str, float]
    ) -> dict[str, Any]:
        """How a person was learned, for the person file.

        Args:
            points: landmarks of the first shot, in pixels of the networks' pictures
            crop: `margin` and `down` with which the shots were cropped
        """
        return {
            "method": "ft" if steps else "ff", "num_shots": num_shots, "source_points": points.tolist(),
            "crop": dict(crop), "checkpoint": digest(self.checkpoint), "commit": git_commit(Path(__file__).parent),
            "landmarks": LANDMARK_STYLE,
            "config": {"checkpoint": self.config, "finetune": self._learned_with(steps) if steps else None},
        }  # fmt: skip

    def _learned_with(self, steps: int) -> dict[str, Any]:
        """The numbers that `FineTuner` used, including those filled in as measured."""
        numbers, tuner = self._numbers(steps), self.method(steps)
        open_ones = [name for name, value in numbers.items() if value is None]
        return {**numbers, **{name: getattr(tuner, name) for name in open_ones}, "weights": tuner.weights}

    def _numbers(self, steps: int) -> dict[str, Any]:
        given = {name: value for name, value in self.numbers.items() if name != "weights" or value is not None}
        return {**given, "epochs": steps, "max_steps": steps}
