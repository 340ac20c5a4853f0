"""One step of every stage on a device that is not there: `python -m tests.helpers.fake_stages [STAGE ...]`.

Prints a JSON line per stage and precision. Each builder makes small networks on the device and returns the step.
"""

import copy
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.optim import Adam
from torchvision.models import alexnet

from talkinghead.callbacks.ema import EMA
from talkinghead.callbacks.guard import CollapseGuard
from talkinghead.evaluation.protocol import Candidate, FewShotEvaluation
from talkinghead.learners.facenet import augment, to_images
from talkinghead.learners.finetune import FeedForward, FineTuner, FinetuneState, follow
from talkinghead.learners.finetune_pairs import Pair
from talkinghead.learners.meta import MetaLearner
from talkinghead.learners.pix2pixhd import Pix2PixHDLearner
from talkinghead.learners.x2face import X2FaceLearner
from talkinghead.losses import ContentLoss
from talkinghead.metrics.features import PooledFeatures
from talkinghead.metrics.frechet import FrechetDistance
from talkinghead.metrics.lpips import LPIPS
from talkinghead.metrics.perceptual import PerceptualDistance
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.backbones import LaplacianPyramid, Pixels, RandomFeatures
from talkinghead.models.copying import MeanFrame, NearestFrame, WarpedFrame
from talkinghead.models.facenet import FaceNet, FaceNetFeatures
from talkinghead.models.fast_generator import FastGenerator, FastWarpGuidedGenerator
from talkinghead.models.fsth import Discriminator, Embedder, Generator
from talkinghead.models.pix2pixhd import GlobalGenerator, MultiScaleDiscriminator
from talkinghead.models.warp_guided import WarpGuidedGenerator
from talkinghead.models.x2face import DrivingNetwork, EmbeddingNetwork
from talkinghead.pixels import to_uint8
from talkinghead.types import Episode, Frames, Person
from tests.helpers.fake_device import HERE, MODE, by_hand, fake, numbers_are_read, on_device, outcome

SIZE, CHANNELS, N = 64, (16, 32, 64), 64
WEIGHTS = {"cnt": 1.0, "adv": 1.0, "fm": 10.0, "mch": 1.0, "parts": 1.0, "close_ups": 1.0}
Step = Callable[[], Any]


def frames(count: int) -> Frames:
    return Frames(*(fake(torch.empty(count, *shape)) for shape in ((3, SIZE, SIZE), (3, SIZE, SIZE), (68, 2))))


def episode(batch: int = 2, shots: int = 3) -> Episode:
    images, points = (torch.empty(batch, shots, *shape) for shape in ((3, SIZE, SIZE), (68, 2)))
    source, target = (
        [fake(images), fake(images), fake(points)],
        [fake(images[:, 0]), fake(images[:, 0]), fake(points[:, 0])],
    )
    index = fake(torch.zeros(batch, dtype=torch.long))
    return Episode(*source[:2], *target[:2], source[2], target[2], index, [f"clip{n}" for n in range(batch)])


def generator(kind: str) -> Generator | WarpGuidedGenerator:
    if kind == "fsth":
        return Generator(SIZE, N, (16, 32), 1, (32, 16), 32, None)
    return WarpGuidedGenerator(SIZE, N, CHANNELS, num_residual=1)


def networks(kind: str) -> tuple[Embedder, nn.Module, Discriminator]:
    return Embedder(SIZE, CHANNELS, 32), generator(kind), Discriminator(4, SIZE, CHANNELS, None)


def content() -> ContentLoss:
    parts = {"pixels": Pixels(), "laplacian": LaplacianPyramid()}
    return ContentLoss(parts, dict.fromkeys(parts, 1.0))


def meta_learning(kind: str) -> Step:
    learner = on_device(MetaLearner(*networks(kind), content(), WEIGHTS, None, (1, 3)))
    with MODE:
        by_hand(learner, learner.configure_optimizers())
    return lambda: learner.training_step(episode(), 0)


def validation(kind: str) -> Step:
    learner = on_device(MetaLearner(*networks(kind), content(), WEIGHTS, ImageMetrics(), (1, 3)))
    for metrics in learner._metrics[0].values():
        on_device(metrics)
    return lambda: learner.validation_step(episode(), 0)


def parts_of_a_batch(kind: str) -> Step:
    """Learning with the options that save memory; `first_visit` is not here, it reads the rows of each batch."""
    saving = {"accumulate": 2, "checkpoint_embedder": True, "gradient_clip_norm": 1.0}
    learner = on_device(MetaLearner(*networks(kind), content(), WEIGHTS, None, (1, 3), **saving))
    with MODE:
        by_hand(learner, learner.configure_optimizers())

    def step() -> None:
        learner.on_train_start()
        learner.training_step(episode(3), 0)

    return step


