"""Input of a warp-guided generator: a shot warped to the driving landmarks, and a mask of what it cannot show.

Lineage: warp-guided GANs (Geng et al., SIGGRAPH Asia 2018) and few-shot vid2vid (arXiv 1910.12713). The flow is that of
thin-plate splines (Bookstein 1989) through the 68 points, through points of skull and ears, which a mean head in space
gives for both poses, and through points of the picture's border, which do not move. Everything is batched, runs on any
device, and is differentiable in the points and the shot.
"""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from talkinghead.models.layers import resample

HEAD_POINTS = Path(__file__).with_name("head_points.json")
CELL = 4  # pixels between the nodes at which the splines are evaluated: they are smooth between control points
# Of the splines at each kind of control point: 0 would interpolate exactly, more lets the spline pass beside the point.
STIFFNESS = {"landmarks": 1e-4, "skull": 2e-2, "hidden": 2.0, "border": 5e-2}
# Of the 68 landmarks. Slices, because indexing by a list would copy the index to the GPU in every step.
LEFT_EYE, RIGHT_EYE, MOUTH = slice(36, 42), slice(42, 48), slice(48, 68)
OUTER_LIP, INNER_LIP = slice(48, 60), slice(60, 68)
OPENINGS = INNER_LIP, LEFT_EYE, RIGHT_EYE
RIGID = slice(0, 6), slice(11, 48)  # jaw near the ears, brows, nose and eyes: they move with the skull
# Area of an opening, in the shot and driven, the smaller as a share of the larger. Detectors see shut eyes half open.
UNKNOWN_BELOW, KNOWN_ABOVE = 0.45, 0.8
SHUT_EYE, SHUT_LIPS = (0.06, 0.12), (0.02, 0.06)  # area of an opening by its squared width: below shut, above open
LASHES = 0.3  # beyond the edge that a closing lid leaves, as a share of its distance from the middle of the eye
LIP_LINE = 0.012  # on each side of the line of closing lips, half pictures
STRETCH = (0.15, 6.0)  # area in the shot per area of output: outside these bounds the warp is not trusted


class HeadPoints(NamedTuple):
    """The mean head in space: x right, y down, z away from the camera; unit: r.m.s. distance of the 68 landmarks."""

    landmarks: Float[Tensor, "68 3"]
    skull: Float[Tensor, "E 3"]
    outward: Float[Tensor, "E 3"]  # unit normal of the skull at each point


class Guide(NamedTuple):
    """A shot warped to the driving points, beside the landmark image y.

    Attributes:
        warped: the shot at the driving points, in [-1, 1]; 0 where it is not known
        flow: place in the shot of each output pixel, as `grid_sample` takes it: x and y in [-1, 1]
        known: 1 where `warped` can be trusted, 0 where the shot cannot show what is there
        inner: 1 between the lips and between the lids, where teeth and eyeballs are, at the driving points
    """

    warped: Float[Tensor, "B 3 H W"]
    flow: Float[Tensor, "B H W 2"]
    known: Float[Tensor, "B 1 H W"]
    inner: Float[Tensor, "B 1 H W"]


@cache
@torch.inference_mode(False)  # kept for later steps, which may want gradients
def head_points(device: torch.device) -> HeadPoints:
    """Read the table that ships with the package, once per device."""
    table = json.loads(HEAD_POINTS.read_text())
    return HeadPoints(*(torch.tensor(table[name]).to(device) for name in HeadPoints._fields))


def rigid(points: Float[Tensor, "*B 68 D"]) -> Float[Tensor, "*B R D"]:
    """The landmarks that move with the skull."""
    return torch.cat([points[..., part, :] for part in RIGID], -2)


