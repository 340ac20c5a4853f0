"""What rendered people wear: it sits where it should, on everybody, and nobody of the older sets has changed."""

import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from talkinghead.synthetic.body import BODY, UPPER_TEETH, Body, load_body
from talkinghead.synthetic.dataset import ClipPlan, RenderPlan, SyntheticDataset, render_clip
from talkinghead.synthetic.extras import HATS, UPDOS, Extras, make_extras
from talkinghead.synthetic.hair import make_hair
from talkinghead.synthetic.landmarks import landmark_points
from talkinghead.synthetic.motion import Motion, widen
from talkinghead.synthetic.person import Person, make_person, neutral_vertices
from talkinghead.synthetic.raster import CLOTH, GLOSSY
from talkinghead.synthetic.scene import make_head
from talkinghead.synthetic.solids import ellipsoid, together, tube, volume
from talkinghead.synthetic.wearing import EDGES, add_updo, ears, hat_edge, wearing

PEOPLE = range(0, 40, 4)
OLD = RenderPlan(image_size=64, supersampling=2, fps=1.0, seed=1, quality=90, device="cpu")


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def people(body: Body) -> list[tuple[Person, Extras, np.ndarray, np.ndarray]]:
    """People with their extras, neutral vertices and landmarks."""
    made = []
    for seed in PEOPLE:
        person = make_person(seed, body)
        neutral = neutral_vertices(person, body)
        made.append((person, make_extras(person), neutral,
                     landmark_points(neutral[None], np.zeros(1), body.original_index)[0]))  # fmt: skip
    return made


def bare(extras: Extras, **worn: object) -> Extras:
    """Nothing worn but what is given."""
    return replace(extras, **{"glasses": None, "hat": "", "scarf": None, "earrings": "", "updo": "", **worn})


def test_people_of_looks_1_are_those_of_the_committed_set() -> None:
    clip = render_clip(ClipPlan("val", person=0, mover=0, clip=0, video_index=0, frames=4), OLD)
    with tarfile.open(Path(__file__).parents[1] / "synthetic_heads/val/000000.tar") as tar:
        stored = [tar.extractfile(f"{clip.key}.{n:03d}.jpg").read() for n in range(4)]  # type: ignore[union-attr]
    for before, now in zip(stored, clip.frames, strict=True):
        off = simplejpeg.decode_jpeg(before).astype(int) - simplejpeg.decode_jpeg(now)
        assert np.abs(off).mean() < 0.5  # compilers round differently


def test_looks_2_are_a_pure_function_and_other_pictures() -> None:
    plan = replace(OLD, looks=2)
    clip = ClipPlan("train", person=3, mover=3, clip=0, video_index=0, frames=2)
    assert render_clip(clip, plan).frames == render_clip(clip, plan).frames != render_clip(clip, OLD).frames


def test_looks_are_part_of_what_a_data_set_is() -> None:
    assert SyntheticDataset().parameters["looks"] == 1
    assert SyntheticDataset(looks=2).parameters["looks"] == 2
    with pytest.raises(ValueError, match="looks=4"):
        SyntheticDataset(looks=4)


def test_looks_3_show_the_upper_teeth_below_the_lip(body: Body) -> None:
    """In looks 1 and 2 the lip hides them in nearly every mouth, so that nothing could learn to draw teeth."""
    teeth = body.vertices_of(UPPER_TEETH)
    shown = []
    for seed in PEOPLE:
        person = make_person(seed, body)
        neutral = neutral_vertices(person, body)
        lip = landmark_points(neutral[None], np.zeros(1), body.original_index)[0][62]
        before, now = (make_head(person, body, 64, speaking=speaking).neutral for speaking in (False, True))
        assert (now[teeth, 1] > lip[1] + 0.002).all(), "behind the lips"
        shown.append([lip[2] - head[teeth, 2].min() for head in (before, now)])
    hidden, below = np.median(shown, 0)
    assert hidden < 0.002
    assert 0.004 < below < 0.011  # metres


