"""The warp-guided generator: what it is shown, what it copies, and that all of the system takes it for G."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from talkinghead.learners.finetune import FeedForward, FineTuner, PersonReenactor, embed
from talkinghead.models.fast_generator import FastWarpGuidedGenerator
from talkinghead.models.fsth import Discriminator, Embedder
from talkinghead.models.guide import (
    INNER_LIP,
    LEFT_EYE,
    RIGHT_EYE,
    area,
    close_ups,
    closings,
    guide,
    head_points,
    inner_masks,
    inside,
    landmark_flow,
    normalized,
    openings,
    parted,
    parts_mask,
    project,
    splines,
    unfolded,
)
from talkinghead.models.person_file import load_person, save_person
from talkinghead.models.warp_guided import (
    WarpGuidedGenerator,
    identity_flow,
    parametrized_weight,
    shot_shares,
    show,
    without_grid,
)
from talkinghead.types import Frames

SIZE, N = 64, 16


def face(size: int = SIZE, shift: tuple[float, float] = (0.0, 0.0), scale: float = 1.0) -> Tensor:
    """The mean head's landmarks in the picture, [1, 68, 2] pixels."""
    points = head_points(torch.device("cpu")).landmarks[:, :2] * size * 0.2 * scale
    return (points + size / 2 + torch.tensor(shift))[None]


def picture(count: int = 1, size: int = SIZE) -> Tensor:
    torch.manual_seed(3)
    return nn.functional.interpolate(torch.rand(count, 3, 8, 8) * 2 - 1, size, mode="bilinear")


def frames(count: int) -> Frames:
    points = torch.cat([face(shift=(n - 1.0, 0.5 * n)) for n in range(count)])
    return Frames(picture(count), picture(count).flip(-1), points)


def networks() -> tuple[Embedder, WarpGuidedGenerator, Discriminator]:
    torch.manual_seed(0)
    generator = WarpGuidedGenerator(SIZE, N, (8, 16, 16), num_residual=1)
    return Embedder(SIZE, (8, 16), None), generator, Discriminator(2, SIZE, (8, 16), None)


def test_widths_may_come_from_a_config() -> None:
    for widths in ([8, 16], [8, 16, 16]):
        plain, configured = (WarpGuidedGenerator(SIZE, N, given, 1) for given in (widths, OmegaConf.create(widths)))
        assert configured.psi_sizes == plain.psi_sizes
        assert {k: v.shape for k, v in configured.state_dict().items()} == {
            k: v.shape for k, v in plain.state_dict().items()
        }


def test_equal_points_move_nothing() -> None:
    moved = guide(picture(), face(), face())
    assert (moved.flow - identity_flow(picture())).abs().max() < 2 / SIZE * 0.1
    assert torch.equal(moved.known, torch.ones(1, 1, SIZE, SIZE))
    assert (moved.warped - picture()).abs().max() < 0.05


def test_the_flow_takes_driving_points_to_the_source_points() -> None:
    """Half a node's spacing is the error that the grid allows."""
    source, driving = face(), face(shift=(3.0, -2.0), scale=1.1)
    flow = guide(picture(), source, driving).flow[0]
    rows, columns = driving[0, :, 1].round().long(), driving[0, :, 0].round().long()
    came_from = (flow[rows, columns] + 1) / 2 * SIZE - 0.5
    expected = source[0] + (torch.stack([columns, rows], -1) - driving[0]) / 1.1
    assert (came_from - expected).norm(dim=-1).max() < 1.0


def test_the_border_stays() -> None:
    flow = guide(picture(), face(), face(shift=(4.0, 0.0))).flow[0]
    still = identity_flow(picture())[0]
    corners = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
    assert all((flow[at] - still[at]).abs().max() < 0.06 for at in corners)


def test_a_batch_is_warped_as_its_images_one_by_one() -> None:
    source, driving = frames(3).points, frames(3).points.flip(0)
    together = guide(picture(3), source, driving)
    for n in range(3):
        alone = guide(picture(3)[n : n + 1], source[n : n + 1], driving[n : n + 1])
        assert torch.allclose(together.warped[n], alone.warped[0], atol=1e-4)


