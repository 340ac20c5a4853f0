"""X2Face: samplers that start as the identity, one step on both networks, a person learnt without moving a weight."""

from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn
from torch.utils.data import DataLoader

from talkinghead.callbacks.ema import EMA
from talkinghead.callbacks.guard import CollapseGuard
from talkinghead.learners.checkpoints import load_weights
from talkinghead.learners.x2face import X2FaceLearner
from talkinghead.losses import ContentLoss
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.backbones import Pixels
from talkinghead.models.x2face import DrivingNetwork, EmbeddingNetwork, SamplerNetwork, identity, warp
from talkinghead.types import Episode, Frames
from tests.helpers.learning import episode_of, fit, snapshot

SIZE = 16
CONF = Path(__file__).parents[2] / "conf"


def make_learner(**options: object) -> X2FaceLearner:
    torch.manual_seed(0)
    networks = EmbeddingNetwork(SIZE, (8, 16, 16, 16)), DrivingNetwork(SIZE, (8, 16, 16, 4))
    return X2FaceLearner(*networks, **{"weights": {"l1": 1, "cnt": 0}, **options})


def make_frames(count: int, seed: int = 0) -> Frames:
    generator = torch.Generator().manual_seed(seed)
    images, landmarks = torch.rand(2, count, 3, SIZE, SIZE, generator=generator) * 2 - 1
    return Frames(images, landmarks, torch.rand(count, 68, 2, generator=generator) * SIZE)


def make_episode(shots: int = 3, batch: int = 2) -> Episode:
    source, target = make_frames(batch * shots, 1), make_frames(batch, 2)
    return episode_of(Frames(*(value.unflatten(0, (batch, shots)) for value in source)), target)


def stir(module: nn.Module) -> None:
    """Weights as training might leave them, so that samplers are no longer the identity."""
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)


# Samplers.


def test_the_identity_gives_the_picture_back() -> None:
    x = make_frames(2).images
    assert torch.allclose(warp(x, identity(x).expand(2, -1, -1, -1)), x, atol=1e-5)


def test_a_sampler_of_one_pixel_shifts_by_one_pixel() -> None:
    x = make_frames(1).images
    shift = torch.tensor([2 / (SIZE - 1), 0])  # to the right neighbour: corners are the centres of the outermost pixels
    shifted = warp(x, identity(x) + shift)
    assert torch.allclose(shifted[..., :-1], x[..., 1:], atol=1e-5)
    assert torch.allclose(shifted[..., -1], x[..., -1], atol=1e-5)  # the edge goes on


@pytest.mark.parametrize("skips", [True, False])
def test_a_new_network_samples_the_identity_and_a_used_one_stays_near(skips: bool) -> None:
    network = SamplerNetwork(SIZE, (8, 16, 16, 16), skips)
    x = make_frames(2).images
    assert torch.equal(network(x), identity(x).expand(2, -1, -1, -1))
    stir(network)
    offsets = network(x) - identity(x)
    assert 0.01 < offsets.abs().max() < 1


def test_the_driving_frame_passes_through_its_latent() -> None:
    network = DrivingNetwork(SIZE, (8, 16, 16, 4)).eval()
    stir(network)
    widths = [part.conv.out_channels for part in network.network.down]
    assert widths[-1] == 4
    seen = []
    network.network.down[-1].register_forward_hook(lambda *args: seen.append(args[-1]))
    one, other = make_frames(2).images.split(1)
    sampler, moved = network(one), network(other)
    assert seen[0].shape == (1, 4, 1, 1)
    assert not torch.allclose(sampler, moved)
    network.network.down[-1].register_forward_hook(lambda *_: seen[0])  # the same latent: nothing else comes through
    assert torch.equal(network(other), sampler)


def test_levels_must_fit_the_picture() -> None:
    with pytest.raises(ValueError, match="4 layers bring 16 px to one pixel, not 32 px"):
        EmbeddingNetwork(32, (8, 16, 16, 16))


# Training.


def test_a_step_moves_every_parameter_and_logs_its_loss(tmp_path: Path) -> None:
    learner = make_learner()
    stir(learner)  # at the identity only the last layers have a gradient
    before = snapshot(learner)
    trainer = fit(learner, [make_episode()], callbacks=[EMA(parts=("embedder", "driver")), CollapseGuard(tmp_path)])
    assert [n for n, _ in learner.named_parameters() if torch.equal(before[n], snapshot(learner)[n])] == []
    assert {name for name in trainer.callback_metrics if name.startswith("loss/")} == {"loss/l1"}
    assert learner.last_output is not None