def test_looks_3_keep_the_faces_of_looks_2() -> None:
    clip = ClipPlan("val", person=3, mover=3, clip=0, video_index=0, frames=2)
    two, three = (render_clip(clip, replace(OLD, looks=looks)) for looks in (2, 3))
    assert np.array_equal(two.landmarks, three.landmarks), "only training frames are taken to extremes"
    train = replace(clip, split="train")
    assert not np.array_equal(*(render_clip(train, replace(OLD, looks=looks)).landmarks for looks in (2, 3)))


def test_a_share_of_people_wears_each_thing(body: Body) -> None:
    person = make_person(0, body)
    drawn = [make_extras(replace(person, seed=seed, hair_style="tied", female=0.9)) for seed in range(400)]
    assert 0.2 < np.mean([one.glasses is not None for one in drawn]) < 0.4
    assert {one.hat for one in drawn} == {"", *HATS}
    assert {one.updo for one in drawn} == {"", *UPDOS}
    assert {one.earrings for one in drawn} == {"", "stud", "hoop", "drop"}
    assert 0.05 < np.mean([one.scarf is not None for one in drawn]) < 0.25
    assert not any(one.hat and one.updo for one in drawn)
    assert max(len(one.moles) for one in drawn) >= 3


def test_solids_face_outwards() -> None:
    path = np.stack([np.linspace(0, 1, 5), np.zeros(5), np.zeros(5)], -1)
    ball = ellipsoid(np.zeros(3), np.array([1.0, 2.0, 3.0]), np.ones(3), CLOTH, rows=40, columns=60)
    assert volume(ball.vertices, ball.faces) == pytest.approx(4 / 3 * np.pi * 6, rel=0.02)
    rod = tube(path, 0.1, np.ones(3), CLOTH, sides=40)
    assert volume(rod.vertices, rod.faces) == pytest.approx(np.pi * 0.01, rel=0.02)
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = tube(np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1), 0.1, np.ones(3), GLOSSY, sides=40, closed=True)
    assert volume(ring.vertices, ring.faces) == pytest.approx(2 * np.pi**2 * 0.01, rel=0.02)
    cloth, glossy = together([ball, ring, rod])
    assert (len(cloth.vertices), len(glossy.vertices)) == (len(ball.vertices) + len(rod.vertices), len(ring.vertices))
    assert cloth.faces.max() == len(cloth.vertices) - 1


def test_glasses_stand_before_the_eyes_and_reach_the_ears(people: list, body: Body) -> None:
    spec = next(glasses for n in range(99) if (glasses := make_extras(replace(people[0][0], seed=n)).glasses))
    for person, extras, neutral, face in people:
        (glasses,) = wearing(bare(extras, glasses=replace(spec, dark=False)), person, neutral, body)
        rims = glasses.vertices[: 2 * 40 * 7].reshape(2, -1, 3)
        for rim, eye in zip(rims, (face[36:42], face[42:48]), strict=True):
            assert rim[:, 1].max() < eye[:, 1].max() - 0.002  # before the lids
            assert rim[:, 1].min() > face[30, 1] - 0.03  # and not beyond the nose's tip by more than a little
            assert (rim.min(0) < eye.mean(0))[[0, 2]].all()
            assert (rim.max(0) > eye.mean(0))[[0, 2]].all()
        ear = neutral[ears(body)]
        assert glasses.vertices[:, 1].max() > ear[:, 1].mean()
        assert np.abs(glasses.vertices[:, 0]).max() < np.abs(ear[:, 0]).max() + 0.012


