"""The warp-guided generator: G also gets the person's own pixels, warped to the driving landmarks.

E, D, W, the losses and the stages are those of arXiv 1905.08233. A vector alone loses identity (MarioNETte, arXiv
1911.08139), so G copies what a shot can show, and draws the rest: the inside of an opening mouth, lids, what turning
uncovers (as few-shot vid2vid, arXiv 1910.12713: warped frame, synthesised frame, mask).
"""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from talkinghead.models.guide import guide, landmark_flow
from talkinghead.models.layers import AdaptiveBlock, DownBlock, InstanceNorm, conv, normalized, resample
from talkinghead.models.memory_format import layout_of
from talkinghead.types import Episode, Frames

CHANNELS = {"landmarks": 3, "warped": 3, "shot": 3, "flow": 2, "known": 1, "inner": 1}  # of y, in this order
SEEN = sum(CHANNELS.values()) - CHANNELS["inner"]  # of them, by the convolutions; the last is for `compose` alone
REACH = 0.15  # largest correction of the flow, in half sides of the picture
SAME = 0.02  # eye distances: frames whose landmarks differ by less count as the same picture
CHANGE = 0.25  # eye distances, summed over frames: for less the shown shot does not change
FADE = 5  # frames of a cross-fade between two shots
GRID, SPREAD = 32, 3  # cells of a side, and smoothings, of the colour carried into what is not known
OFFSET_SCALE = 4.0  # G gets the flow as offsets from the identity, times this


class Preset(NamedTuple):
    """The sizes of a generator: enough to build it again from a file."""

    image_size: int
    channels: tuple[int, ...]
    num_residual: int
    spectral_norm: bool
    corrected: bool
    unwarped: bool


