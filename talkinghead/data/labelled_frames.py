"""Labelled frames of a synthetic data set, decoded once and kept in memory: the training data of FaceNet."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from talkinghead.data.episodes import decode
from talkinghead.data.reader import ShardPool, StoredClip, load_info


class Faces(NamedTuple):
    """A batch of frames with their labels. Images 0 … 255; landmarks in units of the image side."""

    images: UInt8[Tensor, "B 3 H W"]
    landmarks: Float[Tensor, "B 68 2"]
    actions: Float[Tensor, "B A"]
    identities: Int[Tensor, " B"]
    videos: Int[Tensor, " B"]


class LabelledFrames(Dataset[Faces]):
    """Frames of one split. Every `stride`-th frame of a clip is used.

    Attributes:
        identities: names of the people, numbered by their place in this list
        action_names: names of the columns of `actions`
    """

    def __init__(self, path: str, split: str, size: int, stride: int = 1) -> None:
        info = load_info(path)
        if split not in info.splits or not info.splits[split].clips:
            raise ValueError(f"the data set {path} has no split {split!r}")
        pool = ShardPool(path, info.splits[split].shards)
        clips = [pool.clip(number) for number in range(len(pool))]
        metas = [clip.meta() for clip in clips]
        if "actions" not in metas[0]:
            raise ValueError(f"clips of {path} carry no facial actions: FaceNet is trained on synthetic heads only")
        self.action_names: list[str] = metas[0]["action_names"]
        self.identities = sorted({meta["identity"] for meta in metas})
        parts = [self._load(clip, meta, size, stride) for clip, meta in zip(clips, metas, strict=True)]
        self.faces = Faces(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def _load(self, clip: StoredClip, meta: dict, size: int, stride: int) -> Faces:
        names = clip.index.frames[::stride]
        clip.read_ahead(names)
        images, factors = zip(*(decode(clip, name, size) for name in names), strict=True)
        points = torch.from_numpy(clip.landmarks()[::stride])
        return Faces(
            torch.from_numpy(np.stack(images)).movedim(-1, 1),
            (points + 0.5) * factors[0] / size,  # pixel centres lie at integers
            torch.tensor(meta["actions"], dtype=torch.float32)[::stride],
            torch.full((len(names),), self.identities.index(meta["identity"])),
            torch.full((len(names),), meta["video_index"]),
        )

    def __len__(self) -> int:
        return len(self.faces.images)

    def __getitems__(self, rows: list[int]) -> Faces:
        """A whole batch, so that the data loader's `collate_fn` has nothing to do."""
        return Faces(*(tensor[rows] for tensor in self.faces))

    def __getitem__(self, row: int) -> Faces:
        return self.__getitems__([row])