def guide(shot: Float[Tensor, "B 3 H W"], source: Float[Tensor, "B 68 2"], driving: Float[Tensor, "B 68 2"]) -> Guide:
    """Warp a shot from its own points `source` to the `driving` points, both in pixels, integers at pixel centres.

    A lid slides over the eye and does not squeeze it: eyes that close stay as they are in `warped`, but for the head's
    movement, and what the lids cover is not known.
    """
    size = shot.shape[-1]
    # In fp32: bfloat16 places a point of a 256 px picture only to half a pixel, and `linalg.solve` does not take it.
    with torch.autocast(shot.device.type, enabled=False):
        source, driving = (normalized(points.float(), size) for points in (source, driving))
        eyes = [unclosed(source, driving, part) for part in (LEFT_EYE, RIGHT_EYE)]
        opened = torch.cat([driving[:, :36], *eyes, driving[:, 48:60], parted(source, driving)], 1)
        nodes = splines(opened, source, size)  # backward: each output place says where to read in the shot
        flow = upsampled(nodes, size)
        inner = inner_masks(driving, size)
        known = openings(source, driving, inner) * closings(source, driving, opened, inner) * unfolded(nodes, size)
        warped = resample(shot.float(), flow)
    return Guide(warped * known, flow, known, full_size(inner.amax(1)))


def landmark_flow(
    source: Float[Tensor, "B 68 2"], driving: Float[Tensor, "B 68 2"], size: int
) -> Float[Tensor, "B H W 2"]:  # fmt: skip
    """The flow that takes every landmark along, those of closing lids as well; points in pixels."""
    source, driving = (normalized(points.float(), size) for points in (source, driving))
    return upsampled(splines(driving, source, size), size)


def normalized(points: Float[Tensor, "B P 2"], size: int) -> Float[Tensor, "B P 2"]:
    """Pixels to [-1, 1] from edge to edge, as in `grid_sample` with `align_corners=False`."""
    return (points + 0.5) * (2 / size) - 1


def project(points: Float[Tensor, "B 68 2"], head: HeadPoints) -> tuple[Float[Tensor, "B E 2"], Float[Tensor, "B E"]]:
    """The skull's points in the picture, and the cosine between each one's normal and the direction to the camera.

    The camera is the affine one that best maps the mean head's rigid landmarks to the given points.
    """
    space = F.pad(rigid(head.landmarks), (0, 1), value=1.0)  # homogeneous: x, y, z, 1
    camera = torch.linalg.pinv(space) @ rigid(points)  # least squares, [B, 4, 2]: three rows of axes, one of the shift
    # The axes of picture x and y in space span the image plane; their cross product is the viewing direction,
    # which points away from the camera as z does: a normal against it faces the camera.
    toward = F.normalize(torch.linalg.cross(camera[:, :3, 0], camera[:, :3, 1], dim=1), dim=1)
    facing = -(head.outward @ toward[:, :, None])[..., 0]
    return head.skull @ camera[:, :3] + camera[:, 3:], facing


def border(batch: int, device: torch.device) -> Float[Tensor, "B R 2"]:
    """Fixed points of the border for a batch: corners and sides, and the lower edge, where the shoulders are."""
    return edge_points(device).expand(batch, -1, -1)


@cache
@torch.inference_mode(False)
def edge_points(device: torch.device) -> Float[Tensor, "R 2"]:
    """The fixed points of one picture, in [-1, 1] and a little beyond."""
    sides = [(x, y) for x in (-1.0, 1.0) for y in (-1.0, -0.33, 0.33, 1.0)]
    return torch.tensor([*sides, (-0.5, 1.0), (0.0, 1.05), (0.5, 1.0), (-0.4, -1.1), (0.4, -1.1)]).to(device)