def test_what_a_closed_mouth_hides_is_unknown() -> None:
    closed, opened = face().clone(), face().clone()
    closed[:, 65:68, 1] = closed[:, [63, 62, 61], 1] + 0.2
    opened[:, 65:68, 1] += 8
    at = {name: normalized(points, SIZE) for name, points in (("closed", closed), ("opened", opened))}
    inner = inner_masks(at["opened"], SIZE)
    known = openings(at["closed"], at["opened"], inner)
    middle = opened[0, INNER_LIP].mean(0).round().long()
    assert known[0, 0, middle[1], middle[0]] == 0
    assert known.mean() > 0.9
    shown_mouth = openings(at["opened"], at["opened"], inner)
    assert torch.equal(shown_mouth, torch.ones_like(shown_mouth))


def with_eyes(share: float, size: int = 256) -> Tensor:
    """A face whose eyes are a quarter as high as wide, times `share`; the upper lids do most of it."""
    points = face(size)
    for part in (LEFT_EYE, RIGHT_EYE):
        eye = points[:, part]
        width, middle = eye[:, 3, 0] - eye[:, 0, 0], eye[:, [0, 3], 1].mean()
        points[:, part, 1] = middle + 0.125 * width * torch.tensor([0, -1.0, -1, 0, 1, 1])
        closed = 0.25 * width * (1 - share)
        points[:, part, 1] += closed * torch.tensor([0, 0.8, 0.8, 0, -0.2, -0.2])
    return points


@pytest.mark.parametrize("share", [0.4, 0.2, 0.0])
def test_a_closing_lid_slides_over_the_eye(share: float) -> None:
    """Squeezed, an eye shows in its lid; where landmarks of a shut eye coincide, the splines left it open."""
    opened, closed = with_eyes(1.0), with_eyes(share)
    moved = guide(picture(size=256), opened, closed)
    off = (moved.flow - identity_flow(picture(size=256)))[0].norm(dim=-1) * 128
    for part in (LEFT_EYE, RIGHT_EYE):
        brow = opened[0, part].mean(0).round().long() - torch.tensor([0, 14])
        x, y = opened[0, part].mean(0).round().long().tolist()
        assert off[y - 2 : y + 3, x - 2 : x + 3].max() < 1, "the eye stays as it was"
        assert off[brow[1], brow[0]] < 1, "and so does the brow"
    pixels = torch.cartesian_prod(torch.arange(256.0), torch.arange(256.0)).flip(1)
    before, after = (
        torch.stack([inside(pixels, p[:, part])[0] for part in (LEFT_EYE, RIGHT_EYE)]).amax(0).view(256, 256).bool()
        for p in (opened, closed)
    )
    covered = before & ~after
    assert moved.known[0, 0][covered].mean() < 0.15, "what the lids cover is unknown, but for the polygons' edges"
    assert moved.known.mean() > 0.97
    if share:
        assert moved.known[0, 0][after].mean() > 0.6, "what is left of the eye is shown"


def test_eyes_that_hardly_close_move_with_their_landmarks() -> None:
    opened, narrow = with_eyes(1.0), with_eyes(0.9)
    assert torch.equal(guide(picture(size=256), opened, narrow).flow, landmark_flow(opened, narrow, 256))
    assert guide(picture(size=256), opened, narrow).known.min() == 1


def test_the_plain_flow_takes_lids_along() -> None:
    opened, closed = with_eyes(1.0), with_eyes(0.4)
    flow = landmark_flow(opened, closed, 256)[0]
    x, y = closed[0, 37].round().long().tolist()
    assert (flow[y, x, 1] + 1) * 128 - 0.5 == pytest.approx(float(opened[0, 37, 1]), abs=1.5)


def test_the_line_of_closing_lips_is_unknown() -> None:
    shut, wide = face(256).clone(), face(256).clone()
    shut[:, 65:68, 1] = shut[:, [63, 62, 61], 1] + 0.2
    wide[:, 65:68, 1] = shut[:, [63, 62, 61], 1] + 20
    cases = {"shuts": (wide, shut), "stays shut": (shut, shut), "opens": (shut, wide)}
    known = {}
    for name, pair in cases.items():
        source, driving = (normalized(points, 256) for points in pair)
        opened = torch.cat([driving[:, :60], parted(source, driving)], 1)
        known[name] = closings(source, driving, opened, inner_masks(driving, 256))
    middle = shut[0, [62, 66]].mean(0).round().long()
    assert known["shuts"][0, 0, middle[1] - 2 : middle[1] + 3, middle[0]].min() < 0.3
    assert known["shuts"].mean() > 0.99
    assert known["stays shut"].min() == known["opens"].min() == 1


