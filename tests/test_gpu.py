"""On a CUDA device: one real step of every stage, in fp32 and bf16, finite and with weights that moved."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from talkinghead.callbacks.ema import EMA
from talkinghead.callbacks.guard import CollapseGuard
from talkinghead.learners.finetune import FeedForward, FineTuner
from talkinghead.learners.meta import MetaLearner
from talkinghead.learners.pix2pixhd import Pix2PixHDLearner
from talkinghead.learners.resuming import restore_random_state, save_random_state
from talkinghead.learners.x2face import X2FaceLearner
from talkinghead.losses import ContentLoss
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.backbones import LaplacianPyramid, Pixels
from talkinghead.models.fsth import Discriminator, Embedder, Generator
from talkinghead.models.guide import guide
from talkinghead.models.layers import SpectralNorm
from talkinghead.models.pix2pixhd import GlobalGenerator, MultiScaleDiscriminator
from talkinghead.models.warp_guided import WarpGuidedGenerator
from talkinghead.models.x2face import DrivingNetwork, EmbeddingNetwork
from talkinghead.types import Episode, Frames
from tests.helpers.learning import episode_of, fit, snapshot

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIZE, CHANNELS, N = 64, (16, 32, 64), 64
ON_GPU = {"accelerator": "gpu", "devices": 1}
WEIGHTS = {"cnt": 1.0, "adv": 1.0, "fm": 10.0, "mch": 1.0, "parts": 1.0, "close_ups": 1.0}


def frames(*count: int) -> Frames:
    """Smooth pictures and points where a face may have them."""
    flat = int(torch.tensor(count).prod())
    images, landmarks = (
        nn.functional.interpolate(torch.rand(flat, 3, 8, 8) * 2 - 1, SIZE, mode="bilinear") for _ in range(2)
    )
    points = SIZE * (0.25 + 0.5 * torch.rand(68, 2)) + torch.randn(flat, 68, 2)
    return Frames(*(value.unflatten(0, count) for value in (images, landmarks, points)))


def episode(batch: int = 4, shots: int = 3) -> Episode:
    return episode_of(frames(batch, shots), frames(batch))


def generator(kind: str) -> Generator | WarpGuidedGenerator:
    if kind == "fsth":
        return Generator(SIZE, N, (16, 32), 1, (32, 16), 32, None)
    return WarpGuidedGenerator(SIZE, N, CHANNELS, num_residual=1)


def content() -> ContentLoss:
    networks = {"pixels": Pixels(), "laplacian": LaplacianPyramid()}
    return ContentLoss(networks, dict.fromkeys(networks, 1.0))


def meta_learner(kind: str) -> MetaLearner:
    metrics = ImageMetrics() if "metrics" in MetaLearner.__init__.__annotations__ else None
    return MetaLearner(
        Embedder(SIZE, CHANNELS, 32), generator(kind), Discriminator(4, SIZE, CHANNELS, None), content(), WEIGHTS,
        metrics, (1, 3),
    )  # fmt: skip


def moved(module: nn.Module, before: dict[str, Tensor]) -> bool:
    """Whether all is finite, and something changed."""
    after = module.state_dict()
    assert all(value.isfinite().all() for value in after.values() if value.is_floating_point())
    return any(not torch.equal(value.cpu(), before[name]) for name, value in after.items())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", ["fsth", "warp_guided"])
def test_meta_learning(kind: str, precision: str, tmp_path: Path) -> None:
    learner = meta_learner(kind)
    before = {name: snapshot(getattr(learner, name)) for name in ("embedder", "generator", "discriminator")}
    parts = [EMA(0.9), CollapseGuard(tmp_path)]
    trainer = fit(learner, [episode() for _ in range(3)], [episode(1)], callbacks=parts, **ON_GPU, precision=precision)
    assert all(moved(getattr(learner, name), weights) for name, weights in before.items())
    assert trainer.callback_metrics["val/T=1/ssim"].isfinite()


@pytest.mark.parametrize("autocast", [False, True])
def test_fine_tuning_and_feed_forward(autocast: bool) -> None:
    networks = Embedder(SIZE, CHANNELS, 32), generator("fsth"), Discriminator(4, SIZE, CHANNELS, None)
    shots, driving = (Frames(*(value.cuda() for value in frames(count))) for count in (3, 5))
    tuner = FineTuner(*networks, content(), WEIGHTS, epochs=2, ema_decay=0.9).cuda()
    feed_forward = FeedForward(*networks[:2]).cuda()
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        drawn = [method.learn(shots)(driving) for method in (tuner, feed_forward)]
    assert all(x_hat.shape == driving.images.shape and x_hat.isfinite().all() for x_hat in drawn)
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_baselines(precision: str) -> None:
    x2face = X2FaceLearner(
        EmbeddingNetwork(SIZE, (8, 16, 16, 16, 16, 16)),
        DrivingNetwork(SIZE, (8, 16, 16, 16, 16, 4)),
        weights={"l1": 1, "cnt": 0},
    )
    pix2pixhd = Pix2PixHDLearner(GlobalGenerator(8, 2, 1), MultiScaleDiscriminator(2, 8, 2), content(), WEIGHTS)
    for learner in (x2face, pix2pixhd):
        before = snapshot(learner)
        fit(learner, [episode() for _ in range(2)], **ON_GPU, precision=precision)
        assert moved(learner, before)


def test_the_guide_is_that_of_the_cpu() -> None:
    shot, source, driving = frames(2).images, frames(2).points, frames(2).points
    here, there = guide(shot, source, driving), guide(shot.cuda(), source.cuda(), driving.cuda())
    assert torch.allclose(here.flow, there.flow.cpu(), atol=2e-3)


@pytest.mark.parametrize("inside", [False, True])
def test_spectral_norm_under_autocast_has_fp32_gradients(inside: bool) -> None:
    """Also where `backward` is called inside autocast: its products are in fp32, not rounded to bf16."""
    weight = torch.randn(16, 8, 3, 3, device="cuda", requires_grad=True)
    norm = SpectralNorm(weight.detach()).eval()
    (expected,) = torch.autograd.grad((norm(weight) ** 3).sum(), weight)
    with torch.autocast("cuda", torch.bfloat16):
        loss = (norm(weight) ** 3).sum()
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(weight.grad, expected, rtol=1e-5, atol=1e-6)


def test_the_random_numbers_of_the_device_go_on() -> None:
    device, checkpoint = torch.device("cuda"), {}
    save_random_state(checkpoint, device)
    first = torch.rand(3, device=device)
    restore_random_state(checkpoint, device)
    assert torch.equal(torch.rand(3, device=device), first)
