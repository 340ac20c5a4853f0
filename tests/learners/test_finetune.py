"""Few-shot learning of a person: G' and D' start as G and D, learn the shots, and lie on disk by themselves."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import nn

from talkinghead.evaluation.finetune_previews import FinetunePreviews
from talkinghead.evaluation.results import ResultKey
from talkinghead.learners.finetune import FeedForward, FineTuner, FineTuningFailed, PersonReenactor, Progress, embed
from talkinghead.learners.shots import shuffled_batches
from talkinghead.models.fsth import Discriminator, Embedder, Generator
from talkinghead.models.person_file import load_person, save_person
from talkinghead.types import Frames, Person

SIZE = 32


@pytest.fixture
def networks() -> tuple[Embedder, Generator, Discriminator]:
    torch.manual_seed(0)
    embedder, generator = Embedder(SIZE, (8, 16), 8), Generator(SIZE, 16, (8, 16), 1, (16, 8), 8, 16)
    discriminator = Discriminator(3, SIZE, (8, 16), None)
    return embedder, generator, discriminator


def shots(number: int) -> Frames:
    random = torch.Generator().manual_seed(number)
    images, landmarks = torch.rand(2, number, 3, SIZE, SIZE, generator=random) * 2 - 1
    return Frames(images, landmarks, torch.rand(number, 68, 2, generator=random) * SIZE)


class PixelLoss(nn.Module):
    """Stands in for L_CNT: nothing is downloaded."""

    def forward(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        return (x - x_hat).abs().mean()


WEIGHTS = {"cnt": 10.0, "adv": 1.0, "fm": 1.0, "mch": 10.0}


def tuner(networks: tuple[Embedder, Generator, Discriminator], weights: dict = WEIGHTS, **options: Any) -> FineTuner:
    return FineTuner(*networks, PixelLoss(), weights, **{"lr_generator": 2e-3, "epochs": 3, **options})


def test_personal_networks_start_as_the_shared_ones(networks) -> None:
    """At step 0, in fp32: G' is the feed-forward output and D' is D with W_i := e_hat, to the last bit."""
    embedder, generator, discriminator = (network.eval() for network in networks)
    e_hat, (x, y, _) = embed(embedder, shots(4)), shots(5)
    person, judge = generator.personalize(e_hat), discriminator.personalize(e_hat, "embedding")
    assert all(torch.equal(person(one), generator(one, e_hat)) for one in y.split(1))
    assert (person(y) - generator(y, torch.zeros(5, 16))).abs().max() > 0.01, "psi' has a say"
    discriminator.W.weight.data[1] = e_hat[0]
    mine, theirs = judge(x, y), discriminator(x, y, torch.ones(len(y), dtype=torch.long))
    assert torch.equal(mine.score, theirs.score)
    assert all(torch.equal(a, b) for a, b in zip(mine.features, theirs.features, strict=True))
    assert not person.training
    assert generator.train().personalize(e_hat).training


def test_all_that_should_move_moves_and_nothing_else(networks) -> None:
    method = tuner(networks)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    generator, discriminator = method.personalize(shots(4))
    start = {name: value.detach().clone() for name, value in [*named(generator), *named(discriminator)]}
    assert not any(name.startswith("projection") for name in start)
    method.fine_tune(generator, discriminator, shots(4))
    after = dict([*named(generator), *named(discriminator)])
    assert {"psi", "w", "b"} <= set(after)
    still = {name for name in start if torch.equal(start[name], after[name])}
    assert not {name for name in still if "attention" not in name}, "psi, psi', theta, w' and b are all learned"
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def named(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return list(module.named_parameters())


def test_it_learns_the_shots(networks) -> None:
    source = shots(2)
    source = source._replace(images=0.5 * source.landmarks)
    first = FeedForward(*networks[:2]).learn(source)(source)
    weights = {"cnt": 1.0, "adv": None, "fm": 0}  # null and 0 switch a loss off
    last = tuner(networks, weights, epochs=60).learn(source)(source)
    assert (last - source.images).abs().mean() < 0.6 * (first - source.images).abs().mean()


@pytest.mark.parametrize(
    ("number", "options", "sizes"),
    [
        (1, {}, [1, 1, 1]),
        (8, {}, [8, 8, 8]),
        (10, {}, [5, 5] * 3),
        (32, {"epochs": 1}, [8] * 4),
        (32, {"max_steps": 2}, [8, 8]),
        (3, {"batch_size": 1, "epochs": 1}, [1, 1, 1]),
    ],
)
def test_epochs_are_passes_over_the_shots(networks, number: int, options: dict, sizes: list[int]) -> None:
    method = tuner(networks, **options)
    batches = list(shuffled_batches(shots(number), method.epochs, method.batch_size, method.max_steps))
    assert [len(batch.images) for _, batch in batches] == sizes
    assert {num_steps for num_steps, _ in batches} == {len(sizes)}
    if number == 10:
        seen = torch.cat([batch.images for _, batch in batches[:2]]).flatten(1)
        assert torch.equal(seen.sum(1).sort().values, shots(10).images.flatten(1).sum(1).sort().values)


def test_frozen_parts_stay_and_a_wrong_name_is_an_error(networks) -> None:
    method = tuner(networks, frozen=["down", "psi"])
    generator, discriminator = method.personalize(shots(2))
    start = {name: value.detach().clone() for name, value in named(generator)}
    method.fine_tune(generator, discriminator, shots(2))
    moved = {name.split(".")[0] for name, value in named(generator) if not torch.equal(value, start[name])}
    assert {"middle", "up", "to_image"} <= moved
    assert not {"down", "psi"} & moved
    with pytest.raises(ValueError, match=r"no \['decoder'\]; it has"):
        tuner(networks, frozen=["decoder"]).learn(shots(1))


def test_a_rate_of_0_is_one(networks) -> None:
    """Not the usual one: what learns at 0 stays."""
    method = tuner(networks, lr_generator=0.0, lr_psi=0.1, lr_w=0.0)
    assert (method.lr_generator, method.lr_psi, method.lr_w) == (0, 0.1, 0)
    assert tuner(networks, lr_generator=0.0).lr_psi == 0
    generator, discriminator = method.personalize(shots(2))
    start = {name: value.detach().clone() for name, value in named(generator)}
    method.fine_tune(generator, discriminator, shots(2))
    assert {name for name, value in named(generator) if not torch.equal(value, start[name])} == {"psi"}


def test_the_average_is_behind_the_weights(networks) -> None:
    method = tuner(networks, ema_decay=0.9, epochs=5)
    generator, discriminator = method.personalize(shots(2))
    start = generator.psi.detach().clone()
    average = method.fine_tune(generator, discriminator, shots(2))
    assert 0 < (average.psi - start).norm() < (generator.psi - start).norm()


def test_random_starts_of_the_ablations(networks) -> None:
    plain, random = tuner(networks), tuner(networks, init_psi="random", init_w="random")
    (g, d), (g_random, d_random) = plain.personalize(shots(2)), random.personalize(shots(2))
    assert not torch.allclose(g.psi, g_random.psi)
    assert not torch.allclose(d.w, d_random.w)


@pytest.mark.parametrize("start", ["scaled", "random", "w0", "embedding"])
@pytest.mark.parametrize("normalize_w", [False, True])
def test_the_persons_part_of_w_has_the_norm_of_a_row(networks, start: str, normalize_w: bool) -> None:
    """Whatever the norm of e_hat: theta was trained with rows of W, and L_MCH does not bring e_hat there."""
    embedder, _, _ = networks
    discriminator = Discriminator(3, SIZE, (8, 16), None, normalize_w=normalize_w).eval()
    e_hat = 100 * embed(embedder.eval(), shots(2))
    own = discriminator.personalize(e_hat, start).w - discriminator.common()
    mean = discriminator.rows(torch.arange(3)).norm(dim=1).mean()
    expected = {"w0": torch.zeros(()), "embedding": e_hat.norm()}.get(start, mean)
    assert torch.allclose(own.norm(), expected, rtol=1e-4)
    if start == "scaled":
        assert torch.allclose(nn.functional.cosine_similarity(own, e_hat[0], dim=0), torch.ones(()))


def test_where_w_was_left_out_of_the_file_the_norm_is_that_of_w0(networks) -> None:
    embedder, _, discriminator = networks
    discriminator.W.weight.data.zero_()
    own = discriminator.personalize(embed(embedder, shots(2))).w - discriminator.w0
    assert torch.allclose(own.norm(), discriminator.w0.norm())


def test_scores_before_the_first_step_are_told(networks, caplog: pytest.LogCaptureFixture) -> None:
    """Those of D' as it starts; a warning where they are far outside the hinge loss's range."""
    caplog.set_level("INFO")
    seen: list[Progress] = []
    method = tuner(networks)
    _, discriminator = method.personalize(shots(2))
    x, y, _ = shots(2)
    expected = float(discriminator.train()(x, y).score.mean())
    method.learn(shots(2), seen.append)
    assert abs(seen[0].scores["real"] - expected) < 0.02
    assert set(seen[0].scores) == {"real", "fake"}
    assert [record.levelname for record in caplog.records] == ["INFO"]
    method.discriminator.b.data.fill_(7.0)
    method.learn(shots(2))
    assert caplog.records[-1].levelname == "WARNING"
    assert "far outside -1..1" in caplog.text


def test_nan_fine_tuning_is_an_error(networks) -> None:
    with pytest.raises(FineTuningFailed, match=r"step 1: .*cnt is nan.*smaller learning rates"):
        tuner(networks).learn(shots(1)._replace(images=torch.full((1, 3, SIZE, SIZE), torch.nan)))
    astray = tuner(networks)
    astray.lr_generator = float("inf")  # as given it would have been refused
    with pytest.raises(FineTuningFailed, match="failed in step"):
        astray.learn(shots(1), lambda progress: None)


def test_the_averages_spectral_norm_is_settled(networks) -> None:
    """u and v of the average are those of its own weights, not of the live ones."""
    method = tuner(networks, ema_decay=0.9, epochs=5, lr_generator=0.3)
    average = method.fine_tune(*method.personalize(shots(2)), shots(2)).eval()
    norms = [
        torch.linalg.matrix_norm(layer.weight.flatten(1), 2) for layer in average.modules() if is_normalized(layer)
    ]
    assert torch.allclose(torch.stack(norms), torch.ones(len(norms)), atol=0.03)


def is_normalized(layer: nn.Module) -> bool:
    return nn.utils.parametrize.is_parametrized(layer, "weight")


def test_watch_sees_every_step(networks) -> None:
    seen: list[Progress] = []
    tuner(networks, epochs=2).learn(shots(3), watch=seen.append)
    assert [(p.step, p.num_steps) for p in seen] == [(1, 2), (2, 2)]
    seen.clear()
    tuner(networks, epochs=9, batch_size=2, max_steps=3).learn(shots(3), watch=seen.append)
    assert [(p.step, p.num_steps) for p in seen] == [(1, 3), (2, 3), (3, 3)]
    assert set(seen[0].losses) == {"dsc", "cnt", "adv", "fm"}


def test_previews_show_the_way_and_change_nothing(networks, tmp_path: Path) -> None:
    person = Person("mona", shots(3), shots(5), shots(5))
    watch = FinetunePreviews(tmp_path, every=2, num_frames=4).watch(
        ResultKey("set/test", "ours", "FT", 3, "mona"), person
    )
    outputs = []
    for spectator in (None, watch):
        torch.manual_seed(1)
        outputs.append(tuner(networks, epochs=5).learn(person.shots, spectator)(person.driving))
    assert torch.equal(*outputs)
    picture = cv2.imread(str(tmp_path / "set/test/T3/mona.png"))
    assert picture.shape == (4 * SIZE, 4 * SIZE, 3)  # the targets, and the outputs after steps 2, 4 and 5
    assert len({row.tobytes() for row in picture.reshape(4, -1)}) == 4


def test_result_depends_on_the_seed_only(networks) -> None:
    outputs = []
    for noise in (0, 1):
        networks[0].train(bool(noise))  # whatever state the networks are in
        torch.manual_seed(3)
        outputs.append(tuner(networks, batch_size=2).learn(shots(5))(shots(5)))
    assert torch.equal(*outputs)


def test_casts_of_autocast_are_not_older_than_the_weights(networks) -> None:
    """All steps of a person lie in one autocast region: its cache of casts must not outlive a step."""
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = tuner(networks).learn(shots(2))(shots(2))
    method = tuner(networks)
    step = method.step

    def one_region_per_step(*args: Any) -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return step(*args)

    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        generator, discriminator = method.personalize(shots(2))
    method.step = one_region_per_step  # type: ignore[method-assign]
    method.fine_tune(generator, discriminator, shots(2))
    with torch.autocast("cpu", torch.bfloat16):
        outside = PersonReenactor(generator)(shots(2))
    assert torch.equal(inside, outside)


# ---- on disk


def test_folding_changes_next_to_nothing(networks) -> None:
    method = tuner(networks)
    generator, discriminator = method.personalize(shots(2))
    method.fine_tune(generator, discriminator, shots(2))
    generator.eval()
    with torch.no_grad():
        difference = (generator.fold()(shots(4).landmarks) - generator(shots(4).landmarks)).abs().max()
    assert difference <= 1e-5
    assert not any("parametrizations" in name for name in generator.fold().state_dict())
    assert any("parametrizations" in name for name in generator.state_dict()), "fold returns a new module"


def test_a_person_comes_back_from_disk(networks, tmp_path: Path) -> None:
    reenactor = tuner(networks).learn(shots(2))
    reenactor.save(tmp_path / "people" / "mona", {"commit": "abc", "crop": {"margin": 1.7}})
    person = load_person(tmp_path / "people" / "mona.json")
    assert person.about["crop"] == {"margin": 1.7}
    assert person.about["preset"]["image_size"] == SIZE
    expected = reenactor(shots(3))
    assert (PersonReenactor(person.generator)(shots(3)) - expected).abs().max() <= 1e-6
    assert (person.generator(shots(3).landmarks) - expected).abs().max() <= 1e-4, "the same from fewer multiplications"
    half = load_person(tmp_path / "people" / "mona.safetensors", torch.bfloat16).generator
    assert half.psi.dtype == torch.bfloat16
    assert (half(shots(3).landmarks) - expected).abs().mean() < 0.02
    assert sorted(p.name for p in (tmp_path / "people").iterdir()) == ["mona.json", "mona.safetensors"]


def test_a_person_loads_without_the_framework(networks, tmp_path: Path) -> None:
    save_person(tmp_path / "p", tuner(networks).personalize(shots(1))[0], {})
    code = (
        "import sys; from talkinghead.models.person_file import load_person; load_person(sys.argv[1]);"
        "print(sorted({'pytorch_lightning', 'hydra', 'torchvision'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "p")], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_files_that_are_no_person(networks, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="two files"):
        load_person(tmp_path / "p")
    save_person(tmp_path / "p", tuner(networks).personalize(shots(1))[0], {})
    card = json.loads((tmp_path / "p.json").read_text())
    (tmp_path / "p.json").write_text(json.dumps({**card, "sha256": "0"}))
    with pytest.raises(ValueError, match="does not belong"):
        load_person(tmp_path / "p")
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(ValueError, match="not a person model"):
        load_person(tmp_path / "p")


def test_options_are_checked(networks) -> None:
    with pytest.raises(ValueError, match="a whole number from 1 on"):
        tuner(networks, epochs=0)
    for wrong in ({"lr_generator": 1e9}, {"lr_discriminator": -1.0}, {"lr_psi": 2.0}, {"lr_w": float("nan")},
                  {"ema_decay": 7.0}, {"num_discriminator_steps": -1}):  # fmt: skip
        with pytest.raises(ValueError, match=rf"finetune\.{next(iter(wrong))}=.*please"):
            tuner(networks, **wrong)
    with pytest.raises(ValueError, match=r"finetune\.augment: no \['upside_down'\]; choose from mirror"):
        tuner(networks, augment=["upside_down"])


def test_loss_weights_are_not_negative(networks) -> None:
    with pytest.raises(ValueError, match=r"finetune\.weights\.cnt=-5"):
        FineTuner(*networks, tuner(networks)._frozen[0], {"cnt": -5.0})