def test_no_grid_of_sub_pixels() -> None:
    """The four sub-pixels of a pixel may be biased against each other: the picture does not alternate with them."""
    generator = networks()[1].requires_grad_(False)
    shown = show(*(part[:1] for part in (picture(), face(), picture().flip(-1), face())))
    shown[:, 12:13] = 1  # as in an opening, which takes no colour from around it
    parts = torch.zeros(1, 26, SIZE // 2, SIZE // 2)
    parts[:, :12] = torch.tensor([0.5, -0.5, -0.5, 0.5]).repeat(3)[:, None, None]  # of the drawn picture
    parts[:, 20:24] = 8.0  # which is all that is seen
    drawn = generator.compose(shown, parts)
    assert drawn.abs().max() < 0.05
    assert without_grid(torch.ones(1, 1, 4, 4)).eq(1).all()


def test_what_is_not_known_takes_the_colour_of_what_is_around_it() -> None:
    """But for the inside of an opening mouth, which is darker than the lips around it."""
    generator = networks()[1].requires_grad_(False)
    wall = torch.full((1, 3, SIZE, SIZE), 0.5)
    shown = show(wall, face(), -torch.ones_like(wall), face())
    hole = torch.zeros(1, 1, SIZE, SIZE)
    hole[..., 28:36, 28:36] = 1
    shown[:, 11:12] = 1 - hole
    parts = torch.zeros(1, 26, SIZE // 2, SIZE // 2)
    parts[:, :12] = -0.2  # the drawn picture
    parts[:, 12:16] = 8.0  # the warped shot, wherever it is known
    filled = generator.compose(shown, parts)
    assert (filled - wall).abs().max() < 0.05
    shown[:, 12:13] = hole
    opened = generator.compose(shown, parts)
    assert (opened - torch.tanh(torch.tensor(-0.2)))[..., 29:35, 29:35].abs().max() < 0.02


def test_inside_and_area_of_a_square() -> None:
    square = torch.tensor([[[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]])
    assert inside(torch.tensor([[0.0, 0.0], [0.7, 0.0], [0.0, -0.6]]), square).tolist() == [[1, 0, 0]]
    assert area(square).item() == pytest.approx(1)
    assert area(square.flip(1)).item() == 0, "turned inside out"


def test_folds_are_unknown() -> None:
    nodes = splines(*(2 * (p + 0.5) / SIZE - 1 for p in (face(), face())), SIZE)
    assert unfolded(nodes, SIZE).min() == 1
    folded = nodes.clone()
    folded[:, :, 8] = nodes[:, :, 6]
    assert unfolded(folded, SIZE).min() < 0.5


def test_the_camera_of_the_mean_head_is_found() -> None:
    head = head_points(torch.device("cpu"))
    at, facing = project(2 * (face() + 0.5) / SIZE - 1, head)
    expected = head.skull[:, :2] * 0.4 + 1 / SIZE
    assert (at[0] - expected).abs().max() < 1e-3
    assert facing[0, 3] > 0.5, "the forehead looks into the camera"


def test_the_guide_is_differentiable() -> None:
    shot, source, driving = picture().requires_grad_(), face().requires_grad_(), face(shift=(1.0, 1.0)).requires_grad_()
    guide(shot, source, driving).warped.square().sum().backward()
    for leaf in (shot, source, driving):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().sum() > 0


def test_lips_and_lids_are_a_small_part() -> None:
    mask = parts_mask(face(), SIZE)
    assert 0.01 < mask.mean() < 0.3


def test_close_ups_show_mouth_and_eyes_and_pass_gradients_there_only() -> None:
    points = face(128)
    spots = torch.zeros(1, 1, 128, 128)
    for part, level in ((slice(48, 68), 1.0), (slice(36, 42), 2.0), (slice(42, 48), 3.0)):
        x, y = points[0, part].mean(0).round().long().tolist()
        spots[..., y - 1 : y + 2, x - 1 : x + 2] = level
    shown = close_ups(spots, points)
    assert shown.shape == (3, 1, 32, 32)
    assert shown[:, 0, 14:18, 14:18].amax((1, 2)).tolist() == pytest.approx([1.0, 2.0, 3.0], abs=0.05)
    seen = picture(size=128).requires_grad_()
    close_ups(seen, points).sum().backward()
    assert seen.grad is not None
    touched = seen.grad[0, 0] != 0
    assert 0.02 < touched.float().mean() < 0.3
    assert not touched[:20].any(), "hair and background take no gradient"


def test_an_untrained_generator_is_mostly_the_warp() -> None:
    _, generator, _ = networks()
    shot, points = picture(), face()
    drawn = generator(show(shot, points, shot, points), torch.zeros(1, N))
    assert (drawn - shot).abs().mean() < 0.6 * shot.abs().mean()


def test_a_person_starts_as_the_shared_generator_and_keeps_the_nearest_shot() -> None:
    embedder, generator, _ = (network.eval() for network in networks())
    shots, driving = frames(3), frames(2)
    e_hat = embed(embedder, shots)
    person = generator.personalize(e_hat, shots)
    y = person.condition(driving)
    assert all(torch.equal(person(one), generator(one, e_hat)) for one in y.split(1))
    for n in range(2):
        assert torch.equal(y[n, 6:9], shots.images[n]), "the shot with the same points"


def test_the_shown_shot_changes_slowly_and_not_for_a_moment() -> None:
    near, far = torch.tensor([0.1, 0.3]), torch.tensor([0.3, 0.1])
    shares = shot_shares(torch.stack([near] * 8 + [far] + [near] * 8 + [far] * 8), change=0.3, fade=5)
    assert torch.allclose(shares.sum(1), torch.ones(len(shares)))
    assert (shares.diff(dim=0).abs() <= 0.2 + 1e-6).all()
    assert (shares[:15, 0] == 1).all(), "one frame that is nearer to the other is not worth a change"
    assert (shares[-6:, 1] == 1).all()
    assert torch.equal(shot_shares(torch.rand(1, 3)).sum(), torch.tensor(1.0))
    nearest = torch.rand(40, 4)
    assert torch.equal(shot_shares(nearest, change=0.0, fade=1).argmax(1), nearest.argmin(1))


def test_a_video_fades_from_one_shot_to_the_next() -> None:
    embedder, generator, _ = networks()
    person = FeedForward(embedder, generator).learn(frames(2))
    start, end = frames(2).points
    points = torch.cat([start.expand(12, -1, -1), end.expand(12, -1, -1)])
    driving = Frames(picture().expand(24, -1, -1, -1), picture().expand(24, -1, -1, -1), points)
    reenact, hard = person.for_video(points), person(driving)
    faded = torch.cat([reenact(Frames(*(part[n : n + 8] for part in driving))) for n in (0, 8, 16)])
    ends = [0, 1, -2, -1]
    assert torch.allclose(faded[ends], hard[ends], atol=1e-5), "far from the change as ever"
    jump, fade = ((x[1:] - x[:-1]).abs().mean((1, 2, 3)).max() for x in (hard, faded))
    assert fade < 0.5 * jump
    alone = FeedForward(embedder, generator).learn(frames(1))
    assert alone.for_video(points) is alone


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("alike", [False, True], ids=["other poses", "the same picture again"])
def test_fine_tuning_never_shows_a_shot_itself(count: int, alike: bool) -> None:
    """Of several shots another one; a warp of the shot itself where all others are the same picture, or none is."""
    embedder, generator, _ = networks()
    shots = frames(count)
    if alike:
        shots = Frames(*(part[:1].expand(count, *part.shape[1:]).clone() for part in shots))
    person = generator.personalize(embed(embedder, shots), shots)
    moved = shots.points + torch.tensor([3.0, 2.0])
    shown, points = person.partners(shots, moved)
    for n, shot in enumerate(shots.images):
        assert (shown[n] - shot).abs().mean() > 1e-2
        others = [k for k in range(count) if torch.equal(shown[n], shots.images[k])]
        if count == 1 or alike:
            assert torch.equal(points[n], moved[n])
        else:
            assert others
            assert n not in others
            assert torch.equal(points[n], shots.points[others[0]])


def test_feed_forward_and_fine_tuning_draw_the_person() -> None:
    embedder, generator, discriminator = networks()
    content = lambda x, x_hat: (x - x_hat).abs().mean()  # noqa: E731
    module = nn.Module()
    module.forward = content  # type: ignore[method-assign]
    weights = {"cnt": 10.0, "adv": 1.0, "fm": 1.0}
    tuner = FineTuner(embedder, generator, discriminator, module, weights, epochs=4, lr_generator=2e-3)
    shots, driving = frames(2), frames(3)
    before = FeedForward(embedder, generator).learn(shots)(driving)
    after = tuner.learn(shots)(driving)
    assert before.shape == after.shape == driving.images.shape
    assert not torch.equal(before, after)
    assert after.isfinite().all()


def test_a_person_lies_on_disk_with_its_shots(tmp_path: Path) -> None:
    embedder, generator, _ = (network.eval() for network in networks())
    shots, driving = frames(2), frames(3)
    person = generator.personalize(embed(embedder, shots), shots)
    save_person(tmp_path / "anna", person, {"method": "ff"})
    again = load_person(tmp_path / "anna.json")
    assert again.about["method"] == "ff"
    drawn = (one(one.condition(driving)) for one in (person, again.generator))
    assert torch.allclose(*drawn, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"crop": {"margin": 1.8, "extra": 1}}, {"crop": {"margin": "x" * 5000}}, {"crop": 7}, {"crop": {"down": None}},
        {"source_points": [[0, 0]] * 67}, {"source_points": [[0, 1e9]] * 68}, {"source_points": "points"},
        {"source_points": [[0, float("nan")]] * 68}, {"preset": {"image_size": 10**9}}, {"preset": None},
        {"kind": "os.system"}, {"kind": "fsth"}, {"preset": []},
        {"preset": {"image_size": 64, "channels": [10**6] * 3, "num_residual": 1, "spectral_norm": False,
                    "corrected": True, "unwarped": True}},
    ],
)  # fmt: skip
def test_a_strangers_person_file_is_refused_in_one_line(tmp_path: Path, change: dict) -> None:
    embedder, generator, _ = networks()
    shots = frames(1)
    save_person(tmp_path / "anna", generator.personalize(embed(embedder, shots), shots), {})
    card = json.loads((tmp_path / "anna.json").read_text())
    (tmp_path / "anna.json").write_text(json.dumps({**card, **change}))
    with pytest.raises(ValueError, match=r"anna\.json") as caught:
        load_person(tmp_path / "anna")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "tensors", "told"),
    [
        ({"image_size": 7}, {}, "image_size is 7"), ({"image_size": 64.0}, {}, "image_size is 64.0"),
        ({"image_size": True}, {}, "image_size is True"), ({"image_size": -8}, {}, "image_size is -8"),
        ({"image_size": 1024}, {}, "shots are of size"),
        ({}, {"shots": torch.zeros(0, 3, SIZE, SIZE)}, "shots is empty"),
        ({}, {"points": torch.zeros(0, 68, 2)}, "points is empty"),
        ({}, {"psi": torch.zeros(1, 8, dtype=torch.int8)}, "psi is torch.int8"),
        ({}, {"psi": torch.ones(1, 8, dtype=torch.bool)}, "psi is torch.bool"),
        ({}, {"psi": torch.full((1, 8), torch.nan)}, "psi is not finite"),
    ],
)  # fmt: skip
def test_a_strangers_weights_must_be_those_of_the_description(
    tmp_path: Path, change: dict, tensors: dict, told: str
) -> None:
    embedder, generator, _ = networks()
    shots = frames(1)
    save_person(tmp_path / "anna", generator.personalize(embed(embedder, shots), shots), {})
    card = json.loads((tmp_path / "anna.json").read_text())
    content = save({**load((tmp_path / "anna.safetensors").read_bytes()), **tensors})
    (tmp_path / "anna.safetensors").write_bytes(content)
    card |= {"sha256": hashlib.sha256(content).hexdigest(), "preset": {**card["preset"], **change}}
    (tmp_path / "anna.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=rf"does not describe anna\.safetensors \(.*{told}"):
        load_person(tmp_path / "anna")


def test_the_table_of_head_points_is_a_head() -> None:
    head = head_points(torch.device("cpu"))
    assert np.isclose(head.landmarks.square().sum(1).mean().sqrt(), 1, atol=1e-3)
    assert head.landmarks[30, 2] < head.landmarks[0, 2], "the nose is nearer than the ears"
    assert (head.skull[:, 1] < head.landmarks[:, 1].min()).sum() >= 8, "points above the brows"


@pytest.mark.parametrize("widths", [(8, 16), (8, 16, 24, 32)])
def test_a_quick_generator_draws_the_same_with_less_work(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    generator = WarpGuidedGenerator(SIZE, N, widths, num_residual=2, spectral_norm=True).eval()
    nn.init.normal_(parametrized_weight(generator.to_parts), std=0.02)
    person = generator.personalize(torch.randn(1, N), frames(2)).fold()
    quick, y = FastWarpGuidedGenerator(person), person.condition(frames(3))
    counts = []
    for one in (person, quick):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            one(y)
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.9 * counts[0]
    assert (quick(y) - person(y)).abs().mean() < 1e-5
    assert torch.allclose(quick(y), person(y), atol=1e-3)
    assert (FastWarpGuidedGenerator(person, torch.bfloat16)(y) - person(y)).square().mean().sqrt() < 0.15
    with torch.autocast("cpu", torch.bfloat16):
        assert PersonReenactor(person)(frames(3)).dtype == torch.float32