class WarpGuidedSynthesizer(nn.Module):
    """What G and G' share: from guide and AdaIN values to a picture. A U-Net at half size.

    Args:
        channels: widths at 1/2, 1/4, 1/8 … of the picture's side
        num_residual: adaptive blocks at the bottleneck
        corrected: G corrects the flow of the guide; False: an ablation
        unwarped: G may copy from the shot as it is, for the background; False: an ablation
    """

    def __init__(
        self, image_size: int = 256, channels: Sequence[int] = (32, 64, 128, 256), num_residual: int = 3,
        spectral_norm: bool = False, corrected: bool = True, unwarped: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        channels = tuple(channels)  # OmegaConf's lists do not support negative steps
        if image_size % 2 ** len(channels):
            raise ValueError(f"image_size={image_size}: {len(channels)} levels need a multiple of {2 ** len(channels)}")
        self.preset = Preset(image_size, tuple(channels), num_residual, spectral_norm, corrected, unwarped)
        sn, (first, *_), last = spectral_norm, channels, channels[-1]
        self.from_guide = conv(4 * SEEN, first, 3, sn)
        self.down = nn.ModuleList(DownBlock(a, b, instance_norm=True, spectral_norm=sn) for a, b in pairwise(channels))
        self.middle = nn.ModuleList(AdaptiveBlock(last, last, spectral_norm=sn) for _ in range(num_residual))
        wide = [last, *(2 * c for c in channels[-2::-1])]  # after the bottleneck, skips are concatenated
        self.up = nn.ModuleList(
            AdaptiveBlock(a, b, upsample=True, spectral_norm=sn) for a, b in zip(wide, channels[-2::-1], strict=False)
        )
        self.last = AdaptiveBlock(2 * first, first, spectral_norm=sn)
        self.norm = InstanceNorm(first, affine=False)
        # For each 2 x 2 pixels of full size: 3 colours and 3 masks each; and one correction (x, y) at half size.
        self.to_parts = conv(first, 4 * (3 + 3) + 2, 3, sn)
        # `pixel_shuffle` makes output c of channels 4 c to 4 c + 3: 0 to 11 are the colours, then come four for each
        # mask, of warp, shot and picture; 24 and 25 are the correction.
        with torch.no_grad():  # starts mostly as the warp (mask logits 1.5, 0, -0.5), uncorrected
            parametrized_weight(self.to_parts)[24:].zero_()
            bias = self.to_parts.bias
            assert isinstance(bias, Tensor)
            bias.zero_()
            bias[12:16], bias[20:24] = 1.5, -0.5
        # In the order in which the modules were made above: `synthesize` uses them in the same order.
        self.psi_sizes = [
            2 * m.channels for m in self.modules() if isinstance(m, InstanceNorm) and m.scale_shift is None
        ]

    def synthesize(self, shown: Float[Tensor, "B 13 H W"], psi: Float[Tensor, "B S"]) -> Float[Tensor, "B 3 H W"]:
        """x_hat in [-1, 1] for the output of `show`, with these scales and shifts."""
        layers = iter(psi.split(self.psi_sizes, dim=1))
        # 2 x 2 pixels become channels: half the size costs a quarter, and no pixel of the shot is lost.
        h = self.from_guide(F.pixel_unshuffle(shown[:, :SEEN], 2).contiguous(memory_format=layout_of(self)))
        skips = [h]
        for block in self.down:
            h = block(h)
            skips.append(h)
        skips.pop()  # the deepest one is h itself
        for block in self.middle:
            h = block(h, [next(layers), next(layers)])
        for block in self.up:
            h = torch.cat([block(h, [next(layers), next(layers)]), skips.pop()], 1)
        h = self.last(h, [next(layers), next(layers)])
        return self.compose(shown.float(), self.to_parts(F.relu(self.norm(h, next(layers)))).float())

    def compose(self, shown: Float[Tensor, "B 13 H W"], parts: Float[Tensor, "B 26 h w"]) -> Float[Tensor, "B 3 H W"]:
        """x_hat = m_warp * resample(shot, flow + correction) + m_shot * shot + m_picture * picture; masks sum to 1.

        What is drawn takes its colour from what is known around it, except between lips and lids.
        """
        landmarks, _, shot, offset, known, inner = shown.split(list(CHANNELS.values()), dim=1)
        picture, logits = without_grid(F.pixel_shuffle(parts[:, :24], 2)).split(3, dim=1)
        correction = F.interpolate(REACH * torch.tanh(parts[:, 24:]), scale_factor=2.0, mode="bilinear")
        move = offset / OFFSET_SCALE + (correction if self.preset.corrected else 0)
        moved = resample(shot, identity_flow(shot) + move.movedim(1, -1))
        # Nothing is copied where the shot is not known. The picture's own mask stays, so the sum below is never 0.
        masks = logits.softmax(1) * torch.cat(
            [known, known if self.preset.unwarped else 0 * known, torch.ones_like(known)], 1
        )
        warp, still, drawn = (masks / masks.sum(1, keepdim=True)).split(1, dim=1)
        picture = torch.tanh(picture)
        lack = surrounding_colour(moved - picture, known * (1 - lines(landmarks)))
        picture = (picture + lack * (1 - inner)).clamp(-1, 1)
        return warp * moved + still * shot + drawn * picture


class WarpGuidedGenerator(WarpGuidedSynthesizer):
    """G(y, e_hat; psi, P) -> x_hat, where y is the 13-channel output of `show`: landmark image, shot and guide.

    Args:
        embedding_size: N
        embedded: psi_hat depends on e_hat; False: an ablation, the same scales and shifts for everybody
    """

    def __init__(
        self, image_size: int = 256, embedding_size: int = 128, channels: Sequence[int] = (32, 64, 128, 256),
        num_residual: int = 3, spectral_norm: bool = False, corrected: bool = True, unwarped: bool = True,
        embedded: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(image_size, channels, num_residual, spectral_norm, corrected, unwarped)
        self.embedding_size, self.embedded = embedding_size, embedded
        self.projection = normalized(nn.Linear(embedding_size, sum(self.psi_sizes)), self.preset.spectral_norm)  # P
        nn.init.normal_(parametrized_weight(self.projection), std=0.02)

    def project(self, e_hat: Float[Tensor, "B N"]) -> Float[Tensor, "B S"]:
        """psi_hat = P e_hat: all scales and shifts of the AdaIN layers, in the order of the layers."""
        with torch.autocast(e_hat.device.type, enabled=False):
            return self.projection(e_hat.float() if self.embedded else torch.zeros_like(e_hat, dtype=torch.float32))

    def condition(self, batch: Episode) -> Float[Tensor, "B 13 H W"]:
        """y of an episode: its shot nearest in pose is warped to the target's points."""
        rows = torch.arange(len(batch.target), device=batch.target.device)
        nearest = (batch.target_points[:, None] - batch.shots_points).float().norm(dim=-1).mean(-1).argmin(1)
        return show(
            batch.shots[rows, nearest], batch.shots_points[rows, nearest], batch.target_landmarks, batch.target_points
        )

    def forward(self, y: Float[Tensor, "B 13 H W"], e_hat: Float[Tensor, "B N"]) -> Float[Tensor, "B 3 H W"]:
        return self.synthesize(y, self.project(e_hat))

    @torch.no_grad()
    def personalize(self, e_hat: Float[Tensor, "1 N"], shots: Frames) -> "PersonalWarpGuidedGenerator":
        """G' for this embedding and these shots; at first it draws what G draws (Sec. 3.3)."""
        person = PersonalWarpGuidedGenerator(len(shots.images), **self.preset._asdict())
        # P is not in the person's state and stays behind; `assign`, as the person's modules are on the meta device.
        own = {name: value.clone() for name, value in self.state_dict().items() if name in set(person.state_dict())}
        psi, points = self.project(e_hat).clone(), shots.points.clone()
        person.load_state_dict({**own, "psi": psi, "shots": shots.images.clone(), "points": points}, assign=True)
        return person.train(self.training)


class PersonalWarpGuidedGenerator(WarpGuidedSynthesizer):
    """G'(y; psi, psi') -> x_hat, the generator of one person: the shots are buffers, psi' are parameters."""

    shots: Tensor
    points: Tensor

    def __init__(self, num_shots: int, **sizes: Any) -> None:
        with torch.device("meta"):
            super().__init__(**sizes)
            side = self.preset.image_size
            self.psi = nn.Parameter(torch.zeros(1, sum(self.psi_sizes)))
            self.register_buffer("shots", torch.zeros(num_shots, 3, side, side))
            self.register_buffer("points", torch.zeros(num_shots, 68, 2))

    def condition(self, driving: Frames, which: Int[Tensor, " M"] | None = None) -> Float[Tensor, "M 13 H W"]:
        """y of driving frames: a shot, `which` or the one nearest in pose, is warped to the driving points."""
        if which is None:
            which = self.distances(driving.points).argmin(1)
        return show(self.shots[which], self.points[which], driving.landmarks, driving.points)

    def distances(self, driving: Float[Tensor, "M 68 2"]) -> Float[Tensor, "M T"]:
        """How far the shots are from driving points: mean over the landmarks, in eye distances of the driver."""
        eyes = (driving[:, 36] - driving[:, 45]).float().norm(dim=-1, keepdim=True)
        return (driving[:, None] - self.points[None]).float().norm(dim=-1).mean(-1) / eyes.clamp(min=1e-6)

    @torch.no_grad()
    def partners(
        self, batch: Frames, moved: Float[Tensor, "B 68 2"]
    ) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 68 2"]]:
        """Pictures to show while the shots in `batch` are targets, and their points: never the target itself.

        The nearest of the other shots, as in use; where there is none, or all are (nearly) the same picture, the target
        warped to its `moved` points, in another pose and expression.
        """
        distance = (batch.points[:, None] - self.points[None]).float().norm(dim=-1).mean(-1)
        eyes = (batch.points[:, 36] - batch.points[:, 45]).float().norm(dim=-1, keepdim=True)
        distance = distance.masked_fill(distance < SAME * eyes, float("inf"))
        nearest, alone = distance.argmin(1), distance.isinf().all(1)  # where alone, argmin is 0, and unused
        itself = resample(batch.images.float(), landmark_flow(batch.points, moved, batch.images.shape[-1]))
        shot = torch.where(alone[:, None, None, None], itself, self.shots[nearest])
        return shot, torch.where(alone[:, None, None], moved, self.points[nearest])

    def forward(self, y: Float[Tensor, "B 13 H W"]) -> Float[Tensor, "B 3 H W"]:
        return self.synthesize(y, self.psi.expand(len(y), -1))

    @torch.no_grad()
    def fold(self) -> "PersonalWarpGuidedGenerator":
        """A copy for inference: weights are divided by their spectral norm once, instead of at every use."""
        original = copy.deepcopy(self).eval()
        sizes = self.preset._replace(spectral_norm=False)._asdict()
        person, state = PersonalWarpGuidedGenerator(len(self.shots), **sizes), original.state_dict()
        for name, layer in original.named_modules():
            if parametrize.is_parametrized(layer, "weight"):
                state[f"{name}.weight"] = layer.weight
        person.load_state_dict({name: state[name] for name in person.state_dict()}, assign=True)
        return person.eval().requires_grad_(False)


def shot_shares(
    distances: Float[Tensor, "F T"], change: float = CHANGE, fade: int = FADE
) -> Float[Tensor, "F T"]:  # fmt: skip
    """Shares of T shots in the consecutive frames of a video, so that it does not jump; rows sum to 1.

    The nearest shot of every frame alone would change every few frames. So of all sequences of shots that one is taken
    whose sum of distances, and of `change` for each change of the shot, is smallest (Viterbi 1967), and each change
    becomes a cross-fade over `fade` frames.

    >>> shares = shot_shares(torch.tensor([[0.0, 9.0]] * 4 + [[9.0, 8.9]] + [[9.0, 0.0]] * 4), fade=3)
    >>> [round(float(share), 2) for share in shares[:, 1]]
    [0.0, 0.0, 0.0, 0.33, 0.67, 1.0, 1.0, 1.0, 1.0]
    """
    # cost[t]: of the best sequence up to this frame that ends with shot t. A change to t is cheapest from the best shot
    # of all, so a step compares two predecessors of t, not T.
    cost, before = distances[0], []
    for row in distances[1:]:
        stays = cost <= cost.min() + change
        before.append(torch.where(stays, torch.arange(len(row)), cost.argmin()))
        cost = row + torch.minimum(cost, cost.min() + change)
    path = [int(cost.argmin())]
    for previous in reversed(before):
        path.append(int(previous[path[-1]]))
    chosen = F.one_hot(torch.tensor(path[::-1]), distances.shape[1]).float()  # averaged over time: a cross-fade
    return F.avg_pool1d(F.pad(chosen.T, (fade // 2, fade // 2), mode="replicate"), 2 * (fade // 2) + 1, 1).T


def show(
    shot: Float[Tensor, "B 3 H W"], source: Float[Tensor, "B 68 2"], landmarks: Float[Tensor, "B 3 H W"],
    driving: Float[Tensor, "B 68 2"],
) -> Float[Tensor, "B 13 H W"]:  # fmt: skip
    """The input of G (`CHANNELS`): landmark image, warped shot, shot, offsets of the flow, and masks of the guide."""
    warped, flow, known, inner = guide(shot, source, driving)
    offset = (flow - identity_flow(shot)).movedim(-1, 1) * OFFSET_SCALE
    return torch.cat([landmarks.float(), warped, shot.float(), offset, known, inner], 1)


def without_grid(image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Smoothed by the binomial kernel (1, 2, 1) / 4 along both axes, which removes what alternates from pixel to pixel.

    The four sub-pixels of `pixel_shuffle` are four channels, which may drift apart: a fine grid over the picture.

    >>> without_grid(torch.tensor([[[[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 2.0]]]]))
    tensor([[[[0.5000, 0.5000, 0.7500, 1.0000],
              [0.5000, 0.5000, 0.7500, 1.0000]]]])
    """
    rows = torch.cat([image[..., 1:2, :], image, image[..., -2:-1, :]], -2)  # mirrored at the border
    rows = 0.25 * (rows[..., :-2, :] + 2 * image + rows[..., 2:, :])
    columns = torch.cat([rows[..., 1:2], rows, rows[..., -2:-1]], -1)
    return 0.25 * (columns[..., :-2] + 2 * rows + columns[..., 2:])


def lines(landmarks: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    """1 on the lines of a landmark image and near them: brows, lashes, lips, which have not the colour of the skin."""
    near = 2 * (landmarks.shape[-1] // 64) + 1
    return F.max_pool2d((landmarks.amax(1, keepdim=True) > -0.5).to(landmarks.dtype), near, 1, near // 2)


def surrounding_colour(lack: Float[Tensor, "B 3 H W"], known: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3 H W"]:
    """What the drawn picture lacks in colour, averaged where it is known, and carried into what is not known.

    So skin and hair that a turn or a lid brings up have the colour of what is beside them. Normalized convolution
    (Knutsson and Westin, CVPR 1993) on a coarse grid, by a binomial kernel.

    Args:
        lack: known picture minus drawn picture
        known: where the former can be trusted
    """
    cell = max(1, lack.shape[-1] // GRID)
    both = F.avg_pool2d(torch.cat([lack * known, known], 1), cell)
    for _ in range(SPREAD):
        both = without_grid(both)
    # blur(lack * known) / blur(known): a mean over known places only. Far from all of them it fades to no correction.
    colour, weight = both.split([3, 1], dim=1)
    return F.interpolate(colour / (weight + 0.01), size=lack.shape[-2:], mode="bilinear", align_corners=False)


def identity_flow(image: Float[Tensor, "B C H W"]) -> Float[Tensor, "1 H W 2"]:
    """The flow that moves nothing: pixel centres, x and y in (-1, 1)."""
    size = image.shape[-1]
    steps = (torch.arange(size, device=image.device) * 2 + 1) / size - 1
    return torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)[None]


def parametrized_weight(layer: nn.Module) -> Tensor:
    """The stored weight of a layer: under spectral norm, before it is divided."""
    if parametrize.is_parametrized(layer, "weight"):
        return layer.parametrizations.weight.original  # type: ignore[union-attr, return-value]
    return layer.weight  # type: ignore[return-value]
