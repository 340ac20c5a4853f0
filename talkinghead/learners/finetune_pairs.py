"""What fine-tuning trains on (arXiv 1905.08233, Sec. 3.3): pairs of the shots, and how the face should move.

The paper uses the pairs (y, x) of the T shots alone. A few shots show no opening mouth, so fine-tuning can also
preserve the motion of the generator that it starts from (`MotionConsistency`), as prior preservation does (PTI, arXiv
2106.05744; DreamBooth, 2208.12242), and augment its pairs (DeepSIM, 2007.01289).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, final, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from talkinghead.faces.landmark_image import MIRROR, draw_landmarks
from talkinghead.models.fsth import PersonalGenerator
from talkinghead.models.layers import resample
from talkinghead.models.warp_guided import PersonalWarpGuidedGenerator, show
from talkinghead.reenactment.expressions import Expressions
from talkinghead.types import Frames

AnyPersonalGenerator = PersonalGenerator | PersonalWarpGuidedGenerator
Augmentation = Literal["mirror", "affine", "colour"]

TILT, RESIZE, SHIFT = 0.06, 0.04, 0.03  # of `affine`: standard deviations; radians, share, share of half a side
GAIN, OFFSET = 0.08, 0.04  # of `colour`: standard deviations, of images in [-1, 1]
GROWN = 0.3  # margin of the boxes around mouth and eyes on each side, as a share of the box
BOXES = (tuple(range(48, 68)), tuple(range(36, 42)), tuple(range(42, 48)))  # mouth, eyes
KNOWN_MOVES = 8  # landmarks y_j with other expressions, for each of which G_FF draws its motion once


class Pair(NamedTuple):
    """A batch to train on: x, y, and `condition`, the input of G' (y itself, or what `show` makes of y and a shot)."""

    x: Float[Tensor, "B 3 H W"]
    y: Float[Tensor, "B 3 H W"]
    condition: Float[Tensor, "B C H W"]


def check_augment(names: str | Sequence[str]) -> None:
    """Raise ValueError for a change of the pairs that there is none of."""
    known = get_args(Augmentation)
    if unknown := {names} - {*known} if isinstance(names, str) else {*names} - {*known}:
        raise ValueError(f"finetune.augment: no {sorted(unknown)}; choose from {', '.join(known)}")


@final
class PairSampler:
    """Makes training pairs from batches of the shots.

    Args:
        augment: any of `mirror` (half of the pairs), `affine` (a small rotation, scaling and shift) and `colour`
            (contrast and brightness of each channel); target and shown picture are changed alike
    """

    def __init__(self, generator: AnyPersonalGenerator, shots: Frames, augment: Sequence[str] = ()) -> None:
        check_augment(augment)
        self.augment = tuple(augment)
        self._warps = generator if isinstance(generator, PersonalWarpGuidedGenerator) else None
        self._shots = shots
        self._expressions = Expressions(shots.points) if self._warps is not None else None

    @torch.no_grad()
    def __call__(self, batch: Frames) -> Pair:
        """Augment a batch of the shots, and choose what G' is shown: never the target picture itself."""
        x, y, points = batch
        if self._warps is None or self._expressions is None:
            if self.augment:
                (x,), (points,) = augmented([x], [points], self.augment)
                y = drawn(points, x)
            return Pair(x, y, y)
        moved = self._expressions.sample(self._places(points), pose=True).to(points)
        shot, source = self._warps.partners(batch, moved)
        if self.augment:
            (x, shot), (points, source) = augmented([x, shot], [points, source], self.augment)
            y = drawn(points, x)
        return Pair(x, y, show(shot, source, y, points))

    def _places(self, points: Float[Tensor, "B 68 2"]) -> Int[Tensor, " B"]:
        """Index of the shot that each row of points belongs to."""
        return (points[:, None] - self._shots.points[None]).float().norm(dim=-1).mean(-1).argmin(1)


@final
class MotionConsistency:
    """L_motion: G' moves mouth and eyes as the generator from which it starts.

    The mean of |[G'(y_j) - G'(y)] - [G_FF(y_j) - G_FF(y)]| in boxes around mouth and eyes; y are landmarks of the
    shots, y_j the same face with another expression from the face model. The change that G_FF makes is computed once
    for `count` of them; each step draws one.
    """

    def __init__(self, generator: AnyPersonalGenerator, shots: Frames, count: int = KNOWN_MOVES) -> None:
        which = torch.randint(len(shots.images), (count,))
        points = Expressions(shots.points).sample(which).to(shots.points)
        which = which.to(shots.points.device)
        still = Frames(*(part[which] for part in shots))
        moved = Frames(still.images, drawn(points, still.images), points)
        # [count, 2, C, H, W]: y_j and y of a pair go through G' in one batch.
        self._shown = torch.stack([generator.condition(moved), generator.condition(still)], 1)
        self._boxes = boxes(torch.stack([points, still.points], 1), shots.images.shape[-1])
        self._change = torch.stack([change(generator, pair) for pair in self._shown])

    def __call__(self, generator: AnyPersonalGenerator) -> Float[Tensor, ""]:
        """The loss for one y_j, chosen at random."""
        n = int(torch.randint(len(self._shown), ()))
        drawn_moved, drawn_still = generator(self._shown[n])
        error = (drawn_moved.float() - drawn_still.float() - self._change[n]).abs() * self._boxes[n]
        return error.sum() / (3 * self._boxes[n].sum()).clamp(min=1)