def fine_tuning(kind: str) -> Step:
    embedder, psi, discriminator = networks(kind)
    with torch.no_grad():
        discriminator.W.weight.normal_()
    tuner = on_device(FineTuner(embedder, psi, discriminator, content(), WEIGHTS, epochs=1, ema_decay=0.9))

    def step() -> None:
        """With pairs that are the shots: those of a warp-guided G' are made by the face model, on the CPU."""
        shots = frames(3)
        generator, discriminator = tuner.personalize(shots)
        moving = ([p for p in part.parameters() if p.requires_grad] for part in (generator, discriminator))
        opt_g, opt_d = map(Adam, moving)

        def pairs(batch: Frames) -> Pair:
            return Pair(batch.images, batch.landmarks, generator.condition(batch))

        state = FinetuneState(opt_g, opt_d, pairs, None)  # type: ignore[arg-type]
        average = copy.deepcopy(generator)
        with torch.enable_grad():
            tuner.step(generator, discriminator, state, shots)
        follow(average, generator, 0.9, 1)

    return step


def feed_forward(kind: str) -> Step:
    method = on_device(FeedForward(*networks(kind)[:2]))
    return lambda: method.learn(frames(3))(frames(2))


def drawing(kind: str) -> Step:
    """What an animation does for every batch of frames: the fused G', and bytes."""
    method, fast = (
        on_device(FeedForward(*networks(kind)[:2])),
        {"fsth": FastGenerator}.get(kind, FastWarpGuidedGenerator),
    )

    def step() -> None:
        person = method.learn(frames(3)).generator
        to_uint8(fast(person)(person.condition(frames(2))))

    return step


def x2face() -> Step:
    networks = EmbeddingNetwork(SIZE, (8, 16, 16, 16, 16, 16)), DrivingNetwork(SIZE, (8, 16, 16, 16, 16, 4))
    learner = on_device(X2FaceLearner(*networks, weights={"l1": 1, "cnt": 1}, content=content()))
    with MODE:
        optimizers = learner.configure_optimizers()
    by_hand(learner, optimizers if isinstance(optimizers, list) else [optimizers])
    return lambda: (learner.training_step(episode(), 0), learner.learn(frames(3))(frames(2)))


def pix2pixhd() -> Step:
    learner = Pix2PixHDLearner(
        GlobalGenerator(8, 2, 1), MultiScaleDiscriminator(2, 8, 2), content(), WEIGHTS, finetune_epochs=1
    )
    on_device(learner)
    with MODE:
        by_hand(learner, learner.configure_optimizers())
    return lambda: (learner.training_step(episode(), 0), learner.learn(frames(3))(frames(2)))


def copying() -> Step:
    return lambda: [method().learn(frames(3))(frames(2)) for method in (NearestFrame, WarpedFrame, MeanFrame)]


def lpips() -> LPIPS:
    """With a trunk of zeros."""
    with torch.device("meta"):
        trunk = alexnet(weights=None).features.state_dict()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "alexnet.pth"
        torch.save({f"features.{name}": torch.zeros(value.shape) for name, value in trunk.items()}, path)
        return LPIPS(path)


def suite(**distances: nn.Module) -> ImageMetrics:
    """Its means are on the device, and its networks on the CPU until they are asked for the first time."""
    return on_device(ImageMetrics(distances={name: on_device(network, "cpu") for name, network in distances.items()}))


def metrics() -> Step:
    """Of images, as training's validation adds them up, and of sets of images."""
    faces = PerceptualDistance(FaceNetFeatures(FaceNet(16, 4)))
    images, sets = suite(lpips=lpips(), pd_facenet=faces), FrechetDistance("fd", PooledFeatures(RandomFeatures()))
    on_device(sets._features[0], "cpu")
    on_device(sets)

    def step() -> None:
        images.update(frames(2).images, frames(2).images, frames(2).points)
        sets.update_real(frames(3).images)
        sets.update_fake(frames(3).images)

    return step


