"""What a warp-guided generator is shown of the person: a shot moved to the driving landmarks, and what it cannot show.

Lineage: warp-guided GANs (Geng et al., SIGGRAPH Asia 2018) and few-shot vid2vid (arXiv 1910.12713). The flow is that of
thin-plate splines (Bookstein 1989) through the 68 points, through points of skull and ears that a mean head in space
gives for both poses, and through the border of the picture, which stays where it is. All is batched, on any device,
and differentiable in the points and the shot.
"""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

HEAD_POINTS = Path(__file__).with_name("head_points.json")
CELL = 4  # pixels between the nodes at which the splines are evaluated
STIFFNESS = {"landmarks": 1e-4, "skull": 2e-2, "hidden": 2.0, "border": 5e-2}  # how far a spline may miss its points
# Of the 68 landmarks. Slices, for a list would be an index that is copied to the GPU in every step.
LEFT_EYE, RIGHT_EYE, OUTER_LIP, INNER_LIP = slice(36, 42), slice(42, 48), slice(48, 60), slice(60, 68)
RIGID = slice(0, 6), slice(11, 48)  # jaw near the ears, brows, nose and eyes: what moves with the skull
UNKNOWN_BELOW, KNOWN_ABOVE = 0.45, 0.8  # opening in the shot, as a share of the opening at the driving points
STRETCH = (0.15, 6.0)  # of area, by the flow: outside, the shot has too little or too much to show


class HeadPoints(NamedTuple):
    """The mean head in space: x right, y down, z away from the camera; unit: r.m.s. distance of the 68 landmarks."""

    landmarks: Float[Tensor, "68 3"]
    skull: Float[Tensor, "E 3"]
    outward: Float[Tensor, "E 3"]  # the direction in which each point of the skull looks


class Guide(NamedTuple):
    """What G is shown beside the landmark image y.

    Attributes:
        warped: the shot, moved to the driving points
        flow: where each pixel of the output comes from in the shot, as `grid_sample` wants it, x and y in [-1, 1]
        known: 1 where `warped` can be trusted, 0 where the shot cannot show what is there
    """

    warped: Float[Tensor, "B 3 H W"]
    flow: Float[Tensor, "B H W 2"]
    known: Float[Tensor, "B 1 H W"]


@cache
@torch.inference_mode(False)  # kept for later steps, which may want gradients
def head_points(device: torch.device) -> HeadPoints:
    """The table that ships with the package."""
    table = json.loads(HEAD_POINTS.read_text())
    return HeadPoints(*(torch.tensor(table[name]).to(device) for name in HeadPoints._fields))


def rigid(points: Float[Tensor, "*B 68 D"]) -> Float[Tensor, "*B R D"]:
    """The landmarks that move with the skull."""
    return torch.cat([points[..., part, :] for part in RIGID], -2)


def guide(shot: Float[Tensor, "B 3 H W"], source: Float[Tensor, "B 68 2"], driving: Float[Tensor, "B 68 2"]) -> Guide:
    """Move a shot from its own points `source` to the `driving` points (both in pixels, integers at pixel centres)."""
    size = shot.shape[-1]
    with torch.autocast(shot.device.type, enabled=False):
        source, driving = (normalized(points.float(), size) for points in (source, driving))
        nodes = splines(driving, source, size)
        flow = upsampled(nodes, size)
        known = openings(source, driving, size) * unfolded(nodes, size)
        warped = F.grid_sample(shot.float(), flow, padding_mode="border", align_corners=False)
    return Guide(warped * known, flow, known)


def normalized(points: Float[Tensor, "B P 2"], size: int) -> Float[Tensor, "B P 2"]:
    """Pixels to [-1, 1] from edge to edge, as `grid_sample` counts without `align_corners`."""
    return (points + 0.5) * (2 / size) - 1


