"""Synthetic heads: people, motion, exact landmarks, and the data set they are written into."""

import gzip
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simplejpeg
import torch
from anny.models import full_model

from talkinghead.data.shards import DatasetInfo
from talkinghead.faces.landmark_image import MIRROR, interocular
from talkinghead.synthetic import body as body_module
from talkinghead.synthetic.body import Body, load_body, read_shape
from talkinghead.synthetic.dataset import ClipPlan, RenderPlan, SyntheticDataset, person_seed, render_clip
from talkinghead.synthetic.landmarks import landmark_points, landmark_table
from talkinghead.synthetic.motion import Motion, make_motion
from talkinghead.synthetic.person import make_person, neutral_vertices
from talkinghead.synthetic.renderer import Renderer
from talkinghead.synthetic.scene import Head, Picture, film, make_head, move, rotations

ROOT = Path(__file__).parents[2]
TINY = {
    "train": 2,
    "val": 1,
    "test": 2,
    "frames_per_clip": 3,
    "eval_frames": 4,
    "image_size": 32,
    "people_per_shard": 1,
}
LEFT_LID, RIGHT_LID = ([43, 44], [47, 46]), ([37, 38], [41, 40])


@pytest.fixture(scope="module")
def body() -> Body:
    """Built once per machine (some 20 seconds), then read from the cache."""
    return load_body()


@pytest.fixture(scope="module")
def head(body: Body) -> Head:
    return make_head(make_person(3, body), body, 128)