def evaluation(kind: str) -> Step:
    """A person of the few-shot protocol, with both ways to learn one and all that is measured.

    It reads numbers by nature, for they are the rows; a warp-guided FT is left out, whose pairs are made on the CPU.
    """
    embedder, psi, discriminator = networks(kind)
    candidates = [Candidate(FeedForward(embedder, psi), "ours", "FF"), Candidate(NearestFrame(), "nearest")]
    if kind == "fsth":
        with torch.no_grad():
            discriminator.W.weight.normal_()
        tuner = FineTuner(embedder, psi, discriminator, content(), WEIGHTS, epochs=1, ema_decay=0.9)
        candidates.append(Candidate(tuner, "ours", "FT"))
    rows = SimpleNamespace(find=lambda key: None, add=lambda key, values: None)
    measures = suite(pd_random=PerceptualDistance(RandomFeatures((4, 8))))
    protocol = on_device(FewShotEvaluation(candidates, "data/test", (2,), measures, rows))  # type: ignore[arg-type]
    protocol._device = torch.device(HERE)

    def step() -> None:
        with torch.no_grad(), numbers_are_read():
            outputs = protocol.test_step(Person("anna", frames(3), frames(2), frames(2)), 0)
        assert all(str(x_hat.device) == HERE for x_hat in outputs.values())

    return step


def guard(looks: bool) -> Step:
    """After a step. Every few steps it looks, and reads numbers by nature; after all others it must not."""
    losses = {name: fake(torch.empty(())) for name in ("loss/l1", "loss/cnt")}  # of a learner without a discriminator
    trainer = SimpleNamespace(
        callback_metrics=losses, global_rank=0, fit_loop=SimpleNamespace(total_batch_idx=9 if looks else 8),
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, **_: decision),
    )  # fmt: skip
    collapse = CollapseGuard("nowhere")

    def step() -> None:
        learner = SimpleNamespace(last_output=frames(2).images)
        with numbers_are_read() if looks else nullcontext():
            collapse.on_train_batch_end(trainer, learner, None, episode(), 0)  # type: ignore[arg-type]

    return step


def moving_average() -> Step:
    learner = on_device(MetaLearner(*networks("fsth"), content(), WEIGHTS, None, (1, 3)))
    ema, trainer = EMA(0.9), SimpleNamespace(sanity_checking=False, global_step=1)

    def step() -> None:
        ema.on_fit_start(trainer, learner)  # type: ignore[arg-type]
        ema.on_train_batch_end(trainer, learner, None, episode(), 0)  # type: ignore[arg-type]

    return step


def facenet() -> Step:
    network = on_device(FaceNet(16, 4))
    with MODE:
        optimizer = Adam(network.parameters())

    def step() -> None:
        images = to_images(SimpleNamespace(images=fake(torch.empty(4, 3, SIZE, SIZE, dtype=torch.uint8))))  # type: ignore[arg-type]
        x, _ = augment(images, fake(torch.empty(4, 68, 2)))
        network(x).embedding.float().square().mean().backward()
        optimizer.step()

    return step


def planted_mix() -> Step:
    """Tensors of two devices: what the others must not have."""
    return lambda: fake(torch.empty(2)) + torch.zeros(2)


def planted_mix_of_numbers() -> Step:
    """The same of tensors without dimensions, which may be added but not listed."""
    return lambda: torch.stack([fake(torch.empty(())) + torch.zeros(()), torch.zeros(())])


def planted_mix_between_numbers() -> Step:
    """The same where numbers may be read."""

    def step() -> None:
        with numbers_are_read():
            float(fake(torch.empty(2))[fake(torch.empty(2)) > 0].mean() + torch.zeros(2))

    return step


def planted_wait() -> Step:
    """A value that the host reads."""
    return lambda: float(fake(torch.empty(())))


KINDS = ("fsth", "warp_guided")
OF_A_KIND = (meta_learning, parts_of_a_batch, validation, fine_tuning, feed_forward, drawing, evaluation)
OTHERS = (x2face, pix2pixhd, copying, metrics, moving_average, facenet)
PLANTED = (planted_mix, planted_mix_of_numbers, planted_mix_between_numbers, planted_wait)
STAGES: dict[str, Callable[[], Step]] = {
    **{f"{stage.__name__} {kind}": partial(stage, kind) for stage in OF_A_KIND for kind in KINDS},
    **{stage.__name__: stage for stage in (*OTHERS, *PLANTED)},
    "guard_between_looks": partial(guard, False),
    "guard_looking": partial(guard, True),
}


def main() -> None:
    """Every stage, in fp32 and under bf16 autocast."""
    for name in sys.argv[1:] or STAGES:
        for autocast in (False, True):
            result = outcome(STAGES[name](), autocast)
            print(json.dumps([name, "bf16" if autocast else "fp32", result]), flush=True)


if __name__ == "__main__":
    main()
