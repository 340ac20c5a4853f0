"""A stranger's checkpoint is data: whatever its config says, nothing of it runs, in any verb."""

import copy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import talkinghead
from talkinghead.learners.checkpoints import content_in, load_weights, networks
from talkinghead.learners.episodic import learner_in
from talkinghead.learners.export import shrink
from talkinghead.learners.load import LoadedCheckpoint
from talkinghead.models.fsth import Embedder
from talkinghead.models.trusted import TARGETS, arguments_of, built, inside, section_of, trusted
from talkinghead.pretrained import WEIGHTS_VARIABLE
from talkinghead.reenactment.inputs import MODELS

SHIPPED = MODELS["fsth_64"]

ROOT = Path(__file__).parents[2]
S = ROOT / "talkinghead" / "reenactment" / "shipped"


def payloads(canary: Path) -> dict[str, Any]:
    """Values that run code where a config of a file is instantiated as it is."""
    run = {"_target_": "webdataset.gopen", "url": f"pipe:touch {canary}"}
    write = {
        "_target_": "pathlib.Path.write_text",
        "_args_": [{"_target_": "pathlib.Path", "_args_": [str(canary)]}, "x"],
    }
    return {
        "nested": {"_target_": "builtins.dict.get", "_args_": [{}, run, [32, 64, 128, 256]]},
        "write": write,
        "reader": {"_target_": "talkinghead.data.reader.open_local", "path": f"pipe:touch {canary}"},
        "load": {"_target_": "torch.load", "f": str(canary), "weights_only": False},
        "system": {"_target_": "os.system", "command": f"touch {canary}"},
        "partial": {"_target_": "os.system", "_partial_": True},
    }


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    return torch.load(SHIPPED, weights_only=True)


PLACES = [
    "model.embedder.channels",
    "model.generator",
    "loss.content",
    "loss.content.weights",
    "loss.content.backbones.random",
]


def crafted(shipped: dict[str, Any], place: str, value: Any, path: Path) -> Path:
    """The shipped checkpoint with another value at a place of its config."""
    checkpoint = {**shipped, "config": copy.deepcopy(shipped["config"])}
    *way, last = place.split(".")
    node = checkpoint["config"]
    for key in way:
        node = node[key]
    node[last] = value
    torch.save(checkpoint, path)
    return path


def use(path: Path) -> None:
    """All that is built of a checkpoint when a person is learned."""
    people = LoadedCheckpoint(path, {})
    assert people.size
    assert people.loss


@pytest.mark.parametrize("kind", sorted(payloads(Path())))
@pytest.mark.parametrize("place", PLACES)
def test_no_payload_runs(shipped: dict[str, Any], tmp_path: Path, kind: str, place: str) -> None:
    canary = tmp_path / "canary"
    path = crafted(shipped, place, payloads(canary)[kind], tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"refused|no such argument|only numbers|plain"):
        use(path)
    with pytest.raises(ValueError, match=r"refused|no such argument|only numbers|plain"):
        shrink(path, tmp_path / "small.ckpt")
    assert not canary.exists()
    assert not (tmp_path / "small.ckpt").exists()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model.image_size", 1_000_000), ("model.embedder.channels", [1_000_000] * 4), ("model.embedder.channels", []),
        ("model.embedder.channels", [32] * 10_000), ("model.generator.num_residual", 10**9), ("model.embedder", 7),
        ("model.generator.num_residual", 500), ("model.image_size", "${oc.env:HOME}"), ("model.image_size", None),
        ("model.embedder.pooling", "${oc.env:HOME}"), ("model.embedder.colour", 3), ("model.image_size", float("nan")),
        ("loss.content.backbones", [1]), ("loss", None), ("model", []), ("loss.weights", {"cnt": "x" * 10_000}),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_refused_in_one_line(
    shipped: dict[str, Any], tmp_path: Path, place: str, value: Any
) -> None:
    path = crafted(shipped, place, value, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"bad\.ckpt") as caught:
        use(path)
    assert "\n" not in str(caught.value)