def still(body: Body, actions: list[dict[str, float]], pose: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Motion:
    """One frame per set of facial actions."""
    names = body.action_names.tolist()
    values = np.array([[shape.get(name, 0.0) for name in names] for shape in actions], np.float32)
    return Motion(
        values, np.tile(np.array(pose, np.float32), (len(actions), 1)), np.zeros((len(actions), 3), np.float32)
    )


def draw(head: Head, motion: Motion, size: int = 64) -> Picture:
    return film(head, motion, Renderer(size), room=1)


def test_same_seed_same_person_and_other_seed_other_person(body: Body) -> None:
    assert make_person(7, body) == make_person(7, body)
    people = [make_person(seed, body) for seed in range(40)]
    assert len({p.hair_style for p in people}) >= 6
    assert np.std([np.mean(p.skin) for p in people]) > 0.08
    faces = np.stack([neutral_vertices(p, body) for p in people])
    centred = faces[:, body.follow > 0.99] - faces[:, body.follow > 0.99].mean(1, keepdims=True)
    apart = np.linalg.norm(centred[:, None] - centred[None], axis=-1).mean(-1)
    assert np.median(apart[~np.eye(40, dtype=bool)]) > 0.003  # metres, averaged over the head


def test_a_clip_is_a_pure_function_of_its_plan() -> None:
    plan = RenderPlan(image_size=32, supersampling=2, fps=5.0, seed=0, quality=95, device="cpu")
    clip = ClipPlan("train", person=1, mover=1, clip=0, video_index=1, frames=3)
    first, again = render_clip(clip, plan), render_clip(clip, plan)
    assert first.frames == again.frames
    assert first.meta == again.meta
    assert render_clip(replace(clip, person=2, mover=2), plan).frames != first.frames
    assert render_clip(replace(clip, clip=1), plan).frames != first.frames


def test_motion_stays_in_its_limits_and_is_smooth(body: Body) -> None:
    names = body.action_names.tolist()
    for seed in range(20):
        motion = make_motion(make_person(seed, body).personality, seed, 0, 750, 25.0, names)
        assert (np.abs(motion.pose) <= [45, 20, 15]).all()
        assert ((motion.actions >= 0) & (motion.actions <= 1)).all()
        assert np.abs(np.diff(motion.pose, axis=0)).max() < 12  # degrees per frame at 25 fps
        assert motion.actions[:, names.index("jawOpen")].max() > 0.15
        assert motion.actions[:, names.index("eyeBlinkLeft")].max() > 0.5  # in half a minute


def test_people_differ_in_temper(body: Body) -> None:
    names = body.action_names.tolist()
    spread = [make_motion(make_person(s, body).personality, s, 0, 500, 25.0, names).pose[:, 0].std() for s in range(20)]
    assert max(spread) > 1.5 * min(spread)


def test_pose_signs() -> None:
    nose = np.array([0.0, -0.1, 0.0])
    turned = np.einsum("fij,j->fi", rotations(np.array([[30, 0, 0], [0, 15, 0], [0, 0, 10]], np.float32)), nose)
    top = rotations(np.array([[0, 0, 10]], np.float32))[0] @ np.array([0.0, 0.0, 0.1])
    assert turned[0, 0] > 0.04  # yaw: to the picture's right
    assert turned[1, 2] > 0.02  # pitch: up
    assert top[0] > 0.01  # roll: clockwise


def test_landmarks_are_in_dlibs_order_and_symmetric(body: Body) -> None:
    points = landmark_points(body.template[None], np.zeros(1), body.original_index)[0]
    x, z = points[:, 0], points[:, 2]
    assert (np.diff(x[:17]) > 0).all()  # jaw, from the picture's left to its right
    assert z[8] == z[:17].min()
    assert (np.diff(z[27:31]) < 0).all()  # nose bridge, downwards
    assert z[17:27].min() > z[36:48].max()  # brows above eyes
    assert x[36] < x[39] < x[42] < x[45]
    assert z[51] > z[62] > z[57]  # lips
    np.testing.assert_allclose(points * [-1, 1, 1], points[MIRROR], atol=0.003)
    np.testing.assert_allclose(landmark_table()[2].sum(-1), 1, atol=1e-5)


def test_eyes_close_and_the_mouth_opens(body: Body) -> None:
    blink = {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}
    for seed in range(6):
        someone = make_head(make_person(seed, body), body, 32)
        vertices = move(someone, still(body, [{}, blink, {"jawOpen": 1.0}]))
        calm, closed, wide = landmark_points(vertices, np.zeros(3), body.original_index)[..., 2]
        for upper, lower in (LEFT_LID, RIGHT_LID):
            gap = (calm[upper] - calm[lower]).mean()
            assert abs((closed[upper] - closed[lower]).mean()) < 0.25 * gap
        assert wide[62] - wide[66] > (calm[62] - calm[66]) + 0.012  # metres


def test_gaze_moves_the_iris(body: Body, head: Head) -> None:
    """Dark pixels of the left eye move to where the person looks."""
    dark = replace(head.person, iris=(0.1, 0.06, 0.03))
    someone = make_head(dark, body, 128)
    right = {"eyeLookOutLeft": 1.0, "eyeLookInRight": 1.0}
    left = {"eyeLookInLeft": 1.0, "eyeLookOutRight": 1.0}
    picture = draw(someone, still(body, [right, left]), size=256)
    columns = []
    for frame, points in zip(picture.frames, picture.landmarks, strict=True):
        (x0, y0), (x1, y1) = points[42:48].min(0).astype(int), points[42:48].max(0).astype(int) + 1
        patch = frame[y0:y1, x0:x1].astype(float).mean(-1)
        weight = np.clip(np.percentile(patch, 35) - patch, 0, None)
        columns.append((weight * np.arange(patch.shape[1])).sum() / weight.sum() / patch.shape[1])
    assert columns[0] > columns[1] + 0.1


def test_pictures_show_a_head_before_a_background(head: Head, body: Body) -> None:
    picture = draw(head, still(body, [{}, {"jawOpen": 1.0}]))
    assert picture.frames.shape == (2, 64, 64, 3)
    assert picture.frames.dtype == np.uint8
    extent = np.ptp(picture.landmarks, axis=1).max(1) / 64
    assert ((extent > 0.42) & (extent < 0.64)).all()  # VoxCeleb2's margin, as in its own crops
    calm, wide = picture.frames.astype(int)
    mouth = picture.landmarks[0, 48:].mean(0).astype(int)
    near = (slice(mouth[1] - 6, mouth[1] + 8), slice(mouth[0] - 8, mouth[0] + 8))
    assert np.abs(calm - wide)[near].mean() > 8
    assert np.abs(calm - wide)[:8].mean() < 1  # nothing else moves


@pytest.mark.parametrize("size", [64, 128])
def test_landmarks_lie_on_the_same_place_at_every_size(head: Head, body: Body, size: int) -> None:
    motion = still(body, [{}], pose=(15.0, 5.0, -5.0))
    points = draw(head, motion, size).landmarks
    reference = draw(head, motion, 32).landmarks
    np.testing.assert_allclose((points + 0.5) / size, (reference + 0.5) / 32, atol=1e-4)


def read(directory: Path, file: str) -> dict[str, dict]:
    """Clips of a shard: key -> {"json", "landmarks", "frames"}."""
    clips: dict[str, dict] = {}
    with tarfile.open(directory / file) as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            content = tar.extractfile(member).read()
            clip = clips.setdefault(key, {"frames": []})
            if suffix == "json":
                clip["json"] = json.loads(content)
            elif suffix == "landmarks.npy":
                clip["landmarks"] = np.load(io.BytesIO(content))
            else:
                clip["frames"].append(content)
    return clips


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("heads")
    SyntheticDataset(**TINY, workers=1)(directory)
    return directory


def test_data_set_is_ordinary_shards_with_people_apart(rendered: Path) -> None:
    info = DatasetInfo.load(rendered)
    assert {name: (s.clips, s.frames, s.videos, s.identities) for name, s in info.splits.items()} == {
        "train": (2, 6, 2, 2),
        "val": (1, 4, 1, 1),
        "test": (2, 8, 2, 2),
        "cross": (2, 8, 2, 2),
    }
    people = {}
    for split in ("train", "val", "test"):
        clips = [clip for shard in info.splits[split].shards for clip in read(rendered, shard.file).values()]
        people[split] = {clip["json"]["identity"] for clip in clips}
        assert sorted(clip["json"]["video_index"] for clip in clips) == list(range(len(clips)))
        for clip in clips:
            meta = clip["json"]
            assert clip["landmarks"].shape == (len(clip["frames"]), 68, 2)
            assert np.array(meta["actions"]).shape == (len(clip["frames"]), len(meta["action_names"]))
            assert np.array(meta["pose"]).shape == (len(clip["frames"]), 3)
            assert simplejpeg.decode_jpeg(clip["frames"][0]).shape == (32, 32, 3)
    assert not people["train"] & people["test"]
    assert not people["train"] & people["val"]
    assert person_seed(0, "train", 199) < person_seed(0, "val", 0) < person_seed(0, "test", 0)


def test_cross_clips_have_the_movers_motion_and_the_persons_looks(rendered: Path) -> None:
    tests = read(rendered, "test/000000.tar") | read(rendered, "test/000001.tar")
    cross = read(rendered, "cross/000000.tar")["test00000_by_test00001"]
    meta, mover, person = cross["json"], tests["test00001_0"]["json"], tests["test00000_0"]["json"]
    assert (meta["identity"], meta["motion_identity"]) == ("test00000", "test00001")
    assert meta["pose"] == mover["pose"]
    assert meta["actions"] == mover["actions"]
    assert meta["pose"] != person["pose"]
    corner = [
        simplejpeg.decode_jpeg(c["frames"][0])[:4, :4].astype(float).mean() for c in (cross, tests["test00000_0"])
    ]
    assert abs(corner[0] - corner[1]) < 20  # the person's own room


def test_complete_data_set_is_left_alone_and_other_parameters_are_refused(rendered: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in rendered.rglob("*")}
    SyntheticDataset(**TINY, workers=1)(rendered)
    assert {path: path.stat().st_mtime_ns for path in rendered.rglob("*")} == before
    with pytest.raises(ValueError, match="image_size: 32 there, 64 asked"):
        SyntheticDataset(**{**TINY, "image_size": 64})(rendered)


def test_who_looks_at_the_test_people_alone_compares_those(rendered: Path, tmp_path: Path) -> None:
    SyntheticDataset(**{**TINY, "train": 9}).check(rendered, ["test"])
    SyntheticDataset(**{**TINY, "train": 9}).check(rendered, ["test", "cross"])
    with pytest.raises(ValueError, match=r"people: \{'train': 2, .* there"):
        SyntheticDataset(**{**TINY, "train": 9}).check(rendered)
    with pytest.raises(ValueError, match=r"people: \{'test': 2\} there, \{'test': 5\} asked"):
        SyntheticDataset(**{**TINY, "test": 5}).check(rendered, ["test"])
    with pytest.raises(ValueError, match="cross_clips: 1 there, 0 asked"):
        SyntheticDataset(**{**TINY, "cross_clips": 0}).check(rendered, ["cross"])
    for content in ("{", "[1]", '{"people": 3}'):
        (tmp_path / "render.json").write_text(content)
        with pytest.raises(ValueError, match=str(tmp_path)):
            SyntheticDataset(**TINY).check(tmp_path, ["test"])


def test_interrupted_render_ends_with_the_same_bytes(rendered: Path, tmp_path: Path) -> None:
    """Stopped before its last shards, one damaged since, killed while writing one; finished by two worker processes."""
    SyntheticDataset(**TINY, workers=1)(tmp_path)
    for name in ("dataset.json", "train/000001.tar", "cross/000000.tar"):
        (tmp_path / name).unlink()
    (tmp_path / "train" / ".000001.tar.99.tmp").write_bytes(b"half a shard")
    (tmp_path / "train/000000.tar").write_bytes(b"no tar")
    SyntheticDataset(**TINY, workers=2)(tmp_path)
    assert (tmp_path / "dataset.json").read_bytes() == (rendered / "dataset.json").read_bytes()
    for shard in rendered.rglob("*.tar"):
        assert (tmp_path / shard.relative_to(rendered)).read_bytes() == shard.read_bytes()


def test_directory_of_another_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match="was not rendered"):
        SyntheticDataset(**TINY)(tmp_path)


