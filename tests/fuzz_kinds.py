"""The kinds of files and options that `tests/fuzz.py` damages, and how each is read."""

import contextlib
import copy
import csv
import io
import json
import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from talkinghead import provenance
from talkinghead.cli import early
from talkinghead.cli.checking import check_options
from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.data.reader import UnusableClip
from talkinghead.data.remote import DataFault
from talkinghead.evaluation.frame_choice import FrameChoice
from talkinghead.evaluation.results import ResultKey, Results
from talkinghead.evaluation.tasks import SelfReenactment
from talkinghead.faces.crop import Framing
from talkinghead.learners.checkpoints import load_weights
from talkinghead.learners.episodic import learner_in
from talkinghead.learners.export import shrink
from talkinghead.learners.finetune import PersonReenactor
from talkinghead.learners.load import LoadedCheckpoint
from talkinghead.models.fsth import Discriminator, Embedder, Generator
from talkinghead.models.person_file import load_person
from talkinghead.models.warp_guided import WarpGuidedGenerator
from talkinghead.reenactment.driver import follow_driver
from talkinghead.reenactment.source import read_source
from talkinghead.reporting.overview import build_overview
from talkinghead.reporting.tables import read_rows
from talkinghead.types import Frames
from tests.helpers.data_sets import make_clip, write_data_set
from tests.helpers.preparation_videos import GreenFace, green_frame

MENDABLE = (ValueError, OSError, ImportError, av.FFmpegError, UnusableClip, DataFault)
SIZE, N = 32, 16
HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 10**9, 2**63, 10**30, -(10**30), 1.5, float("nan"), float("inf"), "", "x" * 5000, "..",
    "/etc/passwd", "../../outside", "nul\0", "\x1b[2J", "=1+1", "*", "${oc.env:HOME}", "${hydra:job}", [], {}, [[]],
    [1] * 500, {"a": {}}, {"_target_": "os.system", "command": "touch outside"}, {"_target_": 7}, {"_partial_": True},
    {"_target_": "webdataset.gopen", "url": "pipe:touch outside"}, {"_target_": "talkinghead.models.fsth.Embedder"},
    "pipe:touch outside", "\udce9",
]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    make        writes a damaged one into a folder and says how it was damaged
    use         reads it as the verbs do; returns `loss: …` or `wrong: …` where nobody was told, else None
    refusals    errors that the verbs print in one line
    """

    name: str
    make: Callable[[Path, random.Random], str]
    use: Callable[[Path], str | None]
    prepare: Callable[[], object] = lambda: None
    refusals: tuple[type[BaseException], ...] = MENDABLE


# How things are damaged.


def damaged(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Other bytes: flipped, cut, blanked, doubled, exchanged or put in."""
    how = rng.choice(["flip", "cut", "blank", "double", "exchange", "insert", "number", "append", "empty", "none"])
    data, length = bytearray(content), len(content)
    at, other = sorted((rng.randrange(length), rng.randrange(length)))
    if rng.random() < 0.5:  # headers are near the beginning or the end
        at = rng.choice([rng.randrange(min(length, 600)), length - 1 - rng.randrange(min(length, 600))])
    part = rng.choice([1, 4, 64, 512, 5000])
    if how == "flip":
        for _ in range(rng.choice([1, 1, 8, 100])):
            data[rng.randrange(at, length)] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[at:]
    elif how == "blank":
        data[at : at + part] = bytes(len(data[at : at + part]))
    elif how == "double":
        data[at:at] = data[at : at + part]
    elif how == "exchange":
        data[at : at + part], data[other : other + part] = data[other : other + part], data[at : at + part]
    elif how == "insert":
        data[at:at] = rng.randbytes(part)
    elif how == "number":
        data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"])
    elif how == "append":
        data += rng.randbytes(part)
    elif how == "empty":
        data.clear()
    return bytes(data), f"{how} at {at} of {length}"


