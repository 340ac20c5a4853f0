"""Lossless storage of outputs, rounded to 8 bits: one PNG per person, its frames stacked vertically.

Generated pictures state so in their metadata; targets and copied frames do not.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float
from torch import Tensor

from talkinghead.evaluation.results import ResultKey
from talkinghead.names import as_path_part
from talkinghead.pixels import as_pictures, as_tensor
from talkinghead.provenance import OriginStatement, marked
from talkinghead.storage import write_atomic

END = b"\0\0\0\0IEND\xaeB`\x82"  # the last bytes of every PNG
COPIES = "nearest"  # the method whose outputs are source frames, so not generated


class FrameStore:
    """`<folder>/<data>/target…/<person>.png`, and `<folder>/<data>/<method …>/T8/<person>.png` for each row."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def path(self, key: ResultKey) -> Path:
        """File for the outputs of a row; the folder depends on checkpoint, config and seed."""
        parts = (key.method, key.variant, key.checkpoint, key.config, key.config_hash, seed_of(key))
        method = as_path_part("_".join(part for part in parts if part != "-"))
        shots = f"T={key.T}" if key.seed == "-" else f"T{key.T}"  # folders from before rows had seeds
        return folder_of(self.folder, key) / method / shots / f"{as_path_part(key.clip)}.png"

    def has(self, key: ResultKey) -> bool:
        """Whether the complete picture of a row exists."""
        return is_whole(self.path(key))

    def save(self, key: ResultKey, x_hat: Float[Tensor, "M 3 H W"]) -> None:
        save_strip(self.path(key), x_hat, None if key.method == COPIES else OriginStatement())

    def load(self, key: ResultKey) -> Float[Tensor, "M 3 H W"]:
        return load_strip(self.path(key))

    def target_path(self, key: ResultKey) -> Path:
        """File for the hold-out frames of a row; the folder depends on protocol and seed."""
        name = "_".join(["target", *(part for part in (key.protocol, seed_of(key)) if part != "-")])
        return folder_of(self.folder, key) / as_path_part(name) / f"{as_path_part(key.clip)}.png"

    def save_target(self, key: ResultKey, x: Float[Tensor, "M 3 H W"]) -> None:
        save_strip(self.target_path(key), x)

    def load_target(self, key: ResultKey) -> Float[Tensor, "M 3 H W"]:
        return load_strip(self.target_path(key))

    def digest_targets(self, key: ResultKey, people: Iterable[str]) -> str:
        """SHA-256 of these people's targets: the cache key for statistics of real images."""
        content = (self.target_path(replace(key, clip=person)).read_bytes() for person in people)
        return hashlib.sha256(b"".join(hashlib.sha256(picture).digest() for picture in content)).hexdigest()


def folder_of(folder: Path, key: ResultKey) -> Path:
    """The folder of a data set and split, below `folder`."""
    return folder.joinpath(*map(as_path_part, key.data.split("/")))


def seed_of(key: ResultKey) -> str:
    """Suffix of folder names for the seed."""
    return "-" if key.seed == "-" else f"seed{key.seed}"


def is_whole(path: Path) -> bool:
    """Whether a PNG is complete: some decoders read a truncated one as a picture that is black below."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(END)))
        return file.read() == END


def save_strip(path: Path, images: Float[Tensor, "M 3 H W"], card: OriginStatement | None = None) -> None:
    """Write images in [-1, 1] atomically; NaN becomes black. `card`: the statement that they are generated."""
    pixels = np.concatenate(as_pictures(images))
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))
    write_atomic(path, marked(encoded.tobytes(), card) if card else encoded.tobytes())


def load_strip(path: Path) -> Float[Tensor, "M 3 H W"]:
    """Read square frames that `save_strip` wrote, in [-1, 1]."""
    pixels = cv2.imread(str(path)) if is_whole(path) else None
    if pixels is None or pixels.shape[0] % pixels.shape[1]:
        raise ValueError(f"{path} is no strip of square frames: delete it, and its row in results.csv")
    side = pixels.shape[1]
    frames = np.ascontiguousarray(pixels[..., ::-1]).reshape(-1, side, side, 3)
    return as_tensor(frames)