def project(points: Float[Tensor, "B 68 2"], head: HeadPoints) -> tuple[Float[Tensor, "B E 2"], Float[Tensor, "B E"]]:
    """Where the skull's points are in the picture, and how far each looks towards the camera (1: straight at it).

    The camera is the affine one that best maps the mean head's rigid landmarks to the given points.
    """
    space = F.pad(rigid(head.landmarks), (0, 1), value=1.0)
    camera = torch.linalg.pinv(space) @ rigid(points)  # [B, 4, 2]
    toward = F.normalize(torch.linalg.cross(camera[:, :3, 0], camera[:, :3, 1], dim=1), dim=1)  # into the picture
    facing = -(head.outward @ toward[:, :, None])[..., 0]
    return head.skull @ camera[:, :3] + camera[:, 3:], facing


def border(batch: int, device: torch.device) -> Float[Tensor, "B R 2"]:
    """Points of the picture's edge that stay: the corners, the sides and below, where the shoulders are."""
    return edge_points(device).expand(batch, -1, -1)


@cache
@torch.inference_mode(False)
def edge_points(device: torch.device) -> Float[Tensor, "R 2"]:
    """Those of one picture."""
    sides = [(x, y) for x in (-1.0, 1.0) for y in (-1.0, -0.33, 0.33, 1.0)]
    return torch.tensor([*sides, (-0.5, 1.0), (0.0, 1.05), (0.5, 1.0), (-0.4, -1.1), (0.4, -1.1)]).to(device)