def nested(depth: int) -> list[Any]:
    """Lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def replaced(tree: Any, rng: random.Random) -> tuple[Any, str]:
    """A copy of nested dicts and lists in which one node is another, gone, or has company."""
    tree, place, node, way = copy.deepcopy(tree), "", None, []
    node = tree
    while isinstance(node, dict | list) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        way.append((node, key))
        place, node = f"{place}.{key}", node[key]
        if rng.random() < 0.25:
            break
    parent, key = way[-1]
    value = rng.choice(HOSTILE)
    told = str(value)[:30]
    if rng.random() < 0.05:
        value, told = nested(150), "150 lists in lists"
    how = rng.choice(["set", "set", "set", "remove", "add"])
    if how == "remove":
        del parent[key]
    elif how == "add" and isinstance(parent, dict):
        parent[rng.choice(["extra", "_target_", "path", "..", "x" * 300])] = value
    else:
        parent[key] = value
    return tree, f"{how} {place.lstrip('.')[:80]} {told!r}"


# Checkpoints and person files.


def networks(warp: bool) -> tuple[nn.ModuleDict, dict[str, Any]]:
    """Tiny ones, and the config that builds them."""
    at, width = "talkinghead.models.", [8, 16]
    generator: dict[str, Any] = {"image_size": SIZE, "embedding_size": N, "num_residual": 1}
    if warp:
        generator |= {"_target_": f"{at}warp_guided.WarpGuidedGenerator", "channels": width}
    else:
        generator |= {
            "_target_": f"{at}fsth.Generator", "down_channels": width, "up_channels": width[::-1],
            "attention_down": None, "attention_up": None,
        }  # fmt: skip
    common = {"image_size": SIZE, "channels": width, "attention": None}
    model = {
        "embedder": {"_target_": f"{at}fsth.Embedder", **common}, "generator": generator,
        "discriminator": {"_target_": f"{at}fsth.Discriminator", "num_videos": 1, **common}, "image_size": SIZE,
    }  # fmt: skip
    parts = {name: instantiate(model[name]) for name in ("embedder", "generator", "discriminator")}
    assert isinstance(parts["generator"], WarpGuidedGenerator if warp else Generator)
    assert isinstance(parts["embedder"], Embedder)
    assert isinstance(parts["discriminator"], Discriminator)
    return nn.ModuleDict(parts), model


@cache
def checkpoint(warp: bool) -> dict[str, Any]:
    """A whole one."""
    torch.manual_seed(0)
    parts, model = networks(warp)
    backbones = {"laplacian": {"_target_": "talkinghead.models.backbones.LaplacianPyramid"}}
    content = {
        "_target_": "talkinghead.losses.ContentLoss",
        "backbones": backbones,
        "weights": {"laplacian": 80},
    }
    loss = {"weights": {"cnt": 1, "adv": 1, "fm": 10}, "content": content}
    return {"state_dict": parts.state_dict(), "config": {"model": model, "loss": loss, "row": "default"},
            "ema": {"state_dict": {}}}  # fmt: skip


@cache
def frames(count: int = 2) -> Frames:
    """Flat faces."""
    circle = torch.linspace(0, 2 * math.pi, 69)[:68]
    points = torch.stack([16 + 8 * circle.cos(), 16 + 8 * circle.sin()], -1).expand(count, -1, -1).contiguous()
    picture = torch.linspace(-1, 1, SIZE).expand(count, 3, SIZE, SIZE).contiguous()
    return Frames(picture, picture.flip(-1), points + torch.arange(count).view(-1, 1, 1))


def make_checkpoint(folder: Path, rng: random.Random) -> str:
    whole, buffer = checkpoint(rng.random() < 0.5), io.BytesIO()
    if rng.random() < 0.6:
        whole, how = replaced(whole, rng)
        torch.save(whole, buffer)
        (folder / "x.ckpt").write_bytes(buffer.getvalue())
        return how
    torch.save(whole, buffer)
    content, how = damaged(buffer.getvalue(), rng)
    (folder / "x.ckpt").write_bytes(content)
    return how


def use_checkpoint(folder: Path) -> str | None:
    """As animate, evaluate, portable and train's init_from do."""
    path = folder / "x.ckpt"
    people = LoadedCheckpoint(path, {"num_discriminator_steps": 1, "weights": {"cnt": 1, "adv": 1, "fm": 10}})
    shots = frames(1) if people.size == SIZE else None
    drawn = people.method(0).learn(shots)(frames()) if shots else torch.zeros(1)
    _ = people.loss
    if shots:
        people.method(1).learn(shots)
    shrink(path, folder / "output" / "small.ckpt")
    learner = networks("warp" in str(people.config["model"]))[0]
    with contextlib.suppress(ValueError):  # of another model, by what the file says
        load_weights(learner, path)
    if shots and not (folder / "output" / "small.ckpt").is_file():
        return "loss: nothing was written"
    return None if drawn.isfinite().all() else "wrong: a picture that is not finite"