def test_it_learns_to_move_a_picture_as_the_driving_frame_says() -> None:
    x = torch.nn.functional.interpolate(torch.randn(4, 3, 5, 5).tanh(), SIZE + 4, mode="bicubic").clamp(-1, 1)
    source, target = x[..., 2:-2, 4:], x[..., 2:-2, 2:-2]  # two pixels further to the right
    episode = make_episode(1, 4)._replace(shots=source[:, None], target=target)
    learner = make_learner(lr=3e-3)
    fit(learner, [episode] * 60)
    with torch.no_grad():
        moved = (learner.eval().reenact(episode, 1) - target).abs().mean()
    assert moved < 0.5 * (source - target).abs().mean()


def test_a_content_loss_is_added_where_it_has_a_weight() -> None:
    content = ContentLoss({"pixels": Pixels()}, {"pixels": 1.0})
    trainer = fit(make_learner(weights={"l1": 1, "cnt": 2}, content=content), [make_episode()])
    assert trainer.callback_metrics["loss/cnt"] > 0
    with pytest.raises(ValueError, match=r"weights\.cnt is given and content is not"):
        make_learner(weights={"l1": 1, "cnt": 2})


def test_validation_is_logged_per_shot_count() -> None:
    learner = make_learner(metrics=ImageMetrics(), validation_shots=(1, 3))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (logged,) = trainer.validate(learner, DataLoader([make_episode()], batch_size=None), verbose=False)
    assert {"val/T=1/ssim", "val/T=3/ssim", "val/T=3/nearest/ssim"} <= set(logged)


# A person.


def test_a_person_is_the_mean_of_the_embedded_faces_and_no_weight_moves() -> None:
    learner = make_learner()
    stir(learner)
    learner.eval()
    shots, driving = make_frames(20, 1), make_frames(18, 2)  # more than go at once
    before = snapshot(learner)
    learner.train()
    x_hat = learner.learn(shots)(driving)
    assert learner.training
    assert learner.embedder.network.down[1].norm.training
    assert all(torch.equal(value, snapshot(learner)[name]) for name, value in before.items())
    learner.eval()
    with torch.no_grad():
        face = learner.embedder(shots.images).mean(0, keepdim=True)
        expected = warp(face.expand(18, -1, -1, -1), learner.driver(driving.images))
    assert x_hat.shape == (18, 3, SIZE, SIZE)
    assert not x_hat.requires_grad
    assert torch.allclose(x_hat, expected, atol=1e-5)
    assert x_hat.abs().max() <= 1


def test_landmarks_are_not_looked_at() -> None:
    learner = make_learner()
    stir(learner)
    shots, driving = make_frames(2, 1), make_frames(2, 2)
    blank = driving._replace(landmarks=torch.zeros_like(driving.landmarks), points=torch.zeros_like(driving.points))
    assert torch.equal(learner.learn(shots)(driving), learner.learn(shots)(blank))


def test_learn_agrees_with_reenact() -> None:
    learner = make_learner()
    stir(learner)
    learner.eval()
    episode = make_episode(3, 1)
    shots = Frames(episode.shots[0], episode.shots_landmarks[0], episode.shots_points[0])
    driving = Frames(episode.target, episode.target_landmarks, episode.target_points)
    with torch.no_grad():
        assert torch.allclose(learner.learn(shots)(driving), learner.reenact(episode, 3), atol=1e-5)


def test_weights_of_a_checkpoint_give_the_same_person(tmp_path: Path) -> None:
    learner = make_learner()
    trainer = fit(learner, [make_episode()] * 2, callbacks=[EMA(0.5, ("embedder", "driver"))])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    one, other = make_learner(), make_learner()
    load_weights(one, tmp_path / "a.ckpt")
    load_weights(other, tmp_path / "a.ckpt")
    shots, driving = make_frames(2, 1), make_frames(2, 2)
    assert torch.equal(one.learn(shots)(driving), other.learn(shots)(driving))
    assert not torch.equal(one.learn(shots)(driving), make_learner().learn(shots)(driving))


@pytest.mark.parametrize("size", [64, 256])
def test_presets_build_networks_of_their_size(size: int) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["learner=x2face", f"model=x2face_{size}"])
    embedder, driver = instantiate(config.model.embedder).eval(), instantiate(config.model.driver).eval()
    x = torch.rand(1, 3, size, size) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(warp(embedder(x), driver(x)), x, atol=1e-3)
    assert driver.network.down[-1].conv.out_channels == 128