def test_networks_that_could_not_work_together_are_refused_in_one_line(shipped: dict[str, Any], tmp_path: Path) -> None:
    """Each by itself is one of ours, and fits its weights."""
    model = shipped["config"]["model"]
    narrow = {**model["embedder"], "channels": [*model["embedder"]["channels"][:-1], 8]}
    state = {name: value for name, value in shipped["state_dict"].items() if not name.startswith("embedder.")}
    another = {f"embedder.{name}": value for name, value in built(narrow, "it").state_dict().items()}
    pixels = {"_target_": "talkinghead.models.backbones.Pixels"}
    as_generator = {f"generator.{name}": value for name, value in built(model["embedder"], "it").state_dict().items()}
    rest = {name: value for name, value in shipped["state_dict"].items() if not name.startswith("generator.")}
    for place, value, weights, told in (
        ("model.embedder", narrow, {**state, **another}, "e has 8 numbers in its E"),
        ("model.embedder", pixels, state, "model.embedder is no embedder"),
        ("model.generator", model["embedder"], {**rest, **as_generator}, "model.generator is no generator"),
        ("model.discriminator", model["embedder"], shipped["state_dict"], "model.discriminator cannot be built"),
        ("model.image_size", 128, shipped["state_dict"], "its model is for pictures of 128 px"),
        ("model.generator.image_size", 128, shipped["state_dict"], "its model is for pictures of 64 px"),
    ):
        bad = crafted({**shipped, "state_dict": weights, "ema": None}, place, value, tmp_path / "bad.ckpt")
        networks.cache_clear()
        inside.cache_clear()
        with pytest.raises(ValueError, match=told) as caught:
            use(bad)
        assert "\n" not in str(caught.value)
        with pytest.raises(talkinghead.InputError, match=told):
            talkinghead.load(bad)


@pytest.mark.parametrize("content", [
    7, "x", None, [1], {}, {"_target_": "talkinghead.models.backbones.Pixels"},
    {"_target_": "talkinghead.losses.ContentLoss", "backbones": {"laplacian": 3}, "weights": {"laplacian": 1}},
    {"_target_": "talkinghead.losses.ContentLoss", "backbones": {"a": {}}, "weights": {"a": 1}},
])  # fmt: skip
def test_a_loss_that_is_none_is_refused_in_one_line(shipped: dict[str, Any], tmp_path: Path, content: Any) -> None:
    bad = crafted(shipped, "loss.content", content, tmp_path / "bad.ckpt")
    for load in (lambda: LoadedCheckpoint(bad, {}).method(4), lambda: content_in(str(bad))):
        with pytest.raises(ValueError, match=r"bad\.ckpt.*loss") as caught:
            load()
        assert "\n" not in str(caught.value)


LEARNER = {
    "_target_": "talkinghead.learners.x2face.X2FaceLearner", "weights": {"l1": 1}, "validation_shots": [1],
    "embedder": {"_target_": "talkinghead.models.x2face.EmbeddingNetwork", "image_size": 32, "channels": [8] * 5},
    "driver": {"_target_": "talkinghead.models.x2face.DrivingNetwork", "image_size": 32, "channels": [8] * 5},
}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("embedder.channels", None), ("embedder.channels", "words"), ("embedder.channels", [-1, 8, 8, 8, 8]),
        ("weights", [1]), ("embedder.channels", [8192] * 5), ("driver", 3),
        ("embedder", {"_target_": "talkinghead.models.backbones.Pixels"}),
        ("content", {"_target_": "talkinghead.models.backbones.Pixels"}), ("weights", {"cnt": "x"}),
        ("_target_", "talkinghead.models.fsth.Embedder"), ("_target_", "os.system"), ("lr", {"a": 1}), ("betas", 0.5),
    ],
)  # fmt: skip
def test_a_baseline_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, place: str, value: Any) -> None:
    learner = built(trusted(LEARNER, "it"), "it")
    config = {"model": {"image_size": 32}, "learner": copy.deepcopy(LEARNER)}
    torch.save({"state_dict": learner.state_dict(), "config": config}, good := tmp_path / "good.ckpt")
    assert type(learner_in(str(good), {}, "checkpoints.x2face")) is type(learner)
    node: Any = config["learner"]
    *way, last = place.split(".")
    for key in way:
        node = node[key]
    node[last] = value
    torch.save({"state_dict": learner.state_dict(), "config": config}, bad := tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"bad\.ckpt") as caught:
        learner_in(str(bad), {}, "checkpoints.x2face")
    assert "\n" not in str(caught.value)


def test_paths_in_a_file_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    (tmp_path / "vgg16.pth").write_bytes(b"")
    section = {
        "_target_": "talkinghead.models.backbones.vgg16", "path": "/etc/passwd", "weights_dir": "/etc",
        "convention": "caffe",
    }  # fmt: skip
    assert trusted(section, "file") == {"_target_": section["_target_"], "path": None, "convention": "caffe"}, (
        "weights_dir, an argument of earlier versions, is left out"
    )
    section["path"] = "/elsewhere/vgg16.pth"
    assert trusted(section, "file")["path"] == str(tmp_path / "vgg16.pth")


def test_every_listed_target_exists_and_takes_arguments() -> None:
    assert all(isinstance(arguments_of(target), frozenset) for target in TARGETS)


def test_what_ships_is_trusted() -> None:
    assert section_of(str(SHIPPED), "model") == inside(str(SHIPPED))["model"]
    assert set(networks(str(SHIPPED))) == {"embedder", "generator", "discriminator"}


