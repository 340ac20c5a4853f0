"""What fine-tuning practises on: pairs that are no answers, augmentation, and motion that is kept."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from talkinghead.evaluation.tasks import draw_frames
from talkinghead.learners.finetune import FineTuner, PersonReenactor, groups
from talkinghead.learners.finetune_defaults import PAPERS, WARP_GUIDED
from talkinghead.learners.finetune_pairs import MotionConsistency, PairSampler, augmented, boxes, drawn, mirrored
from talkinghead.metrics.motion import LIDS, LIPS, opening
from talkinghead.models.fsth import Discriminator, Embedder, Generator
from talkinghead.models.guide import head_points
from talkinghead.models.warp_guided import WarpGuidedGenerator
from talkinghead.reenactment.expressions import Expressions
from talkinghead.types import Frames

SIZE = 64


def faces(count: int, size: int = SIZE) -> Frames:
    """The mean head in several places, on smooth pictures that are white where its nose is."""
    mean = head_points(torch.device("cpu")).landmarks[:, :2] * size * 0.2 + size / 2
    points = torch.stack([mean + torch.tensor([2.0 * n - 1, 1.0 * n]) for n in range(count)]).float()
    torch.manual_seed(3)
    images = nn.functional.interpolate(torch.rand(count, 3, 8, 8) - 1, size, mode="bilinear")
    pictures = ((images + 1) * 127.5).byte().movedim(1, -1).numpy().copy()
    for picture, face in zip(pictures, points.numpy(), strict=True):
        x, y = face[30].round().astype(int)
        picture[y - 1 : y + 2, x - 1 : x + 2] = 255
    return draw_frames(pictures, points.numpy())


class PixelLoss(nn.Module):
    """Stands in for L_CNT."""

    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        return (x - x_hat).abs().mean()


def tuner(kind: str, **options: object) -> FineTuner:
    torch.manual_seed(0)
    embedder, discriminator = Embedder(SIZE, (8, 16), None), Discriminator(2, SIZE, (8, 16), None)
    if kind == "warp":
        generator = WarpGuidedGenerator(SIZE, 16, (8, 16), num_residual=1)
    else:
        generator = Generator(SIZE, 16, (8, 16), 1, (16, 8), None, None)
    given = {"weights": {"cnt": 10.0, "adv": 1.0, "fm": 1.0}, "epochs": 3, "lr_generator": 2e-3, **options}
    return FineTuner(embedder, generator, discriminator, PixelLoss(), **given)  # type: ignore[arg-type]


def test_other_expressions_move_lips_and_lids_and_little_else() -> None:
    points = faces(2).points
    torch.manual_seed(0)
    which = torch.arange(2).repeat(50)
    still = Expressions(points).sample(which)
    eyes = float((points[0, 36] - points[0, 45]).norm())
    for pairs, least in ((LIPS, 0.03), (LIDS, 0.015)):
        assert opening(still.numpy(), pairs).std() > least
    assert (still[:, [27, 30, 33]] - points[which][:, [27, 30, 33]]).norm(dim=-1).mean() < 0.03 * eyes
    posed = Expressions(points).sample(which, pose=True)
    assert (posed[:, 30] - points[which][:, 30]).norm(dim=-1).mean() > 0.05 * eyes
    assert (posed - points[which]).norm(dim=-1).mean() < 0.5 * eyes


def test_other_expressions_come_from_the_seed() -> None:
    samples = []
    for _ in range(2):
        torch.manual_seed(5)
        samples.append(Expressions(faces(1).points).sample(torch.zeros(3).long(), pose=True))
    assert torch.equal(*samples)


def test_points_that_are_no_face_are_refused() -> None:
    with pytest.raises(ValueError, match="has no face"):
        Expressions(torch.zeros(1, 68, 2))


@pytest.mark.parametrize("names", [["mirror"], ["affine"], ["colour"], ["mirror", "affine", "colour"]])
def test_points_stay_on_the_picture_when_it_is_augmented(names: list[str]) -> None:
    """The white nose is where the augmented points say; whatever was done, to all pictures of a row."""
    shots = faces(8, 128)
    torch.manual_seed(1)
    (x, again), (points, same) = augmented([shots.images, shots.images], [shots.points, shots.points], names)
    assert torch.equal(x, again)
    assert torch.equal(points, same)
    assert not torch.equal(x, shots.images)
    for picture, face in zip(x.sum(1), points, strict=True):
        row, column = np.unravel_index(int(picture.argmax()), picture.shape)
        assert np.hypot(column - face[30, 0].item(), row - face[30, 1].item()) < 3


def test_mirrored_points_are_in_order_again() -> None:
    points = faces(1).points
    other = mirrored(points, SIZE)
    assert other[0, 36, 0] < other[0, 45, 0], "the left eye is left"
    assert torch.allclose(mirrored(other, SIZE), points)


@pytest.mark.parametrize("kind", ["paper", "warp"])
def test_pairs_without_augmentation_are_the_shots(kind: str) -> None:
    method, shots = tuner(kind), faces(3)
    generator, _ = method.personalize(shots)
    x, y, condition = PairSampler(generator, shots)(shots)
    assert torch.equal(x, shots.images)
    assert torch.equal(y, shots.landmarks)
    assert torch.equal(condition[:, :3], y)


def test_augmented_pairs_have_the_landmark_images_of_their_pictures() -> None:
    method, shots = tuner("warp"), faces(3)
    generator, _ = method.personalize(shots)
    torch.manual_seed(0)
    pair = PairSampler(generator, shots, ["affine", "mirror", "colour"])(shots)
    assert pair.condition.shape == (3, 13, SIZE, SIZE)
    assert torch.equal(pair.condition[:, :3], pair.y)
    assert not torch.equal(pair.y, shots.landmarks)
    with pytest.raises(ValueError, match=r"no \['blur'\]; choose from mirror, affine, colour"):
        PairSampler(generator, shots, ["blur"])


def test_boxes_hold_mouth_and_eyes() -> None:
    points = faces(1).points
    mask = boxes(points[:, None], SIZE)[0, 0]
    inside = [bool(mask[int(y), int(x)]) for x, y in points[0]]
    assert all(inside[36:68])
    assert not any(inside[:17])
    assert mask.mean() < 0.2


@pytest.mark.parametrize("kind", ["paper", "warp"])
def test_motion_is_kept(kind: str) -> None:
    """The loss is 0 where nothing has moved away; with it the mouth moves more like before than without."""
    shots = faces(1)
    start, _ = tuner(kind).personalize(shots)
    torch.manual_seed(2)
    motion = MotionConsistency(start, shots)
    assert motion(start.eval()).item() < 1e-5
    left = []
    for weight in (0.0, 100.0):
        method = tuner(
            kind, epochs=10, lr_generator=1e-4, weights={"cnt": 10.0, "adv": 0.0, "fm": 0.0, "motion": weight}
        )
        generator, discriminator = method.personalize(shots)
        tuned = method.fine_tune(generator, discriminator, shots).eval()
        torch.manual_seed(3)
        with torch.no_grad():
            left.append(sum(float(motion(tuned)) for _ in range(8)))
    assert left[1] < 0.6 * left[0]


def test_the_loss_is_told_only_where_it_counts() -> None:
    seen: list[set[str]] = []
    for weights in ({"cnt": 1.0, "adv": 1.0, "fm": 1.0}, {"cnt": 1.0, "adv": 1.0, "fm": 1.0, "motion": 30.0}):
        tuner("paper", epochs=1, weights=weights).learn(faces(1), lambda at: seen.append(set(at.losses)))
    assert seen[1] - seen[0] == {"motion"}


@pytest.mark.parametrize("kind", ["paper", "warp"])
def test_groups_learn_at_their_own_rates(kind: str) -> None:
    """beta1 = 0: Adam's first step is the rate itself, whatever the gradient."""
    method, shots = (
        tuner(
            kind, epochs=1, lr_generator=1e-5, lr_psi=1e-2, lr_w=3e-2, lr_discriminator=1e-5, num_discriminator_steps=1
        ),
        faces(1),
    )
    generator, discriminator = method.personalize(shots)
    before = {name: value.detach().clone() for name, value in generator.named_parameters()}
    w = discriminator.w.detach().clone()
    method.fine_tune(generator, discriminator, shots)
    moved = {name: float((value - before[name]).abs().max()) for name, value in generator.named_parameters()}
    assert moved.pop("psi") == pytest.approx(1e-2, rel=0.05)
    assert max(moved.values()) < 2e-5
    assert float((discriminator.w - w).abs().max()) == pytest.approx(3e-2, rel=0.05)


