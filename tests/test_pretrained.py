"""Where pretrained networks are looked for, and the conversion of VGGFace."""

import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from talkinghead import pretrained
from talkinghead.models.backbones import VGG, VGG16_BLOCKS, vggface
from talkinghead.pretrained import Source, find
from talkinghead.tools import convert_vggface as oxford

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A weights folder, a hub cache and a server, all empty, and a network called `toy`."""
    folders = {name: tmp_path / name for name in ("weights", "hub/checkpoints", "server", "cwd")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.chdir(folders["cwd"])
    monkeypatch.delenv(pretrained.WEIGHTS_VARIABLE, raising=False)
    url = (folders["server"] / "toy.pth").as_uri()
    monkeypatch.setitem(pretrained.SOURCES, "toy", Source("toy.pth", url, DIGEST[:8], "some licence", 7))
    return folders


def put(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / "toy.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_explicit_path_then_folder_then_cache_then_download(places: dict[str, Path], monkeypatch) -> None:
    put(places["server"])
    cached = find("toy")  # downloaded into the cache
    assert cached == places["hub/checkpoints"] / "toy.pth"
    assert cached.read_bytes() == CONTENT
    assert put(places["cwd"] / "weights") == places["cwd"] / find("toy")  # ./weights is the default folder
    monkeypatch.setenv(pretrained.WEIGHTS_VARIABLE, str(places["weights"]))
    assert find("toy") == cached
    assert put(places["weights"]) == find("toy")
    other = put(places["server"].parent / "other")
    pretrained.set_weights_folder(other.parent)
    assert find("toy") == other
    mine = put(places["server"].parent / "mine", b"anything")
    assert find("toy", path=mine) == mine


def test_missing_file_is_one_clear_error(places: dict[str, Path]) -> None:
    with pytest.raises(FileNotFoundError) as error:
        find("toy")
    for part in ("toy.pth", "7 MB", "some licence", "file://", "loss=synthetic", "weights folder"):
        assert part in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth was given and does not exist"):
        find("toy", path="nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"vgg_face_caffe\.tar\.gz"):
        find("vggface")
    with pytest.raises(ValueError, match=r"known: .*vgg19_caffe"):
        find("vgg99")


def test_wrong_checksum_is_refused_and_nothing_is_left(places: dict[str, Path]) -> None:
    put(places["server"], b"an error page")
    with pytest.raises(FileNotFoundError, match="another file"):
        find("toy")
    assert list(places["hub/checkpoints"].iterdir()) == []
    damaged = put(places["weights"], b"half")
    pretrained.set_weights_folder(damaged.parent)
    with pytest.raises(ValueError, match="damaged"):
        find("toy")


def test_every_source_can_be_cited() -> None:
    for name, source in pretrained.SOURCES.items():
        assert source.licence, name
        assert source.megabytes > 0, name
        assert source.url or source.offline, name
        if source.url and source.sha256 and len(source.sha256) < 64:
            assert source.sha256 in source.file, f"{name}: the publisher's digits stand in the file name"


# ---- VGGFace. The writers below make files in Oxford's two formats.


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def caffemodel(arrays: list[np.ndarray], new_kind: bool) -> bytes:
    """Layers of a weight and a bias each, in the old or the new kind of layer message, with fields to skip."""
    net = message(1, b"VGG_FACE_16_layers")
    for weight, bias in zip(arrays[::2], arrays[1::2], strict=True):
        layer = message(4, b"conv") + varint(5 << 3) + varint(4)
        for array in (weight, bias):
            blob = varint(1 << 3) + varint(array.shape[0]) + message(5, array.astype("<f4").tobytes())
            layer += message(7 if new_kind else 6, blob)
        net += message(100 if new_kind else 2, layer)
    return net


class Torch7Writer:
    def __init__(self) -> None:
        self.out, self.count = io.BytesIO(), 0

    def put(self, layout: str, *values: float) -> None:
        self.out.write(struct.pack(f"<{layout}", *values))

    def string(self, text: str) -> None:
        self.put("i", len(text))
        self.out.write(text.encode())

    def start(self, kind: int, name: str | None = None) -> None:
        self.count += 1
        self.put("ii", kind, self.count)
        if name:
            self.string("V 1")
            self.string(name)

    def tensor(self, array: np.ndarray) -> None:
        """With an offset and a transposed storage, as Torch may leave it."""
        self.start(4, "torch.FloatTensor")
        turned = np.ascontiguousarray(array.T.astype("<f4"))
        strides = [stride // 4 for stride in turned.T.strides]
        self.put(f"i{2 * array.ndim + 1}q", array.ndim, *array.shape, *strides, 3)
        self.start(4, "torch.FloatStorage")
        self.put("q", array.size + 2)
        self.out.write(bytes(8) + turned.tobytes())

    def table(self, fields: dict) -> None:
        self.start(3)
        self.put("i", len(fields))
        for key, value in fields.items():
            if isinstance(key, int):
                self.put("id", 1, key)
            else:
                self.put("i", 2)
                self.string(key)
            self.value(value)

    def value(self, value: object) -> None:
        if isinstance(value, np.ndarray):
            self.tensor(value)
        elif isinstance(value, tuple):  # (class, fields)
            self.start(4, value[0])
            self.table(value[1])
        elif isinstance(value, dict):
            self.table(value)
        elif isinstance(value, bool):
            self.put("ii", 5, value)
        elif value is None:
            self.put("i", 0)
        else:
            self.put("id", 1, float(value))  # type: ignore[arg-type]


def torch7(arrays: list[np.ndarray]) -> bytes:
    modules = []
    for weight, bias in zip(arrays[::2], arrays[1::2], strict=True):
        modules.append(("nn.SpatialConvolution", {"padW": 1, "weight": weight, "bias": bias, "gradWeight": None}))
        modules.append(("nn.ReLU", {"inplace": True}))
    inner = ("nn.Sequential", {"modules": dict(enumerate(modules[4:], start=1))})
    writer = Torch7Writer()
    writer.value(("nn.Sequential", {"train": False, "modules": dict(enumerate([*modules[:4], inner], start=1))}))
    return writer.out.getvalue()


def small_arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in [(4, 3, 3, 3), (4,), (5, 4, 3, 3), (5,)] * 2]


@pytest.mark.parametrize("form", ["old", "new", "torch7"])
def test_both_formats_are_read_exactly(form: str) -> None:
    arrays = small_arrays()
    if form == "torch7":
        found = list(oxford.parse_torch7(torch7(arrays)))
    else:
        found = list(oxford.parse_caffemodel(caffemodel(arrays, new_kind=form == "new")))
    assert len(found) == len(arrays)
    for expected, array in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(expected, array.reshape(expected.shape))


def full_arrays() -> list[np.ndarray]:
    """Weights in VGGFace's shapes with the scale of Caffe's; a last layer that must be left out."""
    torch.manual_seed(0)
    state = VGG(VGG16_BLOCKS, [28], "caffe_face").state_dict()
    return [
        *(2 * value.numpy() for value in state.values()),
        np.zeros((2622, 8), np.float32),
        np.zeros(2622, np.float32),
    ]


def test_an_archive_becomes_a_backbone(tmp_path: Path) -> None:
    arrays = full_arrays()
    content = caffemodel(arrays, new_kind=False)
    archive = tmp_path / "renamed.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("vgg_face_caffe/VGG_FACE.caffemodel")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    output = tmp_path / "weights" / "vggface.safetensors"
    oxford.main([str(archive), str(output)])
    with safe_open(output, "pt") as stored:
        assert stored.metadata()["sha256_of_source"] == hashlib.sha256(content).hexdigest()
    pretrained.set_weights_folder(output.parent)
    backbone = vggface()
    np.testing.assert_array_equal(backbone.features[25 - 1].bias.numpy(), arrays[21])
    (tmp_path / "vgg_face_caffe.tar.gz").write_bytes(archive.read_bytes())
    with pytest.raises(ValueError, match="MD5"):
        oxford.convert(tmp_path / "vgg_face_caffe.tar.gz", output)


def test_what_is_not_vggface_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    for name, content, words in [
        ("small.caffemodel", caffemodel(small_arrays(), new_kind=False), "has shape"),
        ("empty.caffemodel", b"", "at least 26"),
        ("cut.caffemodel", caffemodel(small_arrays(), new_kind=False)[:-40], "cut short"),
        ("VGG_FACE.t7", torch7(small_arrays())[:200], "is the download complete"),
        ("page.t7", b"<!DOCTYPE html><html>", "not a Torch7 network"),
    ]:
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            oxford.convert(file, output)
    assert not output.exists()


def test_the_command_lists_a_set_and_says_how_to_get_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert pretrained.main(["meta_voxceleb", "--weights-dir", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    for name in pretrained.SETS["meta_voxceleb"]:
        assert f"the pretrained network {name!r} is missing" in text
        assert pretrained.SOURCES[name].file in text
    assert "784 MB in all; 4 of 4 are not here" in text
    assert pretrained.main(["meta_synthetic"]) == 0


def test_the_command_fetches_into_the_weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "fetch", lambda url, target, sha256: put(target.parent).rename(target))
    assert pretrained.main(["s3fd", "--download", "--weights-dir", str(tmp_path / "weights")]) == 0
    assert (tmp_path / "weights" / pretrained.SOURCES["s3fd"].file).is_file()


def test_one_damaged_file_does_not_hide_the_others(
    places: dict[str, Path], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(places["weights"], b"")
    assert pretrained.main(["toy", "facenet_synthetic", "--weights-dir", str(places["weights"])]) == 1
    told = capsys.readouterr()
    assert "toy.pth is damaged or another file" in told.err
    assert "1 of 2 are not here" in told.out
    (places["cwd"] / "file").touch()
    assert pretrained.main(["s3fd", "--download", "--weights-dir", str(places["cwd"] / "file")]) == 1
    assert "the download failed" in capsys.readouterr().err


def test_sets_name_known_networks_and_the_command_refuses_others(capsys: pytest.CaptureFixture) -> None:
    assert {name for names in pretrained.SETS.values() for name in names} <= set(pretrained.SOURCES)
    with pytest.raises(SystemExit):
        pretrained.main(["vgg91"])
    assert "there is no vgg91; there are voxceleb, meta_voxceleb" in capsys.readouterr().err