def broken(shipped: dict[str, Any]) -> dict[str, Any]:
    state = shipped["state_dict"]
    name = next(key for key, value in state.items() if value.is_floating_point())
    return {
        "list": [1, 2],
        "no state": {"config": shipped["config"]},
        "no config": {"state_dict": state},
        "state is text": {**shipped, "state_dict": "x"},
        "nan": {**shipped, "state_dict": {**state, name: state[name] * float("nan")}},
        "int8": {**shipped, "state_dict": {**state, name: state[name].to(torch.int8)}},
        "config is text": {**shipped, "config": "x"},
        "a weight less": {**shipped, "state_dict": {k: v for k, v in state.items() if k != name}},
        "ema is text": {**shipped, "ema": {"state_dict": {"a": "b"}}},
    }


KINDS = [
    "list",
    "no state",
    "no config",
    "state is text",
    "nan",
    "int8",
    "config is text",
    "a weight less",
    "ema is text",
]


@pytest.mark.parametrize("kind", KINDS)
def test_broken_checkpoints_are_refused_in_one_line(shipped: dict[str, Any], tmp_path: Path, kind: str) -> None:
    torch.save(broken(shipped)[kind], path := tmp_path / "broken.ckpt")
    with pytest.raises(ValueError, match=r"broken\.ckpt") as caught:
        use(path)
    assert "\n" not in str(caught.value)


def test_no_ema_is_no_fault(shipped: dict[str, Any], tmp_path: Path) -> None:
    torch.save({**shipped, "ema": None}, path := tmp_path / "a.ckpt")
    use(path)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04half", b"\x80\x04cos\nsystem\n(S'true'\ntR."])
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "broken.ckpt").write_bytes(content)
    for load in (use, lambda p: load_weights(Embedder(32, (8, 16), None), p)):
        with pytest.raises(ValueError, match=r"broken\.ckpt") as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_shrinking_a_checkpoint_onto_itself_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "last.ckpt").write_bytes(SHIPPED.read_bytes())
    with pytest.raises(ValueError, match="give another name"):
        shrink(path, path)
    assert path.read_bytes() == SHIPPED.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["animate", "evaluate", "studio", "train", "go on", "export"])
def test_every_verb_refuses_in_one_line(shipped: dict[str, Any], tmp_path: Path, verb: str) -> None:
    canary = tmp_path / "canary"
    bad = crafted(shipped, "model.embedder.channels", payloads(canary)["nested"], tmp_path / "bad.ckpt")
    commands = {
        "animate": ["animate.py", f"source={S}/portraits/anna.jpg", f"driving={S}/drivers/calm.mp4", f"model={bad}"],
        "evaluate": ["evaluate.py", f"checkpoint={bad}", "method=[ff]", f"output={tmp_path}/out"],
        "studio": ["-m", "talkinghead.studio", f"model={bad}"],
        "train": ["train.py", "experiment=finetune_synthetic", f"init_from={bad}", f"paths.outputs_dir={tmp_path}/out"],
        "go on": ["train.py", "experiment=meta_synthetic", f"ckpt_path={bad}", f"paths.outputs_dir={tmp_path}/out"],
        "export": ["-m", "talkinghead.learners.export", str(bad), str(tmp_path / "small.ckpt")],
    }
    done = subprocess.run(
        [sys.executable, *commands[verb]], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert not canary.exists()
    assert "Traceback" not in done.stderr
    assert ("is not what a run saves" if verb == "go on" else "refused") in done.stderr


@pytest.mark.parametrize("tensor", [
    torch.zeros(1).expand(10**6, 10**6), torch.eye(4).to_sparse(), torch.eye(4, device="meta"),
], ids=["expanded", "sparse", "meta"])  # fmt: skip
@pytest.mark.parametrize("place", ["state_dict", "ema"])
def test_weights_that_are_no_plain_tensors_are_refused_before_they_are_read(
    shipped: dict[str, Any], tensor: torch.Tensor, place: str, tmp_path: Path
) -> None:
    odd = {"generator.extra": tensor}
    content = (
        {"state_dict": {**shipped["state_dict"], **odd}} if place == "state_dict" else {"ema": {"state_dict": odd}}
    )
    torch.save({**shipped, **content}, tmp_path / "odd.ckpt")
    with pytest.raises(ValueError, match=r"odd\.ckpt.* is no plain tensor") as caught:
        networks(str(tmp_path / "odd.ckpt"))
    assert "\n" not in str(caught.value)


def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(SHIPPED) as parts, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in parts.infolist():
            packed.writestr(part.filename, parts.read(part))
    with pytest.raises(ValueError, match=r"bomb\.ckpt is damaged \(its part .* is compressed\)"):
        networks(str(bomb))


def test_a_flipped_bit_is_told(tmp_path: Path) -> None:
    content = bytearray(SHIPPED.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"flipped\.ckpt is damaged \(the checksum of .* differs\): copy it again"):
        networks(str(tmp_path / "flipped.ckpt"))