def test_without_rates_of_their_own_all_learn_alike() -> None:
    method = tuner("paper")
    assert (method.lr_psi, method.lr_w) == (method.lr_generator, method.lr_discriminator)
    frozen, _ = tuner("paper", frozen=["psi"]).personalize(faces(1))
    assert len(groups(frozen, {"psi"}, 1.0)) == 1


@pytest.mark.parametrize("kind", ["paper", "warp"])
def test_all_together_draw_the_person(kind: str) -> None:
    options = {"lr_psi": 5e-3, "lr_w": 5e-3, "augment": ["mirror", "affine", "colour"], "batch_size": 1}
    method = tuner(kind, weights={"cnt": 1.0, "adv": 1.0, "fm": 1.0, "motion": 30.0}, **options)
    outputs = []
    for _ in range(2):
        torch.manual_seed(1)
        reenact: PersonReenactor = method.learn(faces(2))
        outputs.append(reenact(faces(3)))
    assert torch.equal(*outputs)
    assert outputs[0].isfinite().all()


def test_landmark_images_are_those_of_the_data() -> None:
    shots = faces(2)
    assert torch.equal(drawn(shots.points, shots.images), shots.landmarks)


@pytest.mark.parametrize("kind", ["paper", "warp"])
def test_numbers_that_are_null_are_those_measured(kind: str) -> None:
    """One config serves both generators; a number that is given counts."""
    weights = {"cnt": 1.0, "adv": None, "fm": 1.0, "motion": None}
    method = tuner(kind, epochs=None, batch_size=None, lr_generator=None, weights=weights)
    usual = WARP_GUIDED if kind == "warp" else PAPERS
    names = ("epochs", "max_steps", "batch_size", "lr_generator", "lr_psi", "lr_w")
    assert all(getattr(method, name) == getattr(usual, name) for name in names)
    assert method.weights == {"cnt": 1.0, "adv": 0.0, "fm": 1.0, "motion": usual.motion}
    given = tuner(kind, lr_generator=1e-4, lr_discriminator=3e-4, max_steps=2)
    assert (given.lr_generator, given.lr_psi, given.lr_w, given.max_steps) == (1e-4, 1e-4, 3e-4, 2)
    assert tuner(kind, lr_generator=None, lr_psi=1e-3).lr_psi == 1e-3