def splines(driving: Float[Tensor, "B 68 2"], source: Float[Tensor, "B 68 2"], size: int) -> Float[Tensor, "B n n 2"]:
    """The flow at nodes `CELL` pixels apart: thin-plate splines from the driving points to the source points."""
    head = head_points(driving.device)
    (skull_to, facing_to), (skull_from, facing_from) = project(driving, head), project(source, head)
    edge = border(len(driving), driving.device)
    at = torch.cat([driving, skull_to, edge], 1)
    move = torch.cat([source - driving, skull_from - skull_to, torch.zeros_like(edge)], 1)
    seen = torch.sigmoid(6 * (torch.minimum(facing_to, facing_from) + 0.1))
    hidden = STIFFNESS["skull"] * seen + STIFFNESS["hidden"] * (1 - seen)
    stiffness = torch.cat(
        [hidden.new_full(driving.shape[:2], STIFFNESS["landmarks"]), hidden,
         hidden.new_full(edge.shape[:2], STIFFNESS["border"])], 1,
    )  # fmt: skip
    affine = F.pad(at, (1, 0), value=1.0)  # [B, P, 3]: 1, x, y
    top = torch.cat([kernel(at, at) + torch.diag_embed(stiffness), affine], 2)
    bottom = F.pad(affine.transpose(1, 2), (0, 3))
    weights = torch.linalg.solve(torch.cat([top, bottom], 1), F.pad(move, (0, 0, 0, 3)))
    nodes = centres(size // CELL, at.device).expand(len(at), -1, -1)
    basis = torch.cat([kernel(nodes, at), F.pad(nodes, (1, 0), value=1.0)], 2)
    return (nodes + basis @ weights).unflatten(1, (size // CELL, -1))


def kernel(a: Float[Tensor, "B P 2"], b: Float[Tensor, "B Q 2"]) -> Float[Tensor, "B P Q"]:
    """r^2 log r of all pairs."""
    squared = (a[:, :, None] - b[:, None]).square().sum(-1)
    return 0.5 * squared * torch.log(squared.clamp(min=1e-9))


def centres(count: int, device: torch.device) -> Float[Tensor, "N 2"]:
    """Centres of count x count cells of the picture, x and y in [-1, 1], row by row."""
    steps = (torch.arange(count, device=device) * 2 + 1) / count - 1
    return torch.cartesian_prod(steps, steps).flip(1)


def upsampled(nodes: Float[Tensor, "B n n 2"], size: int) -> Float[Tensor, "B H W 2"]:
    """The flow at every pixel; beyond the outermost nodes it goes on as it does between them."""
    offsets = (nodes - centres(nodes.shape[1], nodes.device).unflatten(0, nodes.shape[1:3])).movedim(-1, 1)
    fine = F.interpolate(offsets, size=(size, size), mode="bilinear", align_corners=False).movedim(1, -1)
    return fine + centres(size, nodes.device).unflatten(0, (size, size))


def openings(source: Float[Tensor, "B 68 2"], driving: Float[Tensor, "B 68 2"], size: int) -> Float[Tensor, "B 1 H W"]:
    """0 inside lips and lids that open wider at the driving points than in the shot: what is there, the shot hides."""
    half = size // 2
    pixels = centres(half, driving.device)
    known = driving.new_ones(len(driving), half * half)
    for part in (INNER_LIP, LEFT_EYE, RIGHT_EYE):
        share = area(source[:, part]) / area(driving[:, part]).clamp(min=1e-6)
        lack = ((KNOWN_ABOVE - share) / (KNOWN_ABOVE - UNKNOWN_BELOW)).clamp(0, 1)
        known = known * (1 - inside(pixels, driving[:, part]) * lack[:, None])
    fine = F.interpolate(known.unflatten(1, (1, half, half)), size=(size, size), mode="bilinear", align_corners=False)
    return fine


def area(polygon: Float[Tensor, "B P 2"]) -> Float[Tensor, " B"]:
    """By the shoelace formula; 0 for a polygon that is turned inside out, as crossing lips are."""
    after = polygon.roll(-1, 1)
    return 0.5 * (polygon[..., 0] * after[..., 1] - polygon[..., 1] * after[..., 0]).sum(1).clamp(min=0)


def inside(pixels: Float[Tensor, "N 2"], polygon: Float[Tensor, "B P 2"]) -> Float[Tensor, "B N"]:
    """1 inside the polygon, 0 outside: an odd number of its edges lies to the right."""
    a, b = polygon[:, None], polygon.roll(-1, 1)[:, None]
    x, y = pixels[None, :, None, 0], pixels[None, :, None, 1]
    crosses = (a[..., 1] > y) != (b[..., 1] > y)
    rise = b[..., 1] - a[..., 1]
    rise = torch.where(rise.abs() < 1e-9, torch.full_like(rise, 1e-9), rise)
    right = x < (b[..., 0] - a[..., 0]) * (y - a[..., 1]) / rise + a[..., 0]
    return ((crosses & right).sum(-1) % 2).to(polygon.dtype)


def unfolded(nodes: Float[Tensor, "B n n 2"], size: int) -> Float[Tensor, "B 1 H W"]:
    """0 where the flow folds, or takes much picture from little shot or little from much."""
    dx, dy = nodes[:, :-1, 1:] - nodes[:, :-1, :-1], nodes[:, 1:, :-1] - nodes[:, :-1, :-1]
    stretch = (dx[..., 0] * dy[..., 1] - dx[..., 1] * dy[..., 0]) * (nodes.shape[1] / 2) ** 2
    fine = ((stretch > STRETCH[0]) & (stretch < STRETCH[1])).to(nodes.dtype)[:, None]
    return F.interpolate(F.pad(fine, (0, 1, 0, 1), mode="replicate"), size=(size, size), mode="bilinear")


def parts_mask(points: Float[Tensor, "B 68 2"], size: int, grow: int = 5) -> Float[Tensor, "B 1 H W"]:
    """1 on lips and lids at these points (pixels), and a little around them: where a picture comes alive."""
    half = size // 2
    pixels, at = centres(half, points.device), normalized(points.float(), size)
    mask = torch.stack([inside(pixels, at[:, part]) for part in (OUTER_LIP, LEFT_EYE, RIGHT_EYE)]).amax(0)
    grown = F.max_pool2d(mask.unflatten(1, (1, half, half)), grow, 1, grow // 2)
    return F.interpolate(grown, size=(size, size), mode="nearest")