def test_a_shape_is_what_its_lines_say(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "x.target.gz", "wt") as file:
        file.write("2 .125 -0.5 1e-3\n0 1 2 3\n")
    shape = read_shape(tmp_path / "x.target.gz", 4, torch.float32)
    assert shape.tolist() == [[1, 2, 3], [0, 0, 0], [0.125, -0.5, float(np.float32(1e-3))], [0, 0, 0]]


def test_who_builds_the_head_model_sees_its_shapes_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The body itself is anny's work; here it is a stand-in that reads three shapes, and is stopped."""
    read: list[Path] = []
    world = SimpleNamespace(apply=lambda shape: shape)
    monkeypatch.setattr(body_module, "read_shape", lambda path, *_: read.append(path) or torch.zeros(4, 3))
    before = full_model.load_blend_shape

    def construct() -> None:
        for n in range(3):
            full_model.load_blend_shape(f"{n}.target.gz", 4, world, torch.float32)
        raise KeyboardInterrupt

    monkeypatch.setattr(body_module, "_construct_anny", construct)
    ticks: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        body_module.build_body(lambda: ticks.append(len(read)))
    assert ticks == [1, 2, 3]
    assert full_model.load_blend_shape is before


def test_the_renderer_starts_without_a_word() -> None:
    code = "from talkinghead.synthetic.renderer import Renderer; Renderer(16); import sys; print('on', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("", "on\n")


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.build\.seed=-1: a whole number"):
        SyntheticDataset(**{**TINY, "seed": -1})
    with pytest.raises(ValueError, match="cross_clips=2"):
        SyntheticDataset(**{**TINY, "cross_clips": 2})
    with pytest.raises(ValueError, match="at least one"):
        SyntheticDataset(**{**TINY, "train": 0})


def test_dlib_finds_the_faces_where_the_landmarks_say(body: Body) -> None:
    """People that the points were not fitted to, within 20 degrees of frontal."""
    dlib = pytest.importorskip("dlib")
    models = pytest.importorskip("face_recognition_models")
    detector, predictor = dlib.get_frontal_face_detector(), dlib.shape_predictor(models.pose_predictor_model_location())
    renderer, found, errors = Renderer(160), 0, []
    for seed in range(20):
        someone = make_head(make_person(seed, body), body, 256)
        motion = make_motion(someone.person.personality, seed, 0, 2, 1.0, body.action_names.tolist())
        motion = replace(motion, pose=motion.pose.clip(-20, 20))
        picture = film(someone, motion, renderer, room=seed)
        for frame, points in zip(picture.frames, picture.landmarks, strict=True):
            boxes = detector(frame, 1)
            found += bool(boxes)
            if boxes:
                shape = predictor(frame, max(boxes, key=lambda box: box.area())).parts()
                distance = np.linalg.norm(np.array([(p.x, p.y) for p in shape]) - points, axis=1).mean()
                errors.append(distance / interocular(points[None])[0])
    assert found >= 38  # of 40
    assert np.mean(errors) < 0.06
