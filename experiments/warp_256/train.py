"""Meta-learning of warp_256 with all frames on the device: `python train.py FRAMES OUTPUT MINUTES [BATCH [VGG16]]`.

FRAMES is what render.py wrote. The learner is that of `train.py experiment=meta_voxceleb_warp`; what differs is that
nothing is read while it trains (2,100 people of 12 frames are 10 GB), the photographic faults that each episode gets,
and a learning rate that falls to nothing within MINUTES. VGG16: a file with Caffe's
preprocessing folded into its first layer; without it the original is looked for where `train.py` looks.
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/warp_256/train.py")

import math
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from jaxtyping import Float, UInt8
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from talkinghead.callbacks.ema import EMA
from talkinghead.data.landmarks import draw_landmarks, interocular, mirror_points
from talkinghead.learners.checkpoints import git_commit
from talkinghead.learners.meta import MetaLearner
from talkinghead.losses.perceptual import ContentLoss
from talkinghead.models.backbones import LaplacianPyramid, vgg16
from talkinghead.preparation.video import Video
from talkinghead.types import Episode

CONF = Path(__file__).parents[2] / "conf"
SIZE, LR, LR_W = 256, 4e-4, 2e-3
WEIGHTS = {"cnt": 1, "adv": 1, "fm": 10, "mch": 1, "parts": 30}
PARTS = [(0, 17), (17, 22), (22, 27), (27, 36), (36, 42), (42, 48), (48, 68)]  # of the 68 points
SIDES = (((255, 0, 0), (255, 165, 0)), ((255, 0, 255), (0, 255, 255)))  # colours of left and right brows and eyes
Images = Float[Tensor, "B K 3 H W"]


def decode(path: Path) -> tuple[UInt8[np.ndarray, "P F H W 3"], UInt8[np.ndarray, "P F H W 3"], np.ndarray]:
    """Frames, landmark images and points of one file; the points are off as those of a detector are."""
    stored, rng = np.load(path), np.random.default_rng(int(path.stem))
    ends = np.cumsum(stored["sizes"])
    frames, landmarks, points = [], [], []
    for clip, end in enumerate(ends):
        video = path.with_suffix(f".{clip}.mp4")
        video.write_bytes(stored["video"][end - stored["sizes"][clip] : end].tobytes())
        with Video(video) as reader:
            frames.append(np.stack([image for _, image in reader.read(range(stored["points"].shape[1]))]))
        video.unlink()
        exact = stored["points"][clip].astype(np.float32)
        eye = interocular(exact)[:, None, None]
        found = exact + rng.normal(0, 0.006, exact.shape) * eye
        for first, last in PARTS:
            found[:, first:last] += rng.normal(0, 0.006 if first else 0.012, (len(found), 1, 2)) * eye
        points.append(found.astype(np.float32))
        landmarks.append(np.stack([draw_landmarks(face, SIZE) for face in points[-1]]))
    return np.stack(frames), np.stack(landmarks), np.stack(points)


class Episodes(IterableDataset[Episode]):
    """Batches of episodes of 1 to 3 shots, drawn on the device."""

    def __init__(self, folder: Path, batch: int, device: str) -> None:
        with ProcessPoolExecutor() as pool:
            parts = zip(*pool.map(decode, sorted(folder.glob("*.npz"))), strict=True)
        self.frames, self.landmarks, self.points = (torch.from_numpy(np.concatenate(p)).to(device) for p in parts)
        self.batch, self.device = batch, device

    def __iter__(self) -> Iterator[Episode]:
        while True:
            yield self.draw(random.choice((1, 1, 2, 3)))

    def draw(self, num_shots: int) -> Episode:
        """Frame 0 of each row is the target."""
        people, frames = self.points.shape[:2]
        row = torch.randint(people, (self.batch,), device=self.device)
        order = torch.rand(self.batch, frames, device=self.device).argsort(1)[:, : num_shots + 1]
        x, y = (images[row[:, None], order].permute(0, 1, 4, 2, 3).float() for images in (self.frames, self.landmarks))
        x, y, points = faulty(x / 255), y / 127.5 - 1, self.points[row[:, None], order]
        mirrored = torch.rand(self.batch, 1, 1, 1, 1, device=self.device) < 0.5
        x = torch.where(mirrored, x.flip(-1), x) * 2 - 1
        y = torch.where(mirrored, changed_sides(y.flip(-1)), y)
        turned = torch.from_numpy(mirror_points(points.cpu().numpy(), SIZE)).to(self.device)
        points = torch.where(mirrored[..., 0], turned, points)
        target = x[:, 0].contiguous(memory_format=torch.channels_last)
        return Episode(x[:, 1:], y[:, 1:], target, y[:, 0], points[:, 1:], points[:, 0], row, [""])


def faulty(x: Images) -> Images:
    """Photographs' colours, contrasts and sharpness in [0, 1]: the same for all frames of an episode."""
    count = len(x)

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.empty(count, 1, channels, 1, 1, device=x.device).uniform_(low, high)

    x = x.clamp(1e-4, 1) ** torch.exp(uniform(-0.3, 0.3)) * uniform(0.85, 1.15, 3)
    grey = (x * torch.tensor([0.3, 0.59, 0.11], device=x.device).view(1, 1, 3, 1, 1)).sum(2, keepdim=True)
    x = grey + (x - grey) * uniform(0.5, 1.4) * (uniform(0, 1) >= 0.12)  # one in eight is black and white
    sepia = torch.tensor([1.06, 0.98, 0.85], device=x.device).view(1, 1, 3, 1, 1)
    x = torch.where(uniform(0, 1) < 0.1, x * sepia, x)
    mean = x.mean((1, 3, 4), keepdim=True)
    x = (x - mean) * uniform(0.75, 1.3) + mean + uniform(-0.08, 0.08)
    soft = F.avg_pool2d(F.pad(x.flatten(0, 1), (1, 1, 1, 1), mode="reflect"), 3, 1).view_as(x)
    amount = uniform(-0.8, 1) * (uniform(0, 1) < 0.35)  # soft, or sharpened
    return (x + (soft - x) * amount).clamp(0, 1)


