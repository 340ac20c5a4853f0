"""FaceNet's training on synthetic heads: identity with an angular margin, landmarks, facial actions."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler

from talkinghead.data.labelled_frames import Faces, LabelledFrames
from talkinghead.learners.resuming import restore_random_state, save_random_state
from talkinghead.models.facenet import Face, FaceNet, to_bytes
from talkinghead.models.layers import resample
from talkinghead.pixels import to_float
from talkinghead.storage import write_atomic


class FaceDataModule(L.LightningDataModule):
    """Labelled frames of a synthetic data set, in memory.

    Args:
        steps_per_epoch: batches per epoch, drawn with replacement
        build: makes the data set at `path` when it is missing
    """

    def __init__(
        self,
        path: str | Path,
        size: int,
        batch_size: int,
        steps_per_epoch: int,
        stride: int = 1,
        build: Callable[[Path], None] | None = None,
    ) -> None:
        super().__init__()
        self.path, self.size, self.stride = str(path), size, stride
        self.batch_size, self.steps_per_epoch = batch_size, steps_per_epoch
        self.build = build

    def prepare_data(self) -> None:
        """Build the data set if it is missing."""
        if self.build is not None:
            self.build(Path(self.path))

    @property
    def num_videos(self) -> int:
        """Rows of W; FaceNet has none."""
        return 0

    def setup(self, stage: str) -> None:
        """Decode the training and validation splits into memory."""
        self.train = LabelledFrames(self.path, "train", self.size, self.stride)
        self.val = LabelledFrames(self.path, "val", self.size, self.stride)

    def train_dataloader(self) -> DataLoader[Faces]:
        sampler = RandomSampler(self.train, replacement=True, num_samples=self.batch_size * self.steps_per_epoch)
        return DataLoader(self.train, self.batch_size, sampler=sampler, collate_fn=as_is)

    def val_dataloader(self) -> DataLoader[Faces]:
        return DataLoader(self.val, self.batch_size, collate_fn=as_is)


def as_is(batch: Any) -> Any:
    """Collate nothing: `LabelledFrames` returns whole batches."""
    return batch


class FaceNetLearner(L.LightningModule):
    """Trains FaceNet and writes it, folded, to `output` at the end.

    Args:
        weights: identity, landmarks, actions: weight of each loss in the sum
        margin: angle, in radians, that ArcFace (arXiv 1801.07698) adds between an image and its person
        scale: of the cosines in ArcFace's softmax
    """

    config: Mapping[str, Any] | None = None
    spread: Tensor

    def __init__(
        self,
        embedding_size: int,
        weights: Mapping[str, float | int],
        lr: float,
        output: str | Path,
        command: str = "",
        margin: float = 0.2,
        scale: float = 16.0,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__()
        self.embedding_size, self.weights = embedding_size, dict(weights)
        self.lr, self.weight_decay = lr, weight_decay
        self.output, self.command = Path(output), command
        self.margin, self.scale = margin, scale

    def configure_model(self) -> None:
        """Build the heads, whose sizes depend on the data set."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.action_names: list[str] = data.train.action_names
        self.network = FaceNet(self.embedding_size, len(self.action_names)).to(memory_format=torch.channels_last)
        start_at_mean(self.network.landmarks, data.train.faces.landmarks)
        start_at_mean(self.network.actions, data.train.faces.actions)
        spread = data.train.faces.actions.std(dim=0).clamp_min(0.02)  # so that small movements count as much as large
        self.register_buffer("spread", spread, persistent=False)
        self.people = nn.Parameter(torch.randn(len(data.train.identities), self.embedding_size))

    def training_step(self, batch: Faces, _: int) -> Tensor:
        images, landmarks = augment(swap_background(to_images(batch), batch.landmarks), batch.landmarks)
        face = self.network(images)
        loss = {
            "identity": arcface(face.embedding, self.people, batch.identities, self.margin, self.scale),
            "landmarks": (face.landmarks - landmarks).abs().mean(),
            "actions": ((face.actions - batch.actions) / self.spread).square().mean(),
        }
        self.log_dict({f"loss/{name}": value for name, value in loss.items()}, prog_bar=True)
        return torch.stack([self.weights[name] * value for name, value in loss.items()]).sum()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the random states, from which crops and backgrounds are drawn."""
        save_random_state(checkpoint, self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the random states that `on_save_checkpoint` stored."""
        restore_random_state(checkpoint, self.device)

    def on_validation_epoch_start(self) -> None:
        self.seen: list[tuple[Face, Faces]] = []

    def validation_step(self, batch: Faces, _: int) -> None:
        self.seen.append((self.network(to_images(batch)), batch))

    def on_validation_epoch_end(self) -> None:
        """On people not in training: verification AUC, landmark error over the inter-ocular distance, and the
        correlation of the actions."""
        faces, batches = zip(*self.seen, strict=True)
        found, truth = (type(p[0])(*(torch.cat(parts) for parts in zip(*p, strict=True))) for p in (faces, batches))
        eyes = (truth.landmarks[:, 36] - truth.landmarks[:, 45]).norm(dim=-1).clamp_min(1e-3)
        error = (found.landmarks - truth.landmarks).norm(dim=-1).mean(dim=1) / eyes
        self.log("val/auc", verification_auc(found.embedding, truth.identities, truth.videos), prog_bar=True)
        self.log("val/nme", error.median(), prog_bar=True)
        self.log("val/actions", correlation(found.actions, truth.actions), prog_bar=True)
        self.seen.clear()

    def on_train_end(self) -> None:
        """Fold batch norm into the convolutions, and write the network to `output`."""
        if self.trainer.is_global_zero:
            metadata = {"command": self.command, "actions": ",".join(self.action_names)}
            write_atomic(self.output, to_bytes(self.network.float().cpu(), metadata))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, weight_decay=self.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps, pct_start=0.15)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def start_at_mean(head: nn.Linear, values: Float[Tensor, "N ..."]) -> None:
    """Set the bias of a linear head to the mean of its targets, and its weights to zero."""
    nn.init.zeros_(head.weight)
    head.bias.data.copy_(values.mean(dim=0).flatten())