def make_networks(folder: Path, rng: random.Random) -> str:
    """Each is one of ours and has weights that fit it, but they are not an E, a G and a D that belong together."""
    sections = [
        section for warp in (True, False) for section in networks(warp)[1].values() if isinstance(section, dict)
    ]
    sections += [BASELINE["embedder"], BASELINE["driver"], {"_target_": "talkinghead.models.backbones.Pixels"}]
    model: dict[str, Any] = {"image_size": SIZE}
    for role in ("embedder", "generator", "discriminator"):
        model[role] = rng.choice([networks(True)[1][role], *sections])
        if "channels" in model[role] and rng.random() < 0.3:
            model[role] = {**model[role], "channels": [*model[role]["channels"][:-1], 24]}
    model[rng.choice(["extra", "image_size"])] = rng.choice([SIZE, 64, 2048])
    parts = nn.ModuleDict({role: instantiate(model[role]) for role in ("embedder", "generator", "discriminator")})
    config = {**checkpoint(True)["config"], "model": model}
    if rng.random() < 0.3:
        config["loss"], _ = replaced(config["loss"], rng)
    torch.save({"state_dict": parts.state_dict(), "config": config}, folder / "x.ckpt")
    return " ".join(str(model[role]["_target_"]).rsplit(".", 1)[1] for role in parts)


AT = "talkinghead.models.x2face."
BASELINE: dict[str, Any] = {
    "_target_": "talkinghead.learners.x2face.X2FaceLearner", "weights": {"l1": 1, "cnt": 0}, "validation_shots": [1, 2],
    "embedder": {"_target_": f"{AT}EmbeddingNetwork", "image_size": SIZE, "channels": [8] * 5},
    "driver": {"_target_": f"{AT}DrivingNetwork", "image_size": SIZE, "channels": [8] * 5},
}  # fmt: skip


def make_baseline(folder: Path, rng: random.Random) -> str:
    config, how = replaced({"learner": BASELINE, "model": {"image_size": SIZE}}, rng)
    torch.save({"state_dict": instantiate(BASELINE).state_dict(), "config": config}, folder / "x.ckpt")
    return how


def use_baseline(folder: Path) -> str | None:
    """As evaluate does."""
    learner = learner_in(str(folder / "x.ckpt"), {}, "checkpoints.x2face")
    drawn = learner.learn(frames(1))(frames())  # type: ignore[operator]
    return None if drawn.isfinite().all() else "wrong: a picture that is not finite"


def make_person(folder: Path, rng: random.Random) -> str:
    torch.manual_seed(0)
    parts = networks(rng.random() < 0.5)[0]
    generator = parts["generator"].personalize(torch.zeros(1, N), frames(1))  # type: ignore[operator]
    about = {"method": "ff", "source_points": frames(1).points[0].tolist(), "crop": {"margin": 1.8, "down": 0.0}}
    PersonReenactor(generator).save(folder / "x", about)
    path = folder / rng.choice(["x.json", "x.json", "x.safetensors"])
    if path.suffix == ".json" and rng.random() < 0.7:
        card, how = replaced(json.loads(path.read_text()), rng)
        path.write_text(json.dumps(card))
        return how
    content, how = damaged(path.read_bytes(), rng)
    path.write_bytes(content)
    return how


def use_person(folder: Path) -> str | None:
    """As animate does with model=x.safetensors, crop and points of the source included."""
    generator, about = load_person(folder / "x.safetensors")
    drawn = PersonReenactor(generator)(frames())
    Framing(**(about.get("crop") or {})).checked()
    return None if drawn.isfinite().all() else "wrong: a picture that is not finite"


# Data sets.


def make_data(folder: Path, rng: random.Random, file: str) -> str:
    clips = [make_clip(n, 12) for n in range(4)]
    write_data_set(folder / "set", {"train": [clips[:2], clips[2:]], "test": [clips[:2], clips[2:]]})
    path = folder / "set" / file
    if file.endswith(".json") and rng.random() < 0.75:
        tree, how = replaced(json.loads(path.read_text()), rng)
        path.write_text(json.dumps(tree))
        return how
    content, how = damaged(path.read_bytes(), rng)
    path.write_bytes(content)
    return how