def splines(driving: Float[Tensor, "B 68 2"], source: Float[Tensor, "B 68 2"], size: int) -> Float[Tensor, "B n n 2"]:
    """The flow at nodes `CELL` pixels apart: thin-plate splines from the driving points to the source points.

    f(z) = z + t + A z + sum_i w_i U(|z - p_i|) with U(r) = r^2 log r and the control points p_i at their driven places.
    Their displacements d give the coefficients: [[K + diag(stiffness), P], [P^T, 0]] [w; (t, A)] = [d; 0], where
    K_ij = U(|p_i - p_j|) and P has the rows (1, x_i, y_i) (Bookstein 1989; the diagonal smooths, Wahba 1990).
    """
    head = head_points(driving.device)
    (skull_to, facing_to), (skull_from, facing_from) = project(driving, head), project(source, head)
    edge = border(len(driving), driving.device)
    at = torch.cat([driving, skull_to, edge], 1)
    move = torch.cat([source - driving, skull_from - skull_to, torch.zeros_like(edge)], 1)
    seen = torch.sigmoid(6 * (torch.minimum(facing_to, facing_from) + 0.1))  # in both poses; points behind pull little
    hidden = STIFFNESS["skull"] * seen + STIFFNESS["hidden"] * (1 - seen)
    stiffness = torch.cat(
        [hidden.new_full(driving.shape[:2], STIFFNESS["landmarks"]), hidden,
         hidden.new_full(edge.shape[:2], STIFFNESS["border"])], 1,
    )  # fmt: skip
    affine = F.pad(at, (1, 0), value=1.0)  # [B, P, 3]: 1, x, y
    # The rows P^T w = 0 leave the affine part to (t, A). On such w, K is positive definite; the positive diagonal keeps
    # the solution unique where control points coincide, as on shut lids.
    top = torch.cat([kernel(at, at) + torch.diag_embed(stiffness), affine], 2)
    bottom = F.pad(affine.transpose(1, 2), (0, 3))
    weights = torch.linalg.solve(torch.cat([top, bottom], 1), F.pad(move, (0, 0, 0, 3)))
    nodes = centres(size // CELL, at.device).expand(len(at), -1, -1)
    basis = torch.cat([kernel(nodes, at), F.pad(nodes, (1, 0), value=1.0)], 2)
    return (nodes + basis @ weights).unflatten(1, (size // CELL, -1))


def kernel(a: Float[Tensor, "B P 2"], b: Float[Tensor, "B Q 2"]) -> Float[Tensor, "B P Q"]:
    """U(r) = r^2 log r of all pairs, written as r^2 log(r^2) / 2: no root, whose gradient is infinite at 0."""
    squared = (a[:, :, None] - b[:, None]).square().sum(-1)
    return 0.5 * squared * torch.log(squared.clamp(min=1e-9))


def centres(count: int, device: torch.device) -> Float[Tensor, "N 2"]:
    """Centres of count x count cells of the picture, x and y in [-1, 1], row by row."""
    steps = (torch.arange(count, device=device) * 2 + 1) / count - 1
    return torch.cartesian_prod(steps, steps).flip(1)  # the product is (y, x), its second factor runs fastest


def upsampled(nodes: Float[Tensor, "B n n 2"], size: int) -> Float[Tensor, "B H W 2"]:
    """The flow at every pixel, bilinear between the nodes.

    Offsets from the identity are interpolated: beyond the outermost nodes they stay constant, so the flow continues.
    """
    offsets = (nodes - centres(nodes.shape[1], nodes.device).unflatten(0, nodes.shape[1:3])).movedim(-1, 1)
    fine = F.interpolate(offsets, size=(size, size), mode="bilinear", align_corners=False).movedim(1, -1)
    return fine + centres(size, nodes.device).unflatten(0, (size, size))


def inner_masks(driving: Float[Tensor, "B 68 2"], size: int) -> Float[Tensor, "B 3 h w"]:
    """1 inside each of `OPENINGS`, at half the picture's size."""
    half = size // 2  # a quarter of the work; `full_size` softens the edges
    pixels = centres(half, driving.device)
    return torch.stack([inside(pixels, driving[:, part]) for part in OPENINGS], 1).unflatten(2, (half, half))


def full_size(mask: Float[Tensor, "B h w"]) -> Float[Tensor, "B 1 H W"]:
    """A mask of half the picture's size at its full size."""
    return F.interpolate(mask[:, None], scale_factor=2.0, mode="bilinear", align_corners=False)


def openings(
    source: Float[Tensor, "B 68 2"], driving: Float[Tensor, "B 68 2"], inner: Float[Tensor, "B 3 h w"]
) -> Float[Tensor, "B 1 H W"]:  # fmt: skip
    """0 inside lips and lids that are open wider at the driving points than in the shot, which hides what is there."""
    known = torch.ones_like(inner[:, 0])
    for part, mask in zip(OPENINGS, inner.unbind(1), strict=True):
        lack = shortage(area(source[:, part]), area(driving[:, part]))
        known = known * (1 - mask * lack[:, None, None])
    return full_size(known)


def shortage(smaller: Float[Tensor, " B"], larger: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """1 where the first area is too small a share of the second (`UNKNOWN_BELOW`), 0 where it is nearly as large."""
    share = smaller / larger.clamp(min=1e-6)
    return ((KNOWN_ABOVE - share) / (KNOWN_ABOVE - UNKNOWN_BELOW)).clamp(0, 1)


def unclosed(source: Float[Tensor, "B 68 2"], driving: Float[Tensor, "B 68 2"], part: slice) -> Float[Tensor, "B 6 2"]:
    """The driving points of an eye, but as open as in the shot if it is closing: the shot's eye between the corners."""
    eye, driven = source[:, part], driving[:, part]
    middle, along, across = axes(eye)
    to_middle, to_along, to_across = axes(driven)
    # Across the eye, lengths scale as the nose does when the head moves: the eye's own height is what must not count.
    was, now = ((points[:, 33] - points[:, 27]).norm(dim=-1) for points in (source, driving))  # length of the nose
    taller = (now / was.clamp(min=1e-6))[:, None, None]
    offset = eye - middle
    x = (offset * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True).clamp(min=1e-9)
    y = (offset * across).sum(-1, keepdim=True) * taller
    carried = to_middle + x * to_along + y * to_across
    return driven + closing(carried, driven, SHUT_EYE)[:, None, None] * (carried - driven)


def parted(source: Float[Tensor, "B 68 2"], driving: Float[Tensor, "B 68 2"]) -> Float[Tensor, "B 8 2"]:
    """The driving points of the inner lips; where they close, a little apart: at one place they would be averaged."""
    lips = driving[:, INNER_LIP]
    away = LIP_LINE * axes(lips)[2] * closing(source[:, INNER_LIP], lips, SHUT_LIPS)[:, None, None]
    return torch.cat([lips[:, :1], lips[:, 1:4] - away, lips[:, 4:5], lips[:, 5:] + away], 1)


def axes(ring: Float[Tensor, "B P 2"]) -> tuple[Tensor, Tensor, Tensor]:
    """Middle between the corners of an eye or mouth, the vector from corner to corner, and the unit vector across."""
    first, second = ring[:, :1], ring[:, ring.shape[1] // 2, None]
    along = second - first
    across = torch.stack([-along[..., 1], along[..., 0]], -1)
    return (first + second) / 2, along, across / across.norm(dim=-1, keepdim=True).clamp(min=1e-6)


def closing(
    shown: Float[Tensor, "B P 2"], driven: Float[Tensor, "B P 2"], shut: tuple[float, float]
) -> Float[Tensor, " B"]:
    """1 where an opening that the shot shows closes when driven, 0 where it hardly does, or was shut."""
    openness = area(shown) / axes(shown)[1].square().sum((1, 2)).clamp(min=1e-9)
    seen = ((openness - shut[0]) / (shut[1] - shut[0])).clamp(0, 1)
    return seen * shortage(area(driven), area(shown))


def closings(
    source: Float[Tensor, "B 68 2"], driving: Float[Tensor, "B 68 2"], opened: Float[Tensor, "B 68 2"],
    inner: Float[Tensor, "B 3 h w"],
) -> Float[Tensor, "B 1 H W"]:  # fmt: skip
    """0 where lids have come down over what the shot shows, and along the line of lips that close.

    Args:
        opened: the driving points with eyes that do not close (`unclosed`) and lips that do not touch (`parted`)
    """
    shape = inner.shape[2:]
    pixels = centres(shape[0], driving.device)
    known = torch.ones_like(inner[:, 0])
    for part, mask in zip(OPENINGS[1:], inner.unbind(1)[1:], strict=True):
        eye = opened[:, part]
        lashes = eye + LASHES * (eye - eye.mean(1, keepdim=True))
        lack = closing(eye, driving[:, part], SHUT_EYE)[:, None, None]
        known = known * (1 - inside(pixels, lashes).unflatten(1, shape) * (1 - mask) * lack)
    lack = closing(source[:, INNER_LIP], driving[:, INNER_LIP], SHUT_LIPS)[:, None, None]
    return full_size(known * (1 - inside(pixels, opened[:, INNER_LIP]).unflatten(1, shape) * lack))


def area(polygon: Float[Tensor, "B P 2"]) -> Float[Tensor, " B"]:
    """Area by the shoelace formula; 0 for a polygon that is turned inside out, as where lips cross."""
    after = polygon.roll(-1, 1)
    return 0.5 * (polygon[..., 0] * after[..., 1] - polygon[..., 1] * after[..., 0]).sum(1).clamp(min=0)


def inside(pixels: Float[Tensor, "N 2"], polygon: Float[Tensor, "B P 2"]) -> Float[Tensor, "B N"]:
    """1 inside the polygon, 0 outside: a ray to the right crosses an odd number of edges."""
    a, b = polygon[:, None], polygon.roll(-1, 1)[:, None]
    x, y = pixels[None, :, None, 0], pixels[None, :, None, 1]
    crosses = (a[..., 1] > y) != (b[..., 1] > y)  # strict at both ends: a corner on the ray counts for one edge only
    rise = b[..., 1] - a[..., 1]
    rise = torch.where(rise.abs() < 1e-9, torch.full_like(rise, 1e-9), rise)
    right = x < (b[..., 0] - a[..., 0]) * (y - a[..., 1]) / rise + a[..., 0]
    return ((crosses & right).sum(-1) % 2).to(polygon.dtype)


def unfolded(nodes: Float[Tensor, "B n n 2"], size: int) -> Float[Tensor, "B 1 H W"]:
    """0 where the flow folds, or stretches or shrinks the shot too much (`STRETCH`)."""
    dx, dy = nodes[:, :-1, 1:] - nodes[:, :-1, :-1], nodes[:, 1:, :-1] - nodes[:, :-1, :-1]
    # Determinant of the flow's Jacobian by differences; one cell is 2 / n wide. Negative: folded.
    stretch = (dx[..., 0] * dy[..., 1] - dx[..., 1] * dy[..., 0]) * (nodes.shape[1] / 2) ** 2
    fine = ((stretch > STRETCH[0]) & (stretch < STRETCH[1])).to(nodes.dtype)[:, None]
    # One difference fewer than nodes: the last row and column are repeated.
    return F.interpolate(F.pad(fine, (0, 1, 0, 1), mode="replicate"), size=(size, size), mode="bilinear")


def parts_mask(points: Float[Tensor, "B 68 2"], size: int, grow: int = 5) -> Float[Tensor, "B 1 H W"]:
    """1 on lips and lids at these points (pixels), and up to grow - 1 pixels around them."""
    half = size // 2
    pixels, at = centres(half, points.device), normalized(points.float(), size)
    mask = torch.stack([inside(pixels, at[:, part]) for part in (OUTER_LIP, LEFT_EYE, RIGHT_EYE)]).amax(0)
    grown = F.max_pool2d(mask.unflatten(1, (1, half, half)), grow, 1, grow // 2)
    return F.interpolate(grown, size=(size, size), mode="nearest")


def close_ups(image: Float[Tensor, "B C H W"], points: Float[Tensor, "B 68 2"]) -> Float[Tensor, "3*B C h h"]:
    """Square cut-outs of mouth, left and right eye at these points, in pixels.

    Their side h is a quarter of the picture's, at least 32. Differentiable in the picture. A cut-out of the mouth is as
    wide as the eyes' outer corners are apart, that of an eye 0.6 times as wide.
    """
    size = image.shape[-1]
    at = normalized(points.float(), size)
    apart = (at[:, 45] - at[:, 36]).norm(dim=-1)
    middles = torch.cat([at[:, part].mean(1) for part in (MOUTH, LEFT_EYE, RIGHT_EYE)])
    halves = torch.cat([0.5 * apart, 0.3 * apart, 0.3 * apart])
    side = max(32, size // 4)
    grid = middles[:, None] + halves[:, None, None] * centres(side, image.device)
    pictures = image.float().repeat(3, 1, 1, 1)
    return resample(pictures, grid.unflatten(1, (side, side)))