@pytest.mark.parametrize("hat", EDGES)
def test_hats_cover_the_skull_and_leave_the_brows_free(hat: str, people: list, body: Body) -> None:
    for person, extras, neutral, face in people:
        (worn,) = wearing(bare(extras, hat=hat), person, neutral, body)
        skull = neutral[np.unique(body.faces[body.groups == BODY])]
        assert worn.vertices[:, 2].max() > skull[:, 2].max() + 0.005
        front = worn.vertices[(np.abs(worn.vertices[:, 0]) < 0.03) & (worn.vertices[:, 1] < face[27, 1] + 0.05)]
        assert front[:, 2].min() > face[17:27, 2].max() - 0.002
        afro = replace(person, hair_style="afro")
        free, pressed = make_hair(afro, neutral, body), make_hair(afro, neutral, body, partial(hat_edge, hat))
        assert free is not None
        assert pressed is not None
        assert pressed.vertices[:, 2].max() < worn.vertices[:, 2].max() - 0.003
        assert free.vertices[:, 2].max() > pressed.vertices[:, 2].max() + 0.015


def test_a_scarf_lies_around_the_neck_below_the_chin(people: list, body: Body) -> None:
    for person, extras, neutral, face in people:
        (scarf,) = wearing(bare(extras, scarf=((0.5, 0.1, 0.1), (1.0, 1.0, 1.0))), person, neutral, body)
        front = scarf.vertices[(np.abs(scarf.vertices[:, 0]) < 0.02) & (scarf.vertices[:, 1] < -0.05)]
        assert len(front)
        assert np.median(front[:, 2]) < face[8, 2] - 0.015
        assert scarf.follow.max() < 0.5


def test_earrings_hang_at_the_lobes(people: list, body: Body) -> None:
    for person, extras, neutral, _ in people:
        lowest = neutral[ears(body), 2].min()
        for kind in ("stud", "hoop", "drop"):
            (pair,) = wearing(bare(extras, earrings=kind), person, neutral, body)
            assert pair.vertices[:, 2].max() < lowest + 0.02
            assert abs(pair.vertices[:, 0].min() + pair.vertices[:, 0].max()) < 0.02
            assert (np.abs(pair.vertices[:, 0]) > 0.05).all()


@pytest.mark.parametrize("updo", UPDOS)
def test_bound_hair_is_hair_that_moves_with_the_head(updo: str, people: list, body: Body) -> None:
    person, _, neutral, _ = people[0]
    hair = make_hair(replace(person, hair_style="tied"), neutral, body)
    assert hair is not None
    bound = add_updo(hair, updo, person, neutral, body)
    count = len(bound.vertices)
    assert count > len(hair.vertices)
    assert bound.faces.max() == count - 1
    assert {len(getattr(bound, name)) for name in ("texcoords", "coverage", "occlusion", "follow")} == {count}


def test_a_dressed_head_is_whole(body: Body) -> None:
    for seed in range(6):
        person = make_person(seed, body)
        head = make_head(person, body, 64, replace(make_extras(person), hat=("", "cap", "veil")[seed % 3]))
        count = len(head.neutral)
        surface = head.surface
        assert surface.faces.max() < count
        assert {len(surface.texcoords), len(surface.local), len(surface.occlusion), len(surface.coverage),
                len(head.follow)} == {count}  # fmt: skip
        assert np.isfinite(head.neutral).all()
        assert 0 <= surface.skin.min() <= surface.skin.max() <= 1


def test_extremes_show_tongues_closed_lids_and_gazes(body: Body) -> None:
    names = body.action_names.tolist()
    calm = Motion(
        np.zeros((400, len(names)), np.float32), np.zeros((400, 3), np.float32), np.zeros((400, 3), np.float32)
    )
    wide = dict(zip(names, widen(calm, 1, names).actions.T, strict=True))
    assert wide["tongueOut"].max() > 0.3
    assert (wide["jawOpen"] > 0.7).mean() > 0.04
    assert (wide["eyeBlinkLeft"] > 0.9).any()
    assert wide["eyeLookOutLeft"].max() > 0.8
    assert (wide["eyeLookOutLeft"] * wide["eyeLookInLeft"]).max() == 0
    assert widen(calm, 1, names).actions.tobytes() == widen(calm, 1, names).actions.tobytes()