def use_data(folder: Path) -> str | None:
    """As training and evaluation do: every clip is read or named."""
    data = EpisodeDataModule(
        str(folder / "set"), size=SIZE, num_shots=2, episodes_per_epoch=4, batch_size=2, num_workers=0, seed=0,
        val_shots=2, max_skipped=None,
    )  # fmt: skip
    choice = FrameChoice(max_shots=4, num_targets=4, min_targets=2)
    source = SelfReenactment(data, SIZE, choice)
    keys, skipped = source.keys()
    for key in keys:
        try:
            person = source.load(key)
        except UnusableClip:
            continue
        if not all(part.isfinite().all() for part in (*person.shots, *person.target)):
            return "wrong: frames that are not finite"
    told = data.info.splits["test"].clips
    if len(keys) + len(skipped) < min(told, 4):
        return f"loss: {len(keys)} people and {len(skipped)} skipped of {told}"
    data.setup("fit")
    for batch in data.train_dataloader():
        if not batch.target.isfinite().all():
            return "wrong: frames that are not finite"
    return None


# Tables.


def make_csv(folder: Path, rng: random.Random) -> str:
    results = Results(folder / "results.csv")
    for n in range(6):
        for method in ("ours", "nearest"):
            results.add(
                ResultKey("set/test", method, "FF", 1, f"p{n}", seed="0"),
                {"identity": f"p{n}", "ssim": n / 9, "nme": 0.1},
            )
    rows = list(csv.reader(io.StringIO((folder / "results.csv").read_text())))
    if rng.random() < 0.5:
        row, cell = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
        rows[row][cell] = str(rng.choice(HOSTILE)).replace("\udce9", "?")
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        (folder / "results.csv").write_text(text.getvalue())
        return f"row {row} cell {cell} {rows[row][cell][:30]!r}"
    content, how = damaged((folder / "results.csv").read_bytes(), rng)
    (folder / "results.csv").write_bytes(content)
    return how


def use_csv(folder: Path) -> str | None:
    """As the table command does, and evaluate.py, which adds a row to a copy."""
    path = folder / "results.csv"
    build_overview(read_rows([path]))
    (copied := folder / "output" / "results.csv").write_bytes(path.read_bytes())
    before = Results(copied).rows()
    Results(copied).add(ResultKey("set/test", "ours", "FF", 8, "new"), {"ssim": 0.5})
    after = Results(copied).rows()
    return None if all(row in [{k: v for k, v in one.items() if k in row} for one in after] for row in before) else (
        "loss: adding a row has changed others")  # fmt: skip


# Pictures and videos.


def make_picture(folder: Path, rng: random.Random) -> str:
    image = Image.fromarray(green_frame(96, 128, 30, 20, 50))
    suffix = rng.choice(["png", "jpg", "webp", "bmp", "tiff", "gif"])
    image.convert(rng.choice(["RGB", "L", "RGBA"]) if suffix == "png" else "RGB").save(path := folder / f"x.{suffix}")
    content = path.read_bytes()
    if suffix in ("png", "jpg") and rng.random() < 0.3:
        content = provenance.marked(content, provenance.OriginStatement())
    content, how = damaged(content, rng)
    path.unlink()
    (folder / f"x.{rng.choice([suffix, suffix, 'jpg', 'png'])}").write_bytes(content)
    return f"{suffix} {how}"


def use_picture(folder: Path) -> str | None:
    """As animate reads a source, and the provenance command any file."""
    (path,) = (p for p in folder.iterdir() if p.name.startswith("x."))
    provenance.read(path.read_bytes())
    (portrait,) = read_source([path], GreenFace(), Framing(1.8, 0.0), min_face=10)
    return None if portrait.image.size and np.isfinite(portrait.points).all() else "wrong: no picture"


@cache
def film(suffix: str) -> bytes:
    """Twelve frames of a green square, with sound."""
    content = io.BytesIO()
    with av.open(content, "w", format={"mkv": "matroska"}.get(suffix, suffix)) as container:
        stream = container.add_stream("mpeg4" if suffix == "avi" else "libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for n in range(12):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(green_frame(96, 128, 20 + n, 30, 40), format="rgb24"))
            )
        container.mux(stream.encode())
    return content.getvalue()


