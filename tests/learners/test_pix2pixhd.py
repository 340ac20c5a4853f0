"""Pix2pixHD: the paper's sizes, a step of its game, and what fine-tuning on a person does and leaves alone."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from torch import Tensor, nn

from talkinghead.callbacks.ema import EMA
from talkinghead.callbacks.guard import CollapseGuard
from talkinghead.callbacks.last_checkpoint import LastCheckpoint
from talkinghead.callbacks.previews import PreviewGrid
from talkinghead.learners.checkpoints import load_weights
from talkinghead.learners.pix2pixhd import Pix2PixHDLearner, least_squares, multi_scale_matching, remaining
from talkinghead.learners.shots import shuffled_batches
from talkinghead.losses import ContentLoss, activation_distance
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.backbones import LaplacianPyramid, Pixels
from talkinghead.models.pix2pixhd import (
    GlobalGenerator,
    LocalEnhancer,
    MultiScaleDiscriminator,
    MultiScaleOutput,
    PatchDiscriminator,
    PlainInstanceNorm,
    WeightedLayers,
)
from talkinghead.types import Episode, Frames
from tests.helpers.learning import episode_of, fit, snapshot

CONF = Path(__file__).parents[2] / "conf"
WEIGHTS = {"cnt": 10.0, "adv": 1.0, "fm": 10.0}


def make_learner(weights: dict[str, float] = WEIGHTS, **options: object) -> Pix2PixHDLearner:
    torch.manual_seed(0)
    return Pix2PixHDLearner(
        GlobalGenerator(8, 2, 1), MultiScaleDiscriminator(2, 8, 2), ContentLoss({"pixels": Pixels()}, {"pixels": 1.0}),
        weights, **options,
    )  # fmt: skip


def make_episode(batch: int = 2) -> Episode:
    frames = make_frames(batch)
    return episode_of(Frames(*(value[:, None] for value in frames)), frames)


def make_frames(number: int) -> Frames:
    return Frames(pictures(number), pictures(number), 32 * torch.rand(number, 68, 2))


def pictures(number: int) -> Tensor:
    """Smooth ones, so that a small network can learn them."""
    return nn.functional.interpolate(torch.rand(number, 3, 4, 4) * 2 - 1, 32, mode="bilinear")


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Networks.


def test_paper_sizes() -> None:
    """By hand from the appendix: c7s1-64, d128 … d1024, nine R1024, u512 … u64, c7s1-3."""
    pairs = [(64, 128), (128, 256), (256, 512), (512, 1024)]
    by_hand = 49 * 3 * 64 + 2 * sum(9 * a * b for a, b in pairs) + 9 * 2 * 9 * 1024**2 + 49 * 64 * 3 + 3
    with torch.device("meta"):
        assert num_parameters(GlobalGenerator()) == by_hand
        scales = 3 * (16 * (6 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 16 * 512 + 1)
        assert num_parameters(MultiScaleDiscriminator()) == scales


def test_generators_keep_the_size_and_the_range() -> None:
    y = pictures(2)
    for generator in (GlobalGenerator(8, 2, 1), LocalEnhancer(4, 2, 1, 1)):
        x_hat = generator(y)
        assert x_hat.shape == y.shape
        assert x_hat.abs().max() <= 1
        x_hat.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.parameters())


def test_enhancer_uses_both_resolutions() -> None:
    enhancer, y = LocalEnhancer(4, 2, 1, 1).eval(), pictures(1)
    x_hat = enhancer(y)
    for part in (enhancer.trunk, enhancer.down):
        weight = part[0].weight
        kept = weight.detach().clone()
        nn.init.normal_(weight)
        assert not torch.allclose(enhancer(y), x_hat)
        weight.data = kept


def test_a_patch_is_70_pixels() -> None:
    discriminator = PatchDiscriminator(4, 3)
    for layer in discriminator.layers:
        layer[1] = nn.Identity()  # a norm sees the whole picture
    h = torch.rand(1, 6, 160, 160, requires_grad=True)
    scores, features = discriminator(h)
    assert len(features) == 4
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    seen = h.grad[0].abs().sum(0) > 0
    assert (int(seen.any(0).sum()), int(seen.any(1).sum())) == (70, 70)


def test_scales_see_halves_and_know_the_landmarks() -> None:
    discriminator, x, y = MultiScaleDiscriminator(3, 4, 2), pictures(2), pictures(2)
    verdict = discriminator(x, y)
    sides = [scores.shape[-1] for scores in verdict.scores]
    assert sides == sorted(sides, reverse=True)
    assert len(set(sides)) == 3
    other = discriminator(x, y.flip(0))
    assert not any(torch.allclose(a, b) for a, b in zip(verdict.scores, other.scores, strict=True))


def test_instance_norm_is_torchs() -> None:
    x = torch.randn(2, 3, 5, 5) * 3 + 1
    torch.testing.assert_close(PlainInstanceNorm()(x), nn.functional.instance_norm(x), atol=1e-5, rtol=1e-5)


def test_weighted_layers_weigh_the_distances() -> None:
    x, x_hat = pictures(1), pictures(1)
    network = LaplacianPyramid(2)
    distances = [(a - b).abs().mean() for a, b in zip(network(x), network(x_hat), strict=True)]
    expected = 0.5 * distances[0] + 2 * distances[1] + 3 * distances[2]
    assert activation_distance(WeightedLayers(network, (0.5, 2, 3)), x, x_hat) == pytest.approx(float(expected))
    with pytest.raises(ValueError, match="2 weights for the 3 layers"):
        WeightedLayers(network, (1, 2))(x)


# Losses.


def test_least_squares_by_hand() -> None:
    scores = [torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[3.0]]]])]
    assert float(least_squares(scores, 1.0)) == 1 + 4
    assert float(least_squares(scores, 0.0)) == 2 + 9


def test_matching_sums_over_layers_and_averages_over_scales() -> None:
    def verdict(*levels: float) -> MultiScaleOutput:
        layers = [torch.full((1, 2, n, n), level) for n, level in enumerate(levels, start=1)]
        return MultiScaleOutput([], [layers[:2], layers[2:]])

    loss = multi_scale_matching(verdict(0, 0, 0, 0), verdict(1, 2, 3, 4))
    assert float(loss) == pytest.approx(((1 + 2) + (3 + 4)) / 2)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 1.0), (4, 1.0), (5, 1.0), (6, 0.8), (9, 0.2)]
)  # fmt: skip
def test_learning_rate_falls_in_the_second_half(epoch: int, expected: float) -> None:
    assert remaining(epoch, 10, 0.5) == pytest.approx(expected)
    assert remaining(epoch, 10, 1.0) == remaining(epoch, -1, 0.5) == remaining(epoch, None, 0.5) == 1


# Pretraining.


def test_a_step_moves_every_parameter_and_logs_every_loss() -> None:
    learner = make_learner()
    before = snapshot(learner)
    trainer = fit(learner, [make_episode()])
    still = [name for name, value in snapshot(learner).items() if torch.equal(before[name], value)]
    assert still == []
    names = {"loss/cnt", "loss/adv", "loss/fm", "loss/dsc", "score/real", "score/fake"}
    assert names <= set(trainer.callback_metrics)
    assert trainer.global_step == 1


def test_a_loss_without_weight_is_not_computed() -> None:
    trainer = fit(make_learner({**WEIGHTS, "cnt": 0, "fm": None}), [make_episode()])
    assert {name for name in trainer.callback_metrics if name.startswith("loss/")} == {"loss/adv", "loss/dsc"}


def test_training_does_not_look_at_the_shots() -> None:
    one, other, episode = make_learner(), make_learner(), make_episode()
    fit(one, [episode])
    fit(other, [episode._replace(shots=-episode.shots, shots_landmarks=-episode.shots_landmarks)])
    for name, value in snapshot(one).items():
        assert torch.equal(value, snapshot(other)[name]), name


def test_learning_rate_reaches_both_players() -> None:
    trainer = fit(make_learner(lr=1e-3), [make_episode()], max_epochs=4)
    assert [group["lr"] for o in trainer.optimizers for group in o.param_groups] == pytest.approx([5e-4] * 2)


def test_works_with_the_callbacks(tmp_path: Path) -> None:
    learner = make_learner(metrics=ImageMetrics(), validation_shots=(1,))
    learner.config = {"name": "test"}
    parts = [
        EMA(0.5, ("generator",)), CollapseGuard(tmp_path), PreviewGrid(tmp_path / "previews", 2, (1,)),
        LastCheckpoint(tmp_path),
    ]  # fmt: skip
    trainer = fit(learner, [make_episode()] * 3, [make_episode()], callbacks=parts, enable_checkpointing=True)
    assert {"val/T=1/ssim", "val/T=1/nearest/ssim"} <= set(trainer.callback_metrics)
    assert (tmp_path / "previews/latest.png").is_file()
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not [key for key in checkpoint["state_dict"] if "content" in key or "metric" in key]
    assert set(checkpoint["ema"]["state_dict"]) == {key for key in checkpoint["state_dict"] if "generator" in key}
    again = make_learner()
    load_weights(again, tmp_path / "last.ckpt")
    name = "generator.to_image.weight"
    assert torch.equal(again.state_dict()[name], checkpoint["ema"]["state_dict"][name])


# A new person.


def test_learning_a_person_fits_the_shots_and_leaves_the_learner_alone() -> None:
    learner, shots = make_learner(finetune_lr=2e-3), make_frames(3)
    learner.generator.requires_grad_(False)
    before = snapshot(learner)
    with torch.no_grad():
        error_before = (learner.generator(shots.landmarks) - shots.images).abs().mean()
    reenactor = learner.learn(shots)
    x_hat = reenactor(shots)
    assert x_hat.dtype == torch.float32
    assert not x_hat.requires_grad
    assert (x_hat - shots.images).abs().mean() < 0.6 * error_before
    assert all(torch.equal(value, before[name]) for name, value in snapshot(learner).items())
    assert all(p.grad is None for p in learner.parameters())
    assert not any(p.requires_grad for p in learner.generator.parameters())
    assert all(p.requires_grad for p in learner.discriminator.parameters())


def test_people_do_not_disturb_each_other() -> None:
    learner, one, other, driving = make_learner(finetune_epochs=4), make_frames(1), make_frames(2), make_frames(11)
    torch.manual_seed(3)
    first = learner.learn(one)
    x_hat = first(driving)
    assert x_hat.shape == (11, 3, 32, 32)
    learner.learn(other)
    assert torch.equal(first(driving), x_hat)
    torch.manual_seed(3)
    assert torch.equal(learner.learn(one)(driving), x_hat)


@pytest.mark.parametrize(("num_shots", "sizes"), [(1, [1]), (4, [4]), (9, [3, 3, 3])])
def test_an_epoch_is_one_pass_over_the_shots(num_shots: int, sizes: list[int]) -> None:
    shots = make_frames(num_shots)
    batches = [(x, y) for _, (x, y, _) in shuffled_batches(shots, epochs=2, batch_size=4)]
    assert [len(x) for x, _ in batches] == 2 * sizes
    for epoch in (batches[: len(sizes)], batches[len(sizes) :]):
        x, y = (torch.cat(parts) for parts in zip(*epoch, strict=True))
        order = [int((shots.images == picture).flatten(1).all(1).nonzero()) for picture in x]
        assert sorted(order) == list(range(num_shots))
        assert torch.equal(y, shots.landmarks[order])


def test_learning_under_autocast_follows_the_weights() -> None:
    """Autocast keeps casts of weights: stale ones would make every step start from the first weights."""
    learner, shots = make_learner(finetune_lr=2e-3), make_frames(1)
    with torch.autocast("cpu", torch.bfloat16):
        x_hat = learner.learn(shots)(shots)
    torch.manual_seed(0)
    expected = learner.learn(shots)(shots)
    assert (x_hat - shots.images).abs().mean() < 1.5 * (expected - shots.images).abs().mean() + 0.02


def test_nobody_cannot_be_learned() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        make_learner().learn(make_frames(0))


@pytest.mark.parametrize(("options", "message"), [
    ({"decay_from": 1.5}, "decay_from=1.5"), ({"finetune_epochs": 0}, "finetune_epochs=0"),
])  # fmt: skip
def test_senseless_numbers_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_learner(**options)


# Configuration.


@pytest.mark.parametrize(("experiment", "size"), [("pix2pixhd_synthetic", 64), ("pix2pixhd_voxceleb", 256)])
def test_experiments(experiment: str, size: int) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [f"experiment={experiment}", "hydra.runtime.output_dir=out", "hydra.runtime.cwd=."]
        config = compose("config", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    assert config.data.size == size
    assert list(config.callbacks.ema.parts) == ["generator"]
    with torch.device("meta"):
        generator, discriminator = instantiate(config.model.generator), instantiate(config.model.discriminator)
        y = torch.zeros(1, 3, size, size)
        assert discriminator(generator(y), y).scores[-1].ndim == 4


def test_synthetic_learner_is_built_from_its_config() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["experiment=pix2pixhd_synthetic", "metrics=default", "metrics.detector=null",
                     "metrics.distances.lpips=null"]  # fmt: skip
        learner = instantiate(compose("config", overrides).learner)
    assert isinstance(learner, Pix2PixHDLearner)
    assert learner.weights == {"cnt": 0.1, "adv": 1, "fm": 10, "mch": 10}
    assert learner.reenact(make_episode(), 1).shape == (2, 3, 32, 32)