def changed_sides(y: Images) -> Images:
    """Mirrored landmark images in which left brow and eye have their own colours again."""
    levels, result = ((y + 1) * 127.5).round(), y.clone()
    for pair in SIDES:
        for old, new in (pair, pair[::-1]):
            old_, new_ = (torch.tensor(c, device=y.device, dtype=y.dtype).view(1, 1, 3, 1, 1) for c in (old, new))
            result = torch.where((levels == old_).all(2, keepdim=True), new_ / 127.5 - 1, result)
    return result


class Schedule(L.Callback):
    """Warm-up, half of the time at full rate, half a cosine; L_ADV and L_FM fade in; ends when the minutes are over."""

    def __init__(self, minutes: float) -> None:
        self.minutes, self.step, self.start = minutes, 0, 0.0

    def on_train_batch_start(self, trainer: L.Trainer, learner: Any, *_: Any) -> None:
        self.start, self.step = self.start or time.monotonic(), self.step + 1
        done = (time.monotonic() - self.start) / 60 / self.minutes
        late = max(0.03, 0.5 * (1 + math.cos(math.pi * (2 * done - 1))))
        rate = min(1, self.step / 200) * (1 if done < 0.5 else late)
        for optimizer, lr in zip(learner.optimizers(use_pl_optimizer=False), (LR, LR, LR_W), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate
        for name in ("adv", "fm"):
            learner.weights[name] = WEIGHTS[name] * min(1, max(0, (done - 0.08) / 0.1))
        trainer.should_stop |= done > 1


def main(folder: Path, output: Path, minutes: float, batch: int = 64, file: Path | None = None) -> None:
    """Train, and write a checkpoint as those of the main train.py."""
    L.seed_everything(0)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    episodes = Episodes(folder, batch, device)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["model=warp_256", f"num_videos={len(episodes.points)}", "paths.root_dir=."]
        config = compose("config", [*overrides, "+loss.weights.parts=30"])
    parts = [instantiate(config.model[name]) for name in ("embedder", "generator", "discriminator")]
    network = vgg16("caffe_folded" if file else "caffe", file)
    content = ContentLoss({"vgg16": network, "laplacian": LaplacianPyramid()}, {"vgg16": 0.15, "laplacian": 40})
    learner = MetaLearner(*parts, content, WEIGHTS, num_discriminator_steps=1, betas=(0.5, 0.999))
    sections: Any = {name: OmegaConf.to_container(config[name], resolve=True) for name in ("model", "loss")}
    learner.config = {**sections, "git_commit": git_commit(CONF.parent)}
    trainer = L.Trainer(
        devices=1, precision="bf16-mixed" if device == "cuda" else "32-true", max_epochs=-1, logger=False,
        enable_checkpointing=False, callbacks=[EMA(0.999), Schedule(minutes)],
    )  # fmt: skip
    trainer.fit(learner, DataLoader(episodes, batch_size=None))
    trainer.save_checkpoint(output / "last.ckpt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), *map(int, sys.argv[4:5]), *map(Path, sys.argv[5:]))