def make_video(folder: Path, rng: random.Random) -> str:
    suffix = rng.choice(["mp4", "mov", "mkv", "avi", "flv"])
    content, how = damaged(film(suffix), rng)
    (folder / f"x.{rng.choice([suffix, suffix, 'mp4'])}").write_bytes(content)
    return f"{suffix} {how}"


def use_video(folder: Path) -> str | None:
    """As animate follows a driver, and the provenance command reads any file."""
    (path,) = (p for p in folder.iterdir() if p.name.startswith("x."))
    provenance.read(path.read_bytes())
    driver = follow_driver(path, GreenFace(), Framing(1.8, 0.0), min_face=10)
    shown = sum(1 for _ in driver.images())
    if shown != len(driver.points) or len(driver.points) != len(driver.timeline.pts):
        return f"wrong: {shown} pictures, {len(driver.points)} faces, {len(driver.timeline.pts)} times"
    return None if np.isfinite(driver.points).all() else "wrong: points that are not finite"


# Options.

KEYS = ("seed", "shots", "trainer.max_epochs", "data.batch_size", "model.image_size", "learner.lr_generator", "loss",
        "callbacks.ema.decay", "ckpt_path", "init_from", "paths.data_dir", "model.embedder.channels", "trainer",
        "data.path", "loss.weights.adv", "metrics", "logger", "row", "data.build.train", "learner.betas", "experiment",
        "nothing.like.it")  # fmt: skip
WRITTEN = ("1", "-1", "0", "1e400", "nan", "abc", "null", "true", "[1,2", "[1]", "{a:1}", "${x}", "${oc.env:HOME}", "'",
           '"', "a=b", "x" * 3000, "../..", "1,2", "range(3)", "=", "", "é", "[" * 300, "{_target_:os.system}",
           "pipe:touch outside")  # fmt: skip


def make_options(folder: Path, rng: random.Random) -> str:
    signs = rng.choice([*[""] * 9, "+", "++", "~", "--"])
    given = [signs + rng.choice(KEYS) + rng.choice([*["="] * 9, "==", " ", ""]) + rng.choice(WRITTEN)]
    given += [rng.choice(KEYS) + "=" + rng.choice(WRITTEN)] if rng.random() < 0.3 else []
    (folder / "options.json").write_text(json.dumps(given))
    return " ".join(given)[:80]


def use_options(folder: Path) -> str | None:
    """As train.py does before any work."""
    given = json.loads((folder / "options.json").read_text())
    sys.argv[1:] = given
    early.answer("config", "python train.py")
    with initialize_config_dir(str(early.CONF), version_base="1.3"):
        run = ["hydra.runtime.cwd=.", f"hydra.runtime.output_dir={folder}/output"]
        config = compose("config", [*run, *given], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    check_options(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))
    return None


def one_line(use: Callable[[Path], str | None]) -> Callable[[Path], str | None]:
    """sys.exit with a line is a refusal, too."""

    def used(folder: Path) -> str | None:
        try:
            return use(folder)
        except SystemExit as stop:
            if isinstance(stop.code, str):
                raise ValueError(stop.code) from stop
            return None

    return used


KINDS = {kind.name: kind for kind in [
    Kind("checkpoint", make_checkpoint, use_checkpoint, lambda: (checkpoint(True), checkpoint(False))),
    Kind("networks", make_networks, use_checkpoint, lambda: networks(True)),
    Kind("baseline", make_baseline, use_baseline, lambda: instantiate(BASELINE)),
    Kind("person file", make_person, use_person),
    Kind("dataset.json", lambda folder, rng: make_data(folder, rng, "dataset.json"), use_data),
    Kind("shard", lambda folder, rng: make_data(folder, rng, "test/000000.tar"), use_data),
    Kind("results.csv", make_csv, use_csv),
    Kind("picture", make_picture, use_picture),
    Kind("video", make_video, use_video, lambda: [film(s) for s in ("mp4", "mov", "mkv", "avi", "flv")]),
    Kind("options", make_options, one_line(use_options)),
]}  # fmt: skip