@torch.no_grad()
def change(generator: AnyPersonalGenerator, pair: Float[Tensor, "2 C H W"]) -> Float[Tensor, "3 H W"]:
    """G(y_j) - G(y) with the generator in eval mode, as it will be used."""
    training = generator.training
    moved, still = generator.eval()(pair)
    generator.train(training)
    return moved.float() - still.float()


def boxes(points: Float[Tensor, "N P 68 2"], size: int) -> Float[Tensor, "N 1 H W"]:
    """1 in upright boxes around mouth and eyes, which enclose them in all P poses with the margin `GROWN`."""
    steps = torch.arange(size, device=points.device)
    mask = torch.zeros(len(points), size, size, dtype=torch.bool, device=points.device)
    for part in BOXES:
        at = points[:, :, list(part)].flatten(1, 2)
        low, high = at.amin(1), at.amax(1)
        grow = GROWN * (high - low).amax(1, keepdim=True)
        # A box is the product of an interval of columns (x) and one of rows (y).
        inside = (steps >= (low - grow)[..., None]) & (steps <= (high + grow)[..., None])  # [N, 2, size]
        mask |= inside[:, 1, :, None] & inside[:, 0, None, :]
    return mask[:, None].float()


def drawn(points: Float[Tensor, "B 68 2"], like: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """The landmark images of these points, in [-1, 1]."""
    size = like.shape[-1]
    images = np.stack([draw_landmarks(face, size) for face in points.cpu().float().numpy()])
    return torch.from_numpy(images).movedim(-1, 1).to(like).div_(127.5).sub_(1)


def augmented(
    images: Sequence[Float[Tensor, "B 3 H W"]], points: Sequence[Float[Tensor, "B 68 2"]], names: Sequence[str]
) -> tuple[list[Tensor], list[Tensor]]:
    """Pictures and their points (pixels), changed at random; the n-th pictures of all batches are changed alike."""
    images, points = [part.float() for part in images], [part.float() for part in points]
    if "affine" in names:
        images, points = moved_alike(images, points)
    if "mirror" in names:
        flip = torch.rand(len(images[0]), device=images[0].device) < 0.5
        images = [torch.where(flip[:, None, None, None], part.flip(-1), part) for part in images]
        points = [torch.where(flip[:, None, None], mirrored(part, images[0].shape[-1]), part) for part in points]
    if "colour" in names:
        gain, offset = torch.randn(2, len(images[0]), 3, 1, 1, device=images[0].device)
        images = [((1 + GAIN * gain) * part + OFFSET * offset).clamp(-1, 1) for part in images]
    return images, points


def mirrored(points: Float[Tensor, "B 68 2"], size: int) -> Float[Tensor, "B 68 2"]:
    """The landmarks of the flipped picture, in dlib's order again."""
    other = points[:, torch.from_numpy(MIRROR).to(points.device)]
    return torch.stack([size - 1 - other[..., 0], other[..., 1]], -1)


def moved_alike(images: list[Tensor], points: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """A small rotation, scaling and shift about the centre; beyond its edge the picture is mirrored."""
    count, _, _, size = images[0].shape
    turn, grow, x, y = torch.randn(4, count, device=images[0].device)
    turn, grow = TILT * turn, torch.exp(RESIZE * grow)
    shift = SHIFT * torch.stack([x, y], -1)
    cos, sin = turn.cos() * grow, turn.sin() * grow
    # grid_sample reads each output place from an input place: x_in = back x_out + shift, in half sides of the picture.
    back = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], 1)
    grid = F.affine_grid(torch.cat([back, shift[:, :, None]], 2), [count, 3, size, size], align_corners=False)
    pictures = [resample(part, grid, "reflection") for part in images]
    ahead = torch.linalg.inv(back)  # points go the other way: x_out = back^-1 (x_in - shift)
    unit = [(part + 0.5) * (2 / size) - 1 - shift[:, None] for part in points]
    return pictures, [((part @ ahead.transpose(1, 2)) + 1) * (size / 2) - 0.5 for part in unit]
