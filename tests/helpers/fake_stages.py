"""One step of every stage on a device that is not there: `python -m tests.helpers.fake_stages [STAGE ...]`.

Prints a JSON line per stage and precision. Each builder makes small networks on the device and returns the step.
"""

import copy
import json
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.optim import Adam

from talkinghead.callbacks.ema import EMA
from talkinghead.learners.facenet import augment, to_images
from talkinghead.learners.finetune import FeedForward, FineTuner, FinetuneState, follow
from talkinghead.learners.finetune_pairs import Pair
from talkinghead.learners.meta import MetaLearner
from talkinghead.learners.pix2pixhd import Pix2PixHDLearner
from talkinghead.learners.x2face import X2FaceLearner
from talkinghead.losses import ContentLoss
from talkinghead.metrics.frechet import FeatureSums
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.backbones import LaplacianPyramid, Pixels
from talkinghead.models.copying import MeanFrame, NearestFrame, WarpedFrame
from talkinghead.models.facenet import FaceNet
from talkinghead.models.fast_generator import FastGenerator, FastWarpGuidedGenerator
from talkinghead.models.fsth import Discriminator, Embedder, Generator
from talkinghead.models.pix2pixhd import GlobalGenerator, MultiScaleDiscriminator
from talkinghead.models.warp_guided import WarpGuidedGenerator
from talkinghead.models.x2face import DrivingNetwork, EmbeddingNetwork
from talkinghead.pixels import to_uint8
from talkinghead.types import Episode, Frames
from tests.helpers.fake_device import MODE, by_hand, fake, on_device, outcome

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


def metrics() -> Step:
    suite, sums = on_device(ImageMetrics()), on_device(FeatureSums(8))
    return lambda: (
        suite.measure(frames(2).images, frames(2).images, frames(2).points),
        sums.update(fake(torch.empty(4, 8))),
    )


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


def planted_wait() -> Step:
    """A value that the host reads."""
    return lambda: float(fake(torch.empty(())))


KINDS = ("fsth", "warp_guided")
OF_A_KIND = (meta_learning, validation, fine_tuning, feed_forward, drawing)
OTHERS = (x2face, pix2pixhd, copying, metrics, moving_average, facenet, planted_mix, planted_wait)
STAGES: dict[str, Callable[[], Step]] = {
    **{f"{stage.__name__} {kind}": partial(stage, kind) for stage in OF_A_KIND for kind in KINDS},
    **{stage.__name__: stage for stage in OTHERS},
}


def main() -> None:
    """Every stage, in fp32 and under bf16 autocast."""
    for name in sys.argv[1:] or STAGES:
        for autocast in (False, True):
            result = outcome(STAGES[name](), autocast)
            print(json.dumps([name, "bf16" if autocast else "fp32", result]), flush=True)


if __name__ == "__main__":
    main()
