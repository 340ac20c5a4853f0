"""Few-shot learning of a new person by fine-tuning (arXiv 1905.08233, Sec. 3.3)."""

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Adam

from talkinghead.learners.finetune_defaults import measured
from talkinghead.learners.finetune_pairs import (
    AnyPersonalGenerator,
    MotionConsistency,
    PairSampler,
    check_augment,
)
from talkinghead.learners.minimize import fused_adam, minimize
from talkinghead.learners.shots import BATCH, draw, draw_shares, shuffled_batches
from talkinghead.losses import adversarial, feature_matching, hinge
from talkinghead.models.fast_generator import FastGenerator, FastWarpGuidedGenerator
from talkinghead.models.fsth import Discriminator, Embedder, Generator, PersonalDiscriminator, Start
from talkinghead.models.layers import settle_spectral_norm
from talkinghead.models.memory_format import lay_out, training_layout
from talkinghead.models.person_file import save_person
from talkinghead.models.warp_guided import PersonalWarpGuidedGenerator, WarpGuidedGenerator, shot_shares
from talkinghead.options import Range, check_numbers
from talkinghead.types import Frames, Reenactor

AnyGenerator = Generator | WarpGuidedGenerator

SCORES_OK = 5.0  # the hinge acts on scores in -1..1: where D' starts beyond this, L_ADV tells little of the person

RATE, WEIGHT = Range(0, 1, whole=False, optional=True), Range(0, whole=False, optional=True)
NUMBERS = {
    **dict.fromkeys(("lr_generator", "lr_psi", "lr_w"), RATE), "lr_discriminator": RATE._replace(optional=False),
    "ema_decay": RATE, "num_discriminator_steps": Range(0, 100),
}  # fmt: skip
REMEDY = "try smaller learning rates (lr_generator, lr_discriminator), or method=ff"

_logger = logging.getLogger(__name__)


class FineTuningFailed(ValueError):
    """A loss became NaN or infinite; the message says which, when, and what to try."""


class Progress(NamedTuple):
    """The state of a fine-tuning, passed to `watch` after each step."""

    step: int  # from 1
    num_steps: int
    losses: dict[str, float]
    generator: AnyPersonalGenerator  # to look at, not to change
    scores: dict[str, float] = {}  # noqa: RUF012  `real` and `fake`: D' of the shots and of G' before this step


class PersonReenactor:
    """A `Reenactor` for one person, from driving landmarks; on a CPU by the fused networks of `fast_generator`."""

    def __init__(self, generator: AnyPersonalGenerator) -> None:
        self.generator: AnyPersonalGenerator = generator.fold()
        self._quick: FastGenerator | FastWarpGuidedGenerator | None = None

    def __call__(self, driving: Frames) -> Float[Tensor, "M 3 H W"]:
        return draw(self._generator_on(driving.landmarks.device), driving)

    def for_video(self, points: Float[Tensor, "F 68 2"]) -> Reenactor:
        """A `Reenactor` for the consecutive frames of a video that moves through `points`, given in order.

        Where several shots can be shown, one fades into the next, and is not changed for a frame or two.
        """
        generator = self.generator
        if not isinstance(generator, PersonalWarpGuidedGenerator) or len(generator.shots) == 1:
            return self
        rows = iter(shot_shares(generator.distances(points.to(generator.points)).cpu()))

        def reenact(driving: Frames) -> Float[Tensor, "M 3 H W"]:
            device = driving.landmarks.device
            shares = torch.stack([next(rows) for _ in driving.points]).to(device)
            return draw_shares(self._generator_on(device), driving, shares)

        return reenact

    def _generator_on(self, device: torch.device) -> nn.Module:
        """The generator, on a CPU in its fused form."""
        if device.type != "cpu":
            return self.generator
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.generator.psi.dtype
        if self._quick is None or self._quick.dtype != dtype:
            warps = isinstance(self.generator, PersonalWarpGuidedGenerator)
            self._quick = (FastWarpGuidedGenerator if warps else FastGenerator)(self.generator, dtype)  # type: ignore[arg-type]
        return self._quick

    def save(self, path: str | Path, about: Mapping[str, Any]) -> None:
        """Write the person model; see `talkinghead.models.person_file`."""
        save_person(path, self.generator, about)


