"""The meta-learning step: who moves, who does not, and what W costs; checkpoints and ranks."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import DataLoader

from talkinghead.learners.checkpoints import load_weights
from talkinghead.learners.meta import MetaLearner
from talkinghead.learners.minimize import clip_gradients, fused_adam
from talkinghead.learners.sparse_rows import average_rows
from talkinghead.losses import ContentLoss
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.backbones import Pixels
from talkinghead.models.fsth import Discriminator, Embedder, Generator
from talkinghead.types import Episode, Frames
from tests.helpers.learning import episode_of, fit, snapshot
from tests.helpers.ranks import on_two_ranks

WEIGHTS = {"cnt": 1.0, "adv": 1.0, "fm": 10.0, "mch": 10.0}


def make_learner(weights: dict[str, float] = WEIGHTS, num_videos: int = 6, **options: object) -> MetaLearner:
    torch.manual_seed(0)
    return MetaLearner(
        Embedder(32, (8, 16), None),
        Generator(32, 16, (8, 16), 1, (16, 8), None, None),
        Discriminator(num_videos, 32, (8, 16), None),
        ContentLoss({"pixels": Pixels()}, {"pixels": 1.0}),
        weights,
        **options,
    )


def make_episode(index: tuple[int, ...] = (1, 4), shots: int = 3) -> Episode:
    return episode_of(make_frames(len(index), shots), make_frames(len(index)), torch.tensor(index))


def make_frames(*count: int) -> Frames:
    images, landmarks = torch.rand(2, *count, 3, 32, 32) * 2 - 1
    return Frames(images, landmarks, 32 * torch.rand(*count, 68, 2))


def test_a_step_moves_every_parameter_but_unused_rows() -> None:
    learner = make_learner()
    before = snapshot(learner)
    fit(learner, [make_episode((1, 4))])
    after = snapshot(learner)
    still = [n for n, _ in learner.named_parameters() if torch.equal(before[n], after[n])]
    assert still == []
    moved = (before["discriminator.W.weight"] != after["discriminator.W.weight"]).any(1)
    assert moved.tolist() == [False, True, False, False, True, False]


def test_all_losses_are_logged_under_their_names() -> None:
    trainer = fit(make_learner(), [make_episode()])
    expected = {"loss/cnt", "loss/adv", "loss/fm", "loss/mch", "loss/dsc", "score/real", "score/fake"}
    assert expected <= set(trainer.callback_metrics)


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_gradients_are_clipped_for_each_player_and_their_norms_logged(limit: float) -> None:
    class Norms(L.Callback):
        """Of the gradients that the optimizers step on."""

        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.seen: list[list[float]] = [[] for _ in trainer.optimizers]
            for optimizer, seen in zip(trainer.optimizers, self.seen, strict=True):
                optimizer.register_step_post_hook(partial(self.note, seen))

        def note(self, seen: list[float], optimizer: torch.optim.Optimizer, *_: object) -> None:
            found = [
                p.grad.to_dense() for group in optimizer.param_groups for p in group["params"] if p.grad is not None
            ]
            seen.append(float(torch.cat([grad.flatten() for grad in found]).norm()))

    norms = Norms()
    trainer = fit(make_learner(gradient_clip_norm=limit), [make_episode((1, 1))], callbacks=[norms])
    logged = [float(trainer.callback_metrics[f"gradient_norm/{name}"]) for name in MetaLearner.players]
    for before, after in zip(logged, norms.seen, strict=True):
        assert max(after) <= limit * (1 + 1e-5)
        assert after[-1] == pytest.approx(min(before, limit), rel=1e-4)
    assert "gradient_norm/rows" not in fit(make_learner(), [make_episode()]).callback_metrics
    assert (max(logged) > limit) == (limit < 1)


def test_clipping_is_torchs_own_and_knows_sparse_rows() -> None:
    torch.manual_seed(0)
    table, dense = nn.Embedding(5, 3, sparse=True), nn.Embedding(5, 3)
    dense.load_state_dict(table.state_dict())
    index = torch.tensor([1, 1, 4])
    for layer in (table, dense):
        layer(index).square().sum().backward()
    expected = nn.utils.clip_grad_norm_(dense.parameters(), 0.1)
    assert float(clip_gradients(torch.optim.SparseAdam(table.parameters()), 0.1)) == pytest.approx(float(expected))
    assert torch.allclose(table.weight.grad.to_dense(), dense.weight.grad, atol=1e-7)


def test_a_norm_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"learner\.gradient_clip_norm=0: more than 0"):
        make_learner(gradient_clip_norm=0)


def test_global_step_counts_batches() -> None:
    assert fit(make_learner(), [make_episode()] * 3).global_step == 3


@pytest.mark.parametrize("weight", [None, 0])
def test_feed_forward_variant_has_no_match(weight: float | None) -> None:
    trainer = fit(make_learner({**WEIGHTS, "mch": weight}), [make_episode()])
    assert "loss/mch" not in trainer.callback_metrics


def test_matching_moves_w_only_if_asked() -> None:
    def rows(moves: bool) -> Tensor:
        learner = make_learner({"mch": 1.0}, matching_moves_w=moves, num_discriminator_steps=1)
        learner.discriminator.V.requires_grad_(False)
        fit(learner, [make_episode((0,))])
        return learner.discriminator.W.weight[0].detach()

    assert not torch.equal(rows(True), rows(False))


def test_whether_e_hat_and_w_meet_is_logged() -> None:
    learner = make_learner()
    logged = fit(learner, [make_episode((1, 4))]).callback_metrics
    assert {f"embedding/{name}" for name in ("e_hat", "w", "cosine", "dead")} <= set(logged)
    e_hat, i = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]), torch.tensor([0, 1])
    learner.discriminator.W = nn.Embedding.from_pretrained(torch.tensor([[3.0, 4, 0, 0], [0, 2, 0, 0]]))
    values = {name: float(value) for name, value in learner.embeddings(e_hat, i).items()}
    assert values == {"embedding/e_hat": 3.0, "embedding/w": 3.5, "embedding/cosine": 0.5, "embedding/dead": 0.25}


def test_w_starts_at_the_embedding_of_its_videos_first_visit(tmp_path: Path) -> None:
    """And not at a later one, also in a run that goes on."""
    frozen = {"first_visit": True, "lr_w": 1e-12, "lr_generator": 1e-12, "lr_discriminator": 1e-12}
    learner, episodes = make_learner(**frozen), [make_episode((1, 4)), make_episode((1, 2))]
    noise = learner.discriminator.W.weight.detach().clone()
    fit(learner, episodes[:1]).save_checkpoint(tmp_path / "half.ckpt")
    first = learner.discriminator.W.weight.detach().clone()
    assert ((first - noise).abs() > 1e-6).any(1).tolist() == [False, True, False, False, True, False]
    again = make_learner(**frozen)
    trainer = L.Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False)
    trainer.fit(again, DataLoader(episodes[1:], batch_size=None), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    second = again.discriminator.W.weight.detach()
    assert ((second - first).abs() > 1e-6).any(1).tolist() == [False, False, True, False, False, False]


def test_the_authors_order_of_steps() -> None:
    players = Players()
    fit(make_learner(generator_first=True, num_discriminator_steps=1), [make_episode()], callbacks=[players])
    assert players.seen == [{"embedder", "generator"}, {"discriminator"}, {"discriminator"}]


def test_only_real_frames_move_w_if_asked() -> None:
    learner = make_learner()
    x, x_hat, y = torch.rand(3, 1, 3, 32, 32)
    with torch.no_grad():
        v, _ = learner.discriminator.V.eval()(x, y)
    learner.discriminator.compare(x, x_hat, y, torch.tensor([2]), fake_moves_w=False)[1].sum().backward()
    assert learner.discriminator.W.weight.grad is None or not learner.discriminator.W.weight.grad.to_dense().any()
    learner.discriminator.compare(x, x_hat, y, torch.tensor([2]), fake_moves_w=False)[0].sum().backward()
    assert torch.allclose(learner.discriminator.W.weight.grad.to_dense()[2], v[0], rtol=0.01)


def test_the_first_shot_is_matched_if_asked() -> None:
    first, mean = (
        fit(make_learner(matched_shot=shot), [make_episode()]).callback_metrics for shot in ("first", "mean")
    )
    assert first["loss/mch"] != mean["loss/mch"]


def test_w_under_spectral_norm() -> None:
    """Rows are those of W / its largest singular value, w0 has norm 1; the gradient stays sparse."""
    torch.manual_seed(0)
    discriminator = Discriminator(6, 32, (8, 16), None, normalize_w=True)
    rows = discriminator.rows(torch.arange(6))
    assert torch.allclose(torch.linalg.matrix_norm(rows, 2), torch.ones(()), atol=0.02)
    assert torch.allclose(discriminator.common().norm(), torch.ones(()))
    rows[1].sum().backward()
    assert discriminator.W.weight.grad.is_sparse


def test_norms_and_cosines_are_of_the_rows_that_the_score_sees() -> None:
    torch.manual_seed(0)
    learner = make_learner()
    learner.discriminator = Discriminator(6, 32, (8, 16), None, normalize_w=True).eval()
    e_hat, i = torch.rand(2, 16), torch.tensor([1, 4])
    told, rows = learner.embeddings(e_hat, i), learner.discriminator.rows(i)
    assert told["embedding/w"] == pytest.approx(float(rows.norm(dim=1).mean()), rel=1e-5)
    with pytest.raises(ValueError, match="first_visit"):
        MetaLearner(learner.embedder, learner.generator, learner.discriminator, learner.content, {}, first_visit=True)


def test_w_has_a_rate_of_its_own() -> None:
    opt_g, opt_d, opt_w = make_learner(lr_w=0.5, eps=1e-5).configure_optimizers()
    assert [group["lr"] for opt in (opt_g, opt_d, opt_w) for group in opt.param_groups] == [5e-5, 2e-4, 0.5]
    assert {group["eps"] for opt in (opt_g, opt_d, opt_w) for group in opt.param_groups} == {1e-5}


@pytest.mark.parametrize("gain", ["one", "layer"])
def test_a_gain_after_p(gain: str) -> None:
    """G with it starts as G without; old checkpoints have none."""
    torch.manual_seed(0)
    plain = Generator(32, 16, (8, 16), 1, (16, 8), None, None)
    gained = Generator(32, 16, (8, 16), 1, (16, 8), None, None, gain=gain, gain_start=2)
    missing, unknown = gained.load_state_dict(plain.state_dict(), strict=False)
    assert (missing, unknown) == (["gain"], [])
    assert len(gained.gain) == (1 if gain == "one" else len(gained.psi_sizes))
    e_hat = torch.rand(2, 16)
    assert torch.allclose(gained.eval().project(e_hat), 2 * plain.eval().project(e_hat))
    gained.project(e_hat).sum().backward()
    assert gained.gain.grad.abs().min() > 0


class Players(L.Callback):
    """Which parameters had a gradient when each optimizer stepped."""

    def on_fit_start(self, trainer: L.Trainer, learner: MetaLearner) -> None:
        self.seen: list[set[str]] = []
        for optimizer in trainer.optimizers:
            optimizer.register_step_pre_hook(lambda *_: self.note(learner))

    def note(self, learner: MetaLearner) -> None:
        self.seen.append({name.split(".")[0] for name, p in learner.named_parameters() if p.grad is not None})


def test_players_never_take_each_others_gradient() -> None:
    players = Players()
    fit(make_learner(), [make_episode()], callbacks=[players])
    assert players.seen[:2] == [{"discriminator"}, {"discriminator"}]  # theta, then the rows, twice
    assert players.seen[-1] == {"embedder", "generator"}


def test_all_parameters_require_gradients_after_an_error() -> None:
    learner = make_learner()
    optimizer = torch.optim.Adam(learner.generator.parameters())

    def fail() -> None:
        with learner.minimize(optimizer):
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        fail()
    assert all(p.requires_grad for p in learner.parameters())


def test_validation_is_logged_per_shot_count_beside_the_baseline() -> None:
    learner = make_learner(metrics=ImageMetrics(), validation_shots=(1, 3))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (logged,) = trainer.validate(learner, DataLoader([make_episode()], batch_size=None), verbose=False)
    names = {
        f"val/T={t}{method}/{metric}" for t in (1, 3) for method in ("", "/nearest") for metric in ("ssim", "psnr")
    }
    assert names == set(logged)
    assert logged["val/T=1/ssim"] != logged["val/T=3/ssim"]


def test_asking_for_more_shots_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="asked for 8 shots of episodes that hold 3"):
        make_episode().take(8)


def test_checkpoint_is_plain_and_goes_on_bit_equal(tmp_path: Path) -> None:
    episodes = [make_episode((n % 6, (n + 1) % 6)) for n in range(4)]
    whole = make_learner()
    fit(whole, episodes)

    first = make_learner()
    first.config = {"name": "test", "shots": [1, 8]}
    fit(first, episodes[:2]).save_checkpoint(tmp_path / "half.ckpt")
    checkpoint = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert checkpoint["config"] == {"name": "test", "shots": [1, 8]}
    assert not [key for key in checkpoint["state_dict"] if "content" in key or "metric" in key]

    second = make_learner()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.fit(second, DataLoader(episodes[2:], batch_size=None), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for name, value in snapshot(whole).items():
        assert torch.equal(value, snapshot(second)[name]), name


def test_load_weights_keeps_w_of_another_data_set_and_rejects_other_models(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": make_learner(num_videos=6).state_dict()}, path)
    other = make_learner(num_videos=9)
    load_weights(other, path)
    assert len(other.discriminator.W.weight) == 9
    larger = make_learner()
    larger.embedder = Embedder(32, (8, 8, 16), None)
    with pytest.raises(ValueError, match="of another model"):
        load_weights(larger, path)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load_weights(other, tmp_path / "nowhere.ckpt")


def test_rows_of_other_weights_are_not_filled_at_the_first_visit(tmp_path: Path) -> None:
    trained = {"state_dict": make_learner(num_videos=3).state_dict(), "videos": ["a", "b", "c"]}
    torch.save(trained, tmp_path / "a.ckpt")
    torch.save({**trained, "visited": torch.tensor([True, False, True])}, tmp_path / "b.ckpt")
    for name, mine, visited in (
        ("a.ckpt", ["a", "b", "c"], [True] * 3),
        ("a.ckpt", ["new", "c", "b", "a"], [False, True, True, True]),
        ("b.ckpt", ["new", "c", "b", "a"], [False, True, False, True]),
        ("a.ckpt", None, [False] * 4),
    ):
        learner = make_learner(num_videos=len(visited), first_visit=True)
        learner.videos = mine
        load_weights(learner, tmp_path / name)
        assert learner.visited is not None
        assert learner.visited.tolist() == visited


def step_on_rows(rank: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    table = nn.Embedding(10, 4, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(average_rows)
    rows = [torch.tensor([3]), torch.tensor([3, 7])][rank]  # ranks may use different numbers of rows
    table(rows).sum().backward()
    optimizer.step()
    return table.weight.grad.coalesce().to_dense(), table.weight.detach()


def test_rows_of_all_ranks_are_averaged(tmp_path: Path) -> None:
    (gradient0, weight0), (gradient1, weight1) = on_two_ranks(step_on_rows, tmp_path)
    assert torch.equal(gradient0, gradient1)
    assert torch.equal(weight0, weight1)
    assert gradient0[:, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0.5, 0, 0]


def w_at_the_start(rank: int) -> Tensor:
    learner = make_learner()
    learner.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    with torch.no_grad():
        learner.discriminator.W.weight += rank
    learner.on_fit_start()
    return learner.discriminator.W.weight.detach()


def test_all_ranks_start_with_the_same_w(tmp_path: Path) -> None:
    """DDP, which sees to the other weights, does not know of it."""
    one, other = on_two_ranks(w_at_the_start, tmp_path)
    assert torch.equal(one, other)


def test_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[nn.Module, str]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda network, backend: found.append((network, backend)))
    learner = make_learner(compile_with="inductor")
    fit(learner, [make_episode()])
    networks = (learner.embedder, learner.generator, learner.discriminator.V, learner.content)
    assert found == [(network, "inductor") for network in networks]
    with pytest.raises(ValueError, match=r"compile_with=induktor: .*inductor"):
        make_learner(compile_with="induktor")


@pytest.mark.slow
def test_compiled_networks_train_as_plain_ones() -> None:
    plain, compiled = make_learner(), make_learner(compile_with="eager")
    for learner in (plain, compiled):
        torch.manual_seed(1)
        fit(learner, [make_episode(), make_episode((0, 2), shots=1)])
    before, after = snapshot(plain), snapshot(compiled)
    assert before.keys() == after.keys(), "a checkpoint of the one is one of the other"
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All numbers are fp64, in which what is rounded differently can be told from what is wrong."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "options", [{}, {"generator_first": True}, {"num_discriminator_steps": 1, "first_visit": True}]
)
@pytest.mark.parametrize("accumulate", [2, 3])
def test_parts_of_a_batch_move_the_weights_as_the_whole_does(accumulate: int, options: dict) -> None:
    weights = dict.fromkeys(("cnt", "adv", "fm", "mch"), 1.0)
    # With an eps this large, Adam's steps are nearly proportional to the gradients, of which it else forgets the size.
    options |= {"eps": 1.0, "lr_generator": 0.05, "lr_discriminator": 0.05}
    start, *learners = [make_learner(weights, accumulate=n, **options) for n in (1, 1, accumulate)]
    episodes = [make_episode((1, 4, 2)), make_episode((0, 4, 3))]
    trainers = [fit(learner, episodes) for learner in learners]
    before, whole, parts = map(snapshot, (start, *learners))
    assert whole.keys() == parts.keys()
    assert max(float((before[name] - whole[name]).abs().max()) for name in whole) > 0.01
    for name in whole:
        assert torch.allclose(whole[name], parts[name], atol=1e-10), name
    for name, value in trainers[0].logged_metrics.items():
        assert float(trainers[1].logged_metrics[name]) == pytest.approx(float(value), rel=1e-6), name
    outputs = [learner.last_output for learner in learners]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-10)


def test_more_parts_than_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match="2 episodes cannot be split into 3 parts"):
        fit(make_learner(accumulate=3), [make_episode()])
    with pytest.raises(ValueError, match=r"accumulate=0: at least 1"):
        make_learner(accumulate=0)


@pytest.mark.parametrize("options", [{}, {"generator_first": True}, {"accumulate": 2}])
def test_a_checkpointed_embedder_moves_the_weights_as_before_and_keeps_less(options: dict) -> None:
    plain, checkpointed = learners = [make_learner(checkpoint_embedder=on, **options) for on in (False, True)]
    for learner in learners:
        torch.manual_seed(1)
        fit(learner, [make_episode(), make_episode((0, 2))])
    before, after = snapshot(plain), snapshot(checkpointed)
    assert all(torch.equal(before[name], after[name]) for name in before), "buffers of spectral norm, too"
    x, kept = torch.rand(4, 3, 32, 32), []
    for learner in learners:
        sizes: list[int] = []
        with saved_tensors_hooks(
            lambda saved, sizes=sizes: (sizes.append(saved.numel()), saved)[1], lambda saved: saved
        ):
            learner.embedder(x, x)
        kept.append(sum(sizes))
    assert kept[1] < 0.3 * kept[0]


@pytest.mark.parametrize("other", ["gradient", "state", None])
def test_fused_adam_takes_the_steps_of_adam_whatever_the_memory_format(other: str | None) -> None:
    start, gradients = torch.randn(4, 6, 3, 3), torch.randn(3, 4, 6, 3, 3)
    weights = [nn.Parameter(start.clone(memory_format=torch.channels_last)) for _ in range(2)]
    plain, fused = torch.optim.Adam(weights[:1], 0.01, (0.5, 0.9)), fused_adam(weights[1:], 0.01, (0.5, 0.9))
    for gradient in gradients:
        for weight, optimizer in zip(weights, (plain, fused), strict=True):
            weight.grad = gradient.clone(
                memory_format=torch.contiguous_format if other == "gradient" else torch.channels_last
            )
            optimizer.step()
        if other == "state":  # of a checkpoint from a machine on which another format is faster
            state = fused.state[weights[1]]
            state["exp_avg"] = state["exp_avg"].contiguous()
    assert torch.allclose(*weights, atol=1e-6)
