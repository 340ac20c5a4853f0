"""Identity: alignment against scikit-image, embeddings against stand-ins and a real ONNX file, dlib on real people."""

import functools
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from skimage import data as pictures
from skimage.transform import SimilarityTransform

from talkinghead import pretrained
from talkinghead.metrics.identity import (
    ARCFACE_POINTS,
    ArcFace,
    DlibIdentity,
    IdentitySimilarity,
    align,
    find_arcface,
    find_dlib_identity,
    five_points,
    similarity_transform,
)
from talkinghead.metrics.landmarks import find_detector
from talkinghead.metrics.suite import ImageMetrics

SHARED = Path(__file__).parents[3] / "shared"
FIVE = [*range(36, 48), 30, 48, 54]  # the landmarks that ArcFace's five points are made of


@functools.cache
def face(size: int) -> np.ndarray:
    """A real face of the public domain."""
    return cv2.resize(pictures.astronaut()[0:220, 120:340], (size, size), interpolation=cv2.INTER_AREA)


def as_images(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def points_at(five: np.ndarray) -> np.ndarray:
    """68 points whose eyes, nose and mouth corners are these five."""
    points = np.zeros((68, 2), np.float32)
    points[36:42], points[42:48], points[30], points[48], points[54] = five
    return points


class MeanColour:
    """A recogniser whose embedding is the mean colour."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: np.ndarray, points: np.ndarray) -> np.ndarray:
        self.calls += 1
        return images.mean(axis=(1, 2)).astype(np.float32)


class Session:
    """An ONNX session that keeps what it was fed."""

    def __init__(self, batch: int | str | None = None) -> None:
        self.batch = batch
        self.fed: list[np.ndarray] = []

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="data", shape=[self.batch, 3, 112, 112])]

    def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.fed.append(feed["data"])
        return [feed["data"].mean((2, 3))]


def test_similarity_transform_agrees_with_skimage() -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        source = random.uniform(0, 200, (5, 2)).astype(np.float32)
        target = ARCFACE_POINTS + random.normal(0, 3, (5, 2)).astype(np.float32)
        reference = SimilarityTransform.from_estimate(source, target)
        assert np.allclose(similarity_transform(source, target), reference.params[:2], atol=1e-6)


def test_alignment_undoes_turn_scale_and_shift() -> None:
    picture, turn = face(112), SimilarityTransform(scale=2, rotation=0.3, translation=(90, 20))
    large = cv2.warpAffine(picture, turn.params[:2], (360, 360), flags=cv2.INTER_CUBIC)
    points = points_at(turn(ARCFACE_POINTS).astype(np.float32))
    difference = np.abs(align(large, points).astype(float) - picture)[8:-8, 8:-8]
    assert difference.mean() < 3
    assert np.allclose(five_points(points), turn(ARCFACE_POINTS), atol=1e-4)


@pytest.mark.parametrize(("batch", "sizes"), [(None, [2]), ("batch", [2]), (1, [1, 1])])
def test_arcface_is_fed_normalised_rgb_in_batches_where_the_file_takes_them(
    batch: int | str | None, sizes: list[int]
) -> None:
    session = Session(batch)
    images = np.zeros((2, 112, 112, 3), np.uint8)
    images[0, ..., 0] = 255
    embeddings = ArcFace(session)(images, np.stack([points_at(ARCFACE_POINTS)] * 2))
    assert embeddings.tolist() == [[1, -1, -1], [-1, -1, -1]]
    assert [part.shape for part in session.fed] == [(size, 3, 112, 112) for size in sizes]
    assert session.fed[0].dtype == np.float32


def test_similarity_by_hand() -> None:
    x = torch.full((2, 3, 4, 4), -1.0)
    x_hat = x.clone()
    x[:, 0] = 1  # red
    x_hat[0, 0], x_hat[1, :2] = 1, 1  # red; yellow
    values = IdentitySimilarity(MeanColour())(x_hat, x, torch.zeros(2, 68, 2))
    assert values.tolist() == pytest.approx([1, 0.5**0.5], abs=1e-5)


def test_embeddings_of_the_last_real_batch_are_kept() -> None:
    recognizer, points = MeanColour(), torch.zeros(2, 68, 2)
    similarity = IdentitySimilarity(recognizer)
    x, other = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    first = similarity(other, x, points)
    assert torch.equal(similarity(other, x.clone(), points), first)
    assert recognizer.calls == 3
    x += 0.1  # the kept ones are not those of a batch that was changed in place
    similarity(other, x, points)
    assert recognizer.calls == 5


def test_an_output_that_is_not_finite_shows() -> None:
    x = torch.rand(2, 3, 4, 4)
    x_hat = x.clone()
    x_hat[1, 0, 0, 0] = torch.nan
    values = IdentitySimilarity(MeanColour())(x_hat, x, torch.zeros(2, 68, 2))
    assert values.isnan().tolist() == [False, True]


def test_suite_measures_identity_like_everything_else() -> None:
    metrics = ImageMetrics(
        similarities={"csim_colour": IdentitySimilarity(MeanColour(), every=2), "csim": None},
        distances={"grey": lambda x_hat, x: (x_hat - x).mean((1, 2, 3))},
    )
    x, points = torch.rand(11, 3, 16, 16), torch.zeros(11, 68, 2)
    x_hat = x.flip(0)
    values = metrics.measure(x_hat, x, points)
    assert {name: len(value) for name, value in values.items()} == {
        "ssim": 11, "psnr": 11, "grey": 11, "csim_colour": 6,
    }  # fmt: skip
    assert torch.allclose(values["grey"], (x_hat - x).mean((1, 2, 3)))  # more images than one batch of a distance
    assert metrics.fresh().compute()["csim_colour"].isnan()
    assert metrics.compute()["ssim"].isnan()  # measuring adds nothing
    metrics.update(x_hat, x, points)
    computed = {name: value.item() for name, value in metrics.compute().items()}
    assert metrics.average(values) == pytest.approx(computed, abs=1e-6)


def test_missing_arcface_is_left_out_with_one_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv(pretrained.WEIGHTS_VARIABLE, str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(pretrained, "_NOTICED", set())
    with caplog.at_level(logging.WARNING):
        assert find_arcface() is None
        assert find_arcface() is None
    assert len(caplog.records) == 1
    assert "csim" in caplog.text
    assert "buffalo_l" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"nowhere\.onnx"):
        find_arcface(path="nowhere.onnx")


def field(number: int, content: bytes | int) -> bytes:
    """A field of a protocol buffer: a length and bytes, or a small number."""
    if isinstance(content, int):
        return bytes([number << 3, content])
    length = bytes([len(content)]) if len(content) < 128 else bytes([len(content) & 127 | 128, len(content) >> 7])
    return bytes([number << 3 | 2]) + length + content


def onnx_of_mean_colour(size: int) -> bytes:
    """An ONNX file, [1, 3, size, size] -> mean of each channel [1, 3]."""

    def value(name: bytes, *shape: int) -> bytes:
        dims = b"".join(field(1, field(1, length)) for length in shape)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))

    def node(source: bytes, target: bytes, operation: bytes) -> bytes:
        return field(1, source) + field(2, target) + field(4, operation)

    nodes = field(1, node(b"x", b"m", b"GlobalAveragePool")) + field(1, node(b"m", b"e", b"Flatten"))
    graph = nodes + field(2, b"g") + field(11, value(b"x", 1, 3, size, size)) + field(12, value(b"e", 1, 3))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


def test_arcface_file_is_found_where_insightface_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv(pretrained.WEIGHTS_VARIABLE, str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    source = replace(pretrained.SOURCES["arcface"], sha256="")
    monkeypatch.setitem(pretrained.SOURCES, "arcface", source)
    path = tmp_path / ".insightface/models/buffalo_l" / source.file
    path.parent.mkdir(parents=True)
    path.write_bytes(onnx_of_mean_colour(112))
    similarity = find_arcface(threads=1)
    assert similarity is not None
    picture = np.full((112, 112, 3), (255, 128, 0), np.uint8)
    embedding = similarity.recognizer(picture[None], points_at(ARCFACE_POINTS)[None])
    assert embedding[0] == pytest.approx([1, 0.004, -1], abs=1e-3)
    pair = similarity.recognizer(np.stack([picture, picture[..., ::-1]]), np.stack([points_at(ARCFACE_POINTS)] * 2))
    assert pair[1] == pytest.approx(embedding[0][::-1], abs=1e-3), "a file of one picture at a time"
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(onnx_of_mean_colour(96))
    with pytest.raises(ValueError, match="112"):
        find_arcface(str(wrong))


def test_dlib_identity_knows_a_face_and_follows_its_landmarks() -> None:
    pytest.importorskip("dlib")
    similarity = find_dlib_identity()
    assert similarity is not None
    picture = face(96)
    found = find_detector()(picture)
    shifted = np.roll(picture, 10, axis=1)
    points = torch.from_numpy(np.stack([found] * 3))
    noise = np.random.default_rng(0).integers(0, 255, picture.shape).astype(np.uint8)
    blurred = cv2.GaussianBlur(picture, (0, 0), 1)
    x_hat = as_images(picture, blurred, noise)
    same, soft, other = similarity(x_hat, as_images(*[picture] * 3), points).tolist()
    assert same == pytest.approx(1, abs=1e-5)
    assert 1 > soft > other + 0.1
    moved = DlibIdentity()(shifted[None], found[None] + np.float32([10, 0]))
    assert moved @ DlibIdentity()(picture[None], found[None]).T / np.square(moved).sum() == pytest.approx(1, abs=0.02)


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "faces").is_dir(), reason="the real clips are not here")
def test_dlib_identity_tells_real_people_apart() -> None:
    pytest.importorskip("dlib")
    av = pytest.importorskip("av")
    images, points = [], []
    for folder in sorted((SHARED / "faces/test/videos").iterdir())[:6]:
        video = sorted(folder.glob("*.mp4"))[0]
        landmarks = np.load(SHARED / "faces/test/landmarks" / folder.name / f"{video.stem}.npy").astype(np.float32)
        for n, frame in enumerate(av.open(str(video)).decode(video=0)):
            if n in (0, 40):
                images.append(cv2.resize(frame.to_ndarray(format="rgb24"), (64, 64), interpolation=cv2.INTER_AREA))
                points.append((landmarks[n] + 0.5) / 4 - 0.5)
            if n == 40:
                break
    embeddings = DlibIdentity()(np.stack(images), np.stack(points))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = embeddings[0::2] @ embeddings[1::2].T
    same, different = np.diag(cosines), cosines[~np.eye(len(cosines), dtype=bool)]
    assert same.min() > different.max()
    assert same.mean() > different.mean() + 0.08