@torch.no_grad()
def embed(embedder: Embedder, shots: Frames) -> Float[Tensor, "1 N"]:
    """e_hat_NEW: the mean of E(x(s), y(s)) over the T shots."""
    pairs = zip(shots.images.split(BATCH), shots.landmarks.split(BATCH), strict=True)
    return torch.cat([embedder(x, y) for x, y in pairs]).mean(0, keepdim=True)


@final
class FeedForward(nn.Module):
    """FF: one pass of E; no weight is updated."""

    def __init__(self, embedder: Embedder, generator: AnyGenerator) -> None:
        super().__init__()
        self.embedder, self.generator = embedder, generator

    def learn(self, shots: Frames, watch: Callable[[Progress], None] | None = None) -> PersonReenactor:
        """G' with psi' = P e_hat_NEW; `watch` is never called, for there are no steps."""
        self.eval()
        return PersonReenactor(self.generator.personalize(embed(self.embedder, shots), shots))


def first_of(*rates: float | None) -> float:
    """The first value that is not None. 0 counts: a learning rate of 0 leaves weights unchanged."""
    return next(rate for rate in rates if rate is not None)


@final
class FineTuner(nn.Module):
    """FT: psi, psi', theta, w' and b are trained on the T frames of one person, without E and without L_MCH (Sec. 3.3).

    Args:
        content: L_CNT, frozen
        weights: loss name -> weight, independent of those of meta-learning; None: 0. `mch` is ignored. `motion`
            (`finetune_pairs.MotionConsistency`; not in the paper) is off where it is not named; None: as measured
        epochs: passes over the T frames; None: epochs and max_steps as measured (`finetune_defaults`)
        batch_size: shots per step; None: as measured
        max_steps: upper bound of the steps; None: the epochs alone decide
        num_discriminator_steps: updates of D' per update of G'
        lr_generator: of G', Adam; None: as measured, and so are lr_psi and lr_w
        lr_discriminator: of D', Adam
        betas: of both
        lr_psi: of psi' alone; None: lr_generator (paper)
        lr_w: of w' and b alone; None: lr_discriminator (paper)
        augment: random changes of the pairs, see `finetune_pairs.PairSampler`; the paper has none
        frozen: names of parts of G' that keep their weights (`down`, `middle`, `up`, `to_image`, `psi`)
        ema_decay: the result is the moving average of G'; None: its last state
        init_psi: "projected": psi' <- P e_hat_NEW (paper); "random": noise of the same mean and spread (an ablation)
        init_w: "scaled": w' <- w0 + e_hat_NEW, scaled to the mean norm of W's rows; "embedding": unscaled (paper);
            "w0": w0 alone; "random": w0 + noise of that norm (ablations)
    """

    def __init__(
        self, embedder: Embedder, generator: AnyGenerator, discriminator: Discriminator, content: nn.Module,
        weights: Mapping[str, float | int | None], *, epochs: int | None = 40,
        batch_size: int | None = 8, max_steps: int | None = None,
        num_discriminator_steps: int = 2, lr_generator: float | None = 5e-5, lr_discriminator: float = 2e-4,
        betas: Sequence[float] = (0.0, 0.999), frozen: Sequence[str] = (), ema_decay: float | None = None,
        init_psi: Literal["projected", "random"] = "projected", init_w: Start = "scaled",
        lr_psi: float | None = None, lr_w: float | None = None, augment: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        usual = measured(generator)
        given = {"lr_generator": lr_generator, "lr_discriminator": lr_discriminator, "lr_psi": lr_psi, "lr_w": lr_w,
                 "ema_decay": ema_decay, "num_discriminator_steps": num_discriminator_steps}  # fmt: skip
        check_numbers(given, NUMBERS, "finetune.")
        check_numbers(weights, dict.fromkeys(weights, WEIGHT), "finetune.weights.")
        check_augment(augment)
        if epochs is None:
            epochs, max_steps = usual.epochs, max_steps or usual.max_steps
        batch_size = usual.batch_size if batch_size is None else batch_size
        counts = {"epochs": epochs, "batch_size": batch_size, "max_steps": max_steps}
        check_numbers(counts, {name: Range(1, optional=name == "max_steps") for name in counts}, "finetune.")
        self.embedder, self.generator, self.discriminator = embedder, generator, discriminator
        self._frozen = [content]  # no submodule: it is never saved
        absent = {"motion": usual.motion}
        self.weights = {name: absent.get(name, 0.0) if weight is None else weight for name, weight in weights.items()}
        self.epochs, self.batch_size, self.max_steps = epochs, batch_size, max_steps
        self.num_discriminator_steps = num_discriminator_steps
        self.lr_generator, self.lr_discriminator = first_of(lr_generator, usual.lr_generator), lr_discriminator
        self.betas = (float(betas[0]), float(betas[1]))
        self.frozen, self.ema_decay = tuple(frozen), ema_decay
        self.init_psi, self.init_w = init_psi, init_w
        self.lr_psi = first_of(lr_psi, lr_generator, usual.lr_psi)
        self.lr_w = first_of(lr_w, usual.lr_w if lr_generator is None else lr_discriminator)
        self.augment = (augment,) if isinstance(augment, str) else tuple(augment)

    def learn(self, shots: Frames, watch: Callable[[Progress], None] | None = None) -> PersonReenactor:
        """G' after fine-tuning on the shots; `watch` is called after every step."""
        generator, discriminator = self.personalize(shots)
        device = shots.images.device
        layout = training_layout(device, torch.is_autocast_enabled(device.type), shots.images.shape[-1])
        for network in (generator, discriminator, self._frozen[0].to(device)):
            lay_out(network, layout)
        return PersonReenactor(self.fine_tune(generator, discriminator, shots, watch))

    def personalize(self, shots: Frames) -> tuple[AnyPersonalGenerator, PersonalDiscriminator]:
        """G' and D' before the first step: new modules. G' draws what G draws with e_hat_NEW."""
        self.eval()
        e_hat = embed(self.embedder, shots)
        generator = self.generator.personalize(e_hat, shots)
        discriminator = self.discriminator.personalize(e_hat, self.init_w)
        if self.init_psi == "random":
            generator.psi.data = random_like(generator.psi)
        self.check_frozen(generator)
        for name, parameter in generator.named_parameters():
            parameter.requires_grad_(name.split(".")[0] not in self.frozen)
        return generator, discriminator

    def check_frozen(self, generator: nn.Module) -> None:
        """Raise ValueError for a name in `frozen` that the generator has no part of."""
        parts = {name.split(".")[0] for name, _ in generator.named_parameters()} | {"psi"}
        if unknown := set(self.frozen) - parts:
            raise ValueError(f"finetune.frozen: the generator has no {sorted(unknown)}; it has {sorted(parts)}")

    def fine_tune(
        self, generator: AnyPersonalGenerator, discriminator: PersonalDiscriminator, shots: Frames,
        watch: Callable[[Progress], None] | None = None,
    ) -> AnyPersonalGenerator:  # fmt: skip
        """Train both networks in place by the losses of meta-learning; returns G', or its moving average."""
        generator.train(), discriminator.train()
        state = self.start(generator, discriminator, shots)
        average = copy.deepcopy(generator) if self.ema_decay else generator
        batches = shuffled_batches(shots, self.epochs, self.batch_size, self.max_steps)
        for step, (num_steps, batch) in enumerate(batches, start=1):
            with torch.enable_grad():
                losses, scores = self.step(generator, discriminator, state, batch)
            if self.ema_decay:
                follow(average, generator, self.ema_decay, step)
            if step == 1:
                report_start(scores)
            if watch is not None or step in (1, num_steps):  # else no step waits for the device
                values = checked(losses, step)
                if watch is not None:
                    watch(Progress(step, num_steps, values, generator, numbers(scores)))
        if self.ema_decay:
            settle_spectral_norm(average)
        return checked_weights(average)

    def start(
        self, generator: AnyPersonalGenerator, discriminator: PersonalDiscriminator, shots: Frames
    ) -> "FinetuneState":  # fmt: skip
        """Make the optimizers, the pairs, and the motion to be preserved."""
        opt_g = fused_adam(groups(generator, {"psi"}, self.lr_psi), self.lr_generator, self.betas)
        opt_d = fused_adam(groups(discriminator, {"w", "b"}, self.lr_w), self.lr_discriminator, self.betas)
        motion = MotionConsistency(generator, shots) if self.weights.get("motion") else None
        return FinetuneState(opt_g, opt_d, PairSampler(generator, shots, self.augment), motion)

    def step(
        self, generator: AnyPersonalGenerator, discriminator: PersonalDiscriminator, state: "FinetuneState",
        batch: Frames,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:  # fmt: skip
        """One step on some shots: `num_discriminator_steps` updates of D', one of G'.

        Returns the losses, and the mean scores of the shots and of G' before D' was updated.
        """
        players = [*generator.parameters(), *discriminator.parameters()]
        scores: dict[str, Tensor] = {}
        x, y, condition = state.pairs(batch)
        x_hat = generator(condition)  # G'(y(t); psi, psi')

        for _ in range(self.num_discriminator_steps):
            with minimize([state.opt_d], players, self.weights) as loss_d:  # theta, w', b
                real, fake = discriminator(x, y), discriminator(x_hat.detach(), y)
                loss_d["dsc"] = hinge(real.score, fake.score)
                scores = scores or {"real": real.score.detach().mean(), "fake": fake.score.detach().mean()}

        with minimize([state.opt_g], players, self.weights) as loss_g:  # psi, psi'
            with torch.no_grad():
                real = discriminator(x, y)
            fake = discriminator(x_hat, y)
            loss_g["cnt"] = self._frozen[0](x, x_hat)
            loss_g["adv"] = adversarial(fake.score)
            loss_g["fm"] = feature_matching(real.features, fake.features)
            if state.motion is not None:
                loss_g["motion"] = state.motion(generator)  # mouth and eyes still follow other landmarks
        return {**loss_d, **loss_g}, scores


class FinetuneState(NamedTuple):
    """Optimizers and samplers that live from step to step of one fine-tuning."""

    opt_g: Adam
    opt_d: Adam
    pairs: PairSampler
    motion: MotionConsistency | None


def groups(network: nn.Module, fast: set[str], lr: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer without frozen ones; those named in `fast` get the learning rate `lr`."""
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    own = {"params": [parameter for name, parameter in named if name in fast], "lr": lr}
    others = {"params": [parameter for name, parameter in named if name not in fast]}
    return [group for group in (others, own) if group["params"]]


def numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Python numbers of scalar tensors; waits for the device."""
    return {name: float(value.detach()) for name, value in values.items()}


def checked(losses: Mapping[str, Tensor], step: int) -> dict[str, float]:
    """The losses as numbers. Raises FineTuningFailed where one is NaN or infinite."""
    values = numbers(losses)
    if bad := [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]:
        raise FineTuningFailed(f"fine-tuning failed in step {step}: {', '.join(bad)}; {REMEDY}")
    return values


def checked_weights(generator: AnyPersonalGenerator) -> AnyPersonalGenerator:
    """The generator itself. Raises FineTuningFailed where one of its weights is NaN or infinite."""
    if bad := [name for name, value in generator.named_parameters() if not bool(value.isfinite().all())]:
        raise FineTuningFailed(f"fine-tuning failed: {len(bad)} weights are NaN or infinite, {bad[0]} first; {REMEDY}")
    return generator


def report_start(scores: Mapping[str, Tensor]) -> None:
    """Log the first scores of D'; warn where they are far outside the range in which the hinge loss acts."""
    values = numbers(scores)
    text = f"D' starts at {values['real']:.2f} for the shots and {values['fake']:.2f} for G'"
    if max(map(abs, values.values())) > SCORES_OK:
        _logger.warning("%s, far outside -1..1: try init_w=scaled or a smaller weights.adv", text)
    else:
        _logger.info("%s", text)


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """average <- decay * average + (1 - decay) * module; buffers are copied. Less decay in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for kept, new in zip(average.parameters(), module.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
    for buffer, now in zip(average.buffers(), module.buffers(), strict=True):
        buffer.copy_(now)


def random_like(values: Tensor) -> Tensor:
    """Noise with the mean and the spread of the values."""
    values = values.detach()
    return values.mean() + values.std() * torch.randn_like(values)