def to_images(batch: Faces) -> Float[Tensor, "B 3 H W"]:
    """Bytes to [-1, 1], channels last."""
    return to_float(batch.images).to(memory_format=torch.channels_last)


def arcface(
    embedding: Float[Tensor, "B D"],
    people: Float[Tensor, "N D"],
    identities: Int[Tensor, " B"],
    margin: float,
    scale: float,
) -> Float[Tensor, ""]:
    """Cross entropy over people of cosines, with `margin` added to the right angle (arXiv 1801.07698, Sec. 2)."""
    cosine = embedding @ F.normalize(people.float(), dim=1).T
    right = cosine.gather(1, identities[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    harder = torch.cos((right.acos() + margin).clamp(max=math.pi))
    return F.cross_entropy(scale * cosine.scatter(1, identities[:, None], harder), identities)


def swap_background(x: Float[Tensor, "B 3 H W"], landmarks: Float[Tensor, "B 68 2"]) -> Float[Tensor, "B 3 H W"]:
    """Give half of the heads the background of another picture, so that a room does not identify a person."""
    low, high = landmarks.amin(dim=1), landmarks.amax(dim=1)
    radius = 0.75 * (high - low).amax(dim=1)
    centre = (low + high) / 2 - torch.stack([torch.zeros_like(radius), 0.25 * radius], dim=1)  # with the hair
    rows = (torch.arange(x.shape[2], device=x.device) + 0.5) / x.shape[2]
    columns = (torch.arange(x.shape[3], device=x.device) + 0.5) / x.shape[3]
    across, down = columns - centre[:, :1], rows - centre[:, 1:]
    inside = 1 - (across[:, None, :].square() + down[:, :, None].square()).sqrt() / radius[:, None, None]
    keep = torch.sigmoid(12 * inside).unsqueeze(1)
    keep = keep.maximum((torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5).to(x.dtype))
    elsewhere = x.roll((1, x.shape[3] // 2), dims=(0, 3))
    return torch.lerp(elsewhere, x, keep)


def augment(
    x: Float[Tensor, "B 3 H W"], landmarks: Float[Tensor, "B 68 2"]
) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 68 2"]]:
    """Random zoom, rotation, shift (landmarks follow), blur, colours, noise, to which features should be invariant."""
    n, device = len(x), x.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(n, *shape, device=device).uniform_(low, high)

    angle, zoom, shift = uniform(-0.2, 0.2), uniform(0.85, 1.2), uniform(-0.15, 0.15, 2)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(n, 2, 2)
    matrix = turn * zoom[:, None, None]  # grid_sample: output place -> input place, in units of half an image
    grid = F.affine_grid(torch.cat([matrix, shift[:, :, None]], dim=2), list(x.shape), align_corners=False)
    x = resample(x, grid, "reflection")
    places = (2 * landmarks - 1 - shift[:, None]) @ torch.linalg.inv(matrix).transpose(1, 2)

    softened = F.avg_pool2d(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), 3, 1, 1, count_include_pad=False)
    x = torch.lerp(x, softened, uniform(-1.0, 0.5, 1, 1, 1).clamp_min(0))
    x = x * uniform(0.8, 1.2, 1, 1, 1) * uniform(0.95, 1.05, 3, 1, 1) + uniform(-0.1, 0.1, 1, 1, 1)
    x = x + torch.randn_like(x) * uniform(-0.06, 0.06, 1, 1, 1).clamp_min(0)
    return x.clamp(-1, 1), (places + 1) / 2


def correlation(found: Float[Tensor, "B A"], truth: Float[Tensor, "B A"]) -> Float[Tensor, ""]:
    """Pearson's correlation per action, averaged over the actions that occur."""
    occurs = truth.std(dim=0) > 0.01
    a, b = (values[:, occurs] - values[:, occurs].mean(dim=0) for values in (found, truth))
    return F.cosine_similarity(a, b, dim=0).mean()


def verification_auc(
    embeddings: Float[Tensor, "B D"], identities: Int[Tensor, " B"], videos: Int[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Area under the ROC curve of "same person?" by the cosine of two images: 0.5 is chance, 1 is perfect.

    Pairs from one video are left out: its background would identify them.
    """
    first, second = torch.triu_indices(len(embeddings), len(embeddings), offset=1, device=embeddings.device)
    apart = videos[first] != videos[second]
    first, second = first[apart], second[apart]
    same = identities[first] == identities[second]
    cosine = (embeddings @ embeddings.T)[first, second]
    ranks = torch.empty_like(cosine, dtype=torch.float64)
    ranks[cosine.argsort()] = torch.arange(1, len(cosine) + 1, dtype=torch.float64, device=cosine.device)
    positives, negatives = same.sum().double(), (~same).sum().double()
    return ((ranks[same].sum() - positives * (positives + 1) / 2) / (positives * negatives)).float()
