"""FaceNet: its data, its training, its file, and what the shipped weights can do."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import pytorch_lightning as L
import simplejpeg
import torch
from safetensors import safe_open

from talkinghead.data.labelled_frames import Faces, LabelledFrames
from talkinghead.data.shards import Clip, DatasetInfo, Split, write_shard
from talkinghead.learners.facenet import (
    FaceDataModule,
    FaceNetLearner,
    arcface,
    augment,
    correlation,
    swap_background,
    to_images,
    verification_auc,
)  # fmt: skip
from talkinghead.losses import activation_distance
from talkinghead.models.facenet import FaceNet, FaceNetFeatures, facenet_synthetic, fold, load_facenet, to_bytes
from talkinghead.pretrained import SOURCES, find
from talkinghead.storage import digest

SIZE, FRAMES = 64, 6


def draw(person: int, place: tuple[float, float], smile: float) -> tuple[bytes, np.ndarray]:
    """A disc with a mouth: a stand-in for a rendered head. JPEG and landmarks."""
    rng = np.random.default_rng(person)
    canvas = np.full((SIZE, SIZE, 3), rng.integers(0, 256, 3), np.uint8)
    centre = (int(place[0]), int(place[1]))
    cv2.circle(canvas, centre, 20, rng.integers(0, 256, 3).tolist(), -1)
    cv2.ellipse(canvas, (centre[0], centre[1] + 8), (8, 1 + int(6 * smile)), 0, 0, 360, (200, 20, 20), -1)
    angles = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points = np.stack([centre[0] + 20 * np.cos(angles), centre[1] + 20 * np.sin(angles)], 1).astype(np.float32)
    return simplejpeg.encode_jpeg(canvas, 95), points


def write_faces(root: Path, people: dict[str, range]) -> Path:
    """A tiny data set in the shape of the synthetic one."""
    splits = {}
    for split, numbers in people.items():
        clips = []
        for person in numbers:
            rng = np.random.default_rng(100 + person)
            smiles = rng.random(FRAMES)
            drawn = [draw(person, tuple(rng.uniform(24, 40, 2)), smile) for smile in smiles]
            meta = {
                "video": f"v{person}", "identity": f"p{person}", "clip": "0", "video_index": person, "fps": 25.0,
                "actions": [[float(s)] for s in smiles], "action_names": ["smile"],
            }  # fmt: skip
            clips.append(Clip(f"p{person}", meta, np.stack([p for _, p in drawn]), [j for j, _ in drawn]))
        entry = write_shard(root, f"{split}/000000.tar", clips)
        splits[split] = Split([entry], len(clips), len(clips) * FRAMES, len(clips), len(clips))
    DatasetInfo("discs", splits, SIZE, 25.0, FRAMES, {"name": "exact"}, {}, "test").save(root)
    return root


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("discs"), {"train": range(8), "val": range(20, 24)})


def test_frames_carry_person_landmarks_and_actions(faces: Path) -> None:
    frames = LabelledFrames(str(faces), "val", SIZE, stride=2)
    assert len(frames) == 4 * FRAMES // 2
    assert frames.identities == ["p20", "p21", "p22", "p23"]
    batch = frames.__getitems__([0, 5])
    assert batch.images.shape == (2, 3, SIZE, SIZE)
    assert batch.identities.tolist() == [0, 1]
    centre = batch.landmarks[0].mean(0) * SIZE - 0.5  # in pixels
    inside = batch.images[0, :, round(centre[1].item()), round(centre[0].item())]
    assert (inside.float() - torch.tensor(np.random.default_rng(20).integers(0, 256, 6)[3:])).abs().max() < 12
    half = LabelledFrames(str(faces), "val", SIZE // 2)
    torch.testing.assert_close(half.faces.landmarks[::2], frames.faces.landmarks, atol=1e-5, rtol=0)


def test_a_data_set_without_actions_is_refused(tmp_path: Path) -> None:
    jpeg, points = draw(0, (32, 32), 0)
    entry = write_shard(tmp_path, "train/0.tar", [Clip("a", {"identity": "a"}, points[None], [jpeg])])
    DatasetInfo("plain", {"train": Split([entry], 1, 1, 1, 1)}, SIZE, 25.0, 1, {}, {}, "test").save(tmp_path)
    with pytest.raises(ValueError, match="synthetic heads only"):
        LabelledFrames(str(tmp_path), "train", SIZE)
    with pytest.raises(ValueError, match="no split 'val'"):
        LabelledFrames(str(tmp_path), "val", SIZE)


def test_training_writes_a_network_that_learned(faces: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    output = tmp_path / "facenet.safetensors"
    learner = FaceNetLearner(
        32, {"identity": 1, "landmarks": 20, "actions": 2}, lr=1e-3, output=output, command="a test"
    )
    data = FaceDataModule(faces, SIZE, batch_size=16, steps_per_epoch=60)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(learner, datamodule=data)
    network = load_facenet(output)
    train = data.train.faces
    with torch.no_grad():
        face = network(train.images.float() / 127.5 - 1)
    assert verification_auc(face.embedding, train.identities, torch.arange(len(train.videos))) > 0.9
    constant = (train.landmarks - train.landmarks.mean(0)).abs().mean()
    assert (face.landmarks - train.landmarks).abs().mean() < 0.95 * constant
    assert not any(p.requires_grad for p in network.parameters())


def test_folding_keeps_the_function() -> None:
    torch.manual_seed(1)
    network = FaceNet(16, 3, channels=(8, 8, 8, 8, 8))
    x = torch.rand(4, 3, 64, 64) * 2 - 1
    for _ in range(3):
        network(x * torch.rand(1) + torch.rand(1))  # moves the running statistics
    network.eval()
    for before, after in zip(network(x), fold(network)(x), strict=True):
        torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-3)


def test_file_round_trip_and_wrong_file(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = FaceNet(16, 3).eval()
    path = tmp_path / "net.safetensors"
    path.write_bytes(to_bytes(network, {"command": "none"}))
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(load_facenet(path)(x).embedding, network(x).embedding, atol=2e-3, rtol=0)
    other = tmp_path / "other.safetensors"
    other.write_bytes(__import__("safetensors.torch").torch.save({"a": torch.zeros(1)}))
    with pytest.raises(ValueError, match="does not hold a FaceNet"):
        load_facenet(other)


def test_augmentation_moves_landmarks_with_the_picture() -> None:
    torch.manual_seed(3)
    points = torch.rand(8, 68, 2) * 0.5 + 0.25
    x = torch.full((8, 3, 64, 64), -1.0)
    rows, columns = (points[:, 0, 1] * 64).long(), (points[:, 0, 0] * 64).long()
    for n in range(8):
        x[n, :, rows[n] - 1 : rows[n] + 2, columns[n] - 1 : columns[n] + 2] = 1
    moved, places = augment(x, points)
    found = 0
    for n in range(8):
        at = moved[n].mean(0).flatten().argmax()
        spot = torch.stack([at % 64, at // 64]) / 64
        found += bool((spot - places[n, 0]).abs().max() < 2.5 / 64)
    assert found == 8
    assert (places[:, 0] - points[:, 0]).abs().max() > 0.05


def test_surroundings_change_and_the_face_stays() -> None:
    x = torch.arange(16).view(16, 1, 1, 1).expand(16, 3, 64, 64) / 16
    landmarks = 0.5 + 0.15 * torch.stack([torch.linspace(-1, 1, 68), torch.linspace(1, -1, 68)], dim=1).expand(
        16, 68, 2
    )
    mixed = swap_background(x, landmarks)
    torch.testing.assert_close(mixed[:, :, 30:34, 30:34], x[:, :, 30:34, 30:34], atol=0.05, rtol=0)
    swapped = (mixed[:, :, 0, 0] - x[:, :, 0, 0]).abs().amax(dim=1) > 0.03
    assert 2 < swapped.sum() < 14


def test_arcface_margin_makes_the_right_person_harder() -> None:
    torch.manual_seed(4)
    embedding = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    people, identities = torch.randn(5, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    plain = arcface(embedding, people, identities, 0.0, 16.0)
    cosine = embedding @ torch.nn.functional.normalize(people, dim=1).T
    torch.testing.assert_close(plain, torch.nn.functional.cross_entropy(16 * cosine, identities))
    assert arcface(embedding, people, identities, 0.3, 16.0) > plain


def test_verification_auc_by_hand() -> None:
    corners = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    embeddings = torch.nn.functional.normalize(corners, dim=1)
    videos = torch.arange(4)
    assert verification_auc(embeddings, torch.tensor([0, 0, 1, 1]), videos) == 1
    assert verification_auc(embeddings, torch.tensor([0, 1, 0, 1]), videos) < 0.5
    same_video = torch.tensor([0, 0, 1, 2])  # the pair (0, 1) does not count
    assert verification_auc(embeddings, torch.tensor([0, 0, 1, 1]), same_video) == 1
    assert verification_auc(embeddings, torch.tensor([1, 0, 1, 1]), same_video) < 1


def test_correlation_of_actions_that_occur() -> None:
    truth = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.0]])
    found = torch.tensor([[0.1, 1.0, 0.7], [0.3, 0.5, 0.1], [0.1, 0.0, 0.4]])
    torch.testing.assert_close(correlation(found, truth), torch.tensor(0.0), atol=1e-6, rtol=0)  # (1 - 1) / 2
    torch.testing.assert_close(correlation(2 * truth + 1, truth), torch.tensor(1.0))


def test_features_are_frozen_and_let_gradient_through() -> None:
    features = FaceNetFeatures(FaceNet(16, 3, normalise=False)).train()
    assert not features.network.training
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    activations = features(x)
    assert [a.shape[-1] for a in activations] == [64, 32, 16, 8, 4]
    sum(a.sum() for a in activations).backward()
    assert x.grad is not None
    assert all(p.grad is None for p in features.parameters())


# ---- The shipped weights, on tests/synthetic_heads: eight rendered people in no training set, two rooms of four frames
# each (SyntheticDataset(val=8, clips_per_person=2, eval_frames=4, image_size=64, fps=1, seed=1)).
HEADS = Path(__file__).parents[1] / "synthetic_heads"
PEOPLE, ROOMS, POSES = 8, 2, 4
GOLDEN = 3.60393


@pytest.fixture(scope="module")
def heads() -> Faces:
    return LabelledFrames(str(HEADS), "val", SIZE).faces


def blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.from_numpy(
        np.stack([cv2.GaussianBlur(i.permute(1, 2, 0).numpy(), (0, 0), sigma).transpose(2, 0, 1) for i in x])
    )


def shifted(x: torch.Tensor, pixels: int) -> torch.Tensor:
    return torch.nn.functional.pad(x, (pixels, 0, 0, 0), mode="replicate")[..., :SIZE]


@torch.no_grad()
def test_shipped_network_orders_distortions(heads: Faces) -> None:
    """More blur, shift or colour: further away. The same person in another pose is nearer than another person."""
    features = facenet_synthetic()
    frames = to_images(heads).unflatten(0, (PEOPLE, ROOMS * POSES))
    x = frames[:, 0]

    def distance(x_hat: torch.Tensor) -> float:
        return activation_distance(features, x, x_hat).item()

    def increasing(distances: list[float]) -> bool:
        return all(a < 0.9 * b for a, b in pairwise(distances))

    assert increasing([distance(blurred(x, sigma)) for sigma in (0.5, 1, 2, 4)])
    assert increasing([distance(shifted(x, pixels)) for pixels in (1, 2, 4, 8)])
    assert increasing([distance(x + colour) for colour in (0.05, 0.1, 0.3)])
    other_pose = [distance(frames[:, pose]) for pose in range(1, POSES)]
    other_person = [distance(x.roll(n, 0)) for n in range(1, PEOPLE)]
    assert max(other_pose) < 0.8 * min(other_person)
    assert distance(blurred(x, 1)) > 0.1 * np.mean(other_pose)  # sharpness is not free


@torch.no_grad()
def test_shipped_network_knows_unseen_people_and_their_faces(heads: Faces) -> None:
    face = load_facenet()(to_images(heads))
    assert verification_auc(face.embedding, heads.identities, heads.videos) > 0.85
    eyes = (heads.landmarks[:, 36] - heads.landmarks[:, 45]).norm(dim=-1)
    error = (face.landmarks - heads.landmarks).norm(dim=-1).mean(dim=1) / eyes
    assert error.median() < 0.12


@torch.no_grad()
def test_golden_value_of_the_shipped_network(heads: Faces) -> None:
    """The scale that the weight in conf/loss/synthetic.yaml belongs to; first frames of the first two people."""
    images = to_images(heads)
    found = activation_distance(facenet_synthetic(), images[:1], images[8:9]).item()
    assert found == pytest.approx(GOLDEN, rel=1e-3)


def test_shipped_file_is_small_and_the_recorded_one() -> None:
    file = find("facenet_synthetic")
    assert file.stat().st_size <= 5_000_000
    assert digest(file) == SOURCES["facenet_synthetic"].sha256
    with safe_open(file, "pt") as stored:
        assert stored.metadata()["command"] == "python train.py experiment=facenet_synthetic"
