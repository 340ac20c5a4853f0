"""Fitting the face model to landmarks: identity of a clip, pose and expression of every frame.

    p = t + s * Y_xy / (1 + q Y_z),     Y = R (mean + identity a + expression e)

a and q (unit of the model over distance of the camera; 0: infinitely far) belong to the clip; R, s, t and e to the
frame. Gauss-Newton steps minimise the squared residuals, in noise levels, plus |a|^2 and |e|^2; residuals beyond the
noise count less (Huber). The steps for a and q eliminate the variables of the frames first (Schur complement).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from talkinghead.reenactment.face_model import JAW, FaceModel

RIGID = [0, 1, 15, 16, *range(27, 36), 36, 39, 42, 45]  # ears, nose, eye corners: little moved by expressions
NOISE = np.where(np.arange(68) < JAW, 0.04, 0.02).astype(np.float32)  # of landmarks, units of the model
HUBER = 2.5  # noise levels
DISTANCE = (0.062, 0.02)  # q: mean and standard deviation; heads half a metre to two metres from the camera
MOST_FRAMES = 32  # from which a and q are estimated
WORTH = 8  # frames that all together count as for a and q: a detector's errors are correlated over frames
STEPS = 4
BLOCK = 512  # frames per batch


@dataclass(frozen=True)
class Fit:
    """Parameters of the model for F frames of one person."""

    identity: Float[np.ndarray, " A"]
    perspective: float
    rotation: Float[np.ndarray, "F 3 3"]
    scale: Float[np.ndarray, " F"]
    place: Float[np.ndarray, "F 2"]
    expression: Float[np.ndarray, "F E"]

    def __len__(self) -> int:
        return len(self.scale)

    def take(self, frames: slice | list[int]) -> "Fit":
        """The fit of a selection of frames."""
        parts = {name: getattr(self, name)[frames] for name in ("rotation", "scale", "place", "expression")}
        return replace(self, **parts)

    @property
    def yaw(self) -> Float[np.ndarray, " F"]:
        """Turn of the head about the vertical axis in degrees, positive towards the picture's right."""
        return np.rad2deg(np.arctan2(-self.rotation[:, 0, 2], self.rotation[:, 2, 2]))


def project(fit: Fit, points: Float[np.ndarray, "F 68 3"]) -> Float[np.ndarray, "F 68 2"]:
    """p = t + s Y_xy / (1 + q Y_z) with Y = R X: head points X in the picture, pixels."""
    turned = points @ fit.rotation.transpose(0, 2, 1)
    depth = 1 + fit.perspective * turned[..., 2:]
    return fit.place[:, None] + fit.scale[:, None, None] * turned[..., :2] / depth


def shapes(model: FaceModel, fit: Fit) -> Float[np.ndarray, "F 68 3"]:
    """The landmarks in space by the model: mean + identity a + expression e."""
    if len(fit) <= BLOCK:
        return _shapes(model, fit)
    return np.concatenate([_shapes(model, fit.take(slice(n, n + BLOCK))) for n in range(0, len(fit), BLOCK)])


def _shapes(model: FaceModel, fit: Fit) -> Float[np.ndarray, "F 68 3"]:
    still = model.at(model.mean + model.identity @ fit.identity, fit.yaw)
    move = model.at(model.expression, fit.yaw)
    return still + np.einsum("fnde,fe->fnd", move, fit.expression, optimize=True)


def fit_clip(model: FaceModel, points: Float[np.ndarray, "F 68 2"]) -> Fit:
    """Fit the frames of one person: a and q from up to MOST_FRAMES of them, spread over the clip; then every frame."""
    points = points.astype(np.float32)
    some = np.unique(np.linspace(0, len(points) - 1, MOST_FRAMES).round().astype(int))
    fit = start(model, points[some])
    for _ in range(STEPS):
        fit = step(model, fit, points[some], shared=True)
    return fit_frames(model, points, fit)


def fit_frames(model: FaceModel, points: Float[np.ndarray, "F 68 2"], known: Fit) -> Fit:
    """Pose and expression of each frame of a known person, in batches: frames are independent, and the derivatives
    take 70 kB per frame."""
    parts = []
    for n in range(0, len(points), BLOCK):
        some = points[n : n + BLOCK]
        fit = replace(start(model, some), identity=known.identity, perspective=known.perspective)
        for _ in range(STEPS):
            fit = step(model, fit, some, shared=False)
        parts.append(fit)
    names = ("rotation", "scale", "place", "expression")
    whole: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **whole)


def start(model: FaceModel, points: Float[np.ndarray, "F 68 2"]) -> Fit:
    """Initial pose by parallel projection of the mean face's rigid points; identity and expression 0."""
    face = model.at(model.mean, np.zeros(1))[0, RIGID]
    middle = face.mean(0)
    flat = points[:, RIGID]
    affine = np.einsum("fni,nj->fij", flat - flat.mean(1, keepdims=True), np.linalg.pinv(face - middle).T)
    # The matrix with orthonormal rows nearest to the affine map gives two rows of R, and their cross product the third.
    u, sizes, v = np.linalg.svd(affine, full_matrices=False)
    top = u @ v
    rotation = np.concatenate([top, np.cross(top[:, 0], top[:, 1])[:, None]], 1)
    scale = sizes.mean(1)
    place = flat.mean(1) - scale[:, None] * (top @ middle)
    identity = np.zeros(model.identity.shape[-1], np.float32)
    expression = np.zeros((len(points), model.expression.shape[-1]), np.float32)
    rotation, scale, place = (part.astype(np.float32) for part in (rotation, scale, place))
    return Fit(identity, DISTANCE[0], rotation, scale, place, expression)


def step(model: FaceModel, fit: Fit, points: Float[np.ndarray, "F 68 2"], *, shared: bool) -> Fit:
    """One Gauss-Newton step for the frames and, where `shared`, for identity and perspective."""
    own, common, residual = linearised(model, fit, points, shared)
    num_own = own.shape[-1]
    # The prior |e|^2 adds 1 to the diagonal and pulls e towards 0. The pose has none, only a little damping.
    prior = np.concatenate([np.full(6, 1e-3, np.float32), np.ones(num_own - 6, np.float32)])
    toward = np.concatenate([np.zeros((len(fit), 6), np.float32), -fit.expression], 1)
    h = own.transpose(0, 2, 1) @ own + np.diag(prior)  # normal equations of each frame, [F, own, own]
    g = np.einsum("fri,fr->fi", own, residual) + toward
    if not shared:
        return moved(fit, np.linalg.solve(h, g[..., None])[..., 0], np.zeros(0, np.float32))
    # Normal equations [[h, cross], [cross^T, flat^T flat]] of frame and shared variables: solving the first row for the
    # frame's and inserting them leaves a small system for a and q (Schur complement).
    cross = own.transpose(0, 2, 1) @ common
    solved = np.linalg.solve(h, np.concatenate([cross, g[..., None]], -1))
    eliminated = np.einsum("fic,fij->cj", cross, solved)
    sigma = DISTANCE[1]
    # Priors of a, N(0, 1), and of q. Each frame counts WORTH / F: else many correlated frames would silence the priors.
    prior_common = np.concatenate([np.ones(len(fit.identity)), [1 / sigma**2]])
    toward_common = np.concatenate([-fit.identity, [(DISTANCE[0] - fit.perspective) / sigma**2]])
    worth = min(1.0, WORTH / len(fit))
    flat = common.reshape(-1, common.shape[-1])
    h_common = worth * (flat.T @ flat - eliminated[:, :-1]) + np.diag(prior_common)
    g_common = worth * (flat.T @ residual.ravel() - eliminated[:, -1]) + toward_common
    change = np.linalg.solve(h_common, g_common).astype(np.float32)
    # Back into the frames' equations: their change for the shared change that was found.
    return moved(fit, solved[..., -1] - solved[..., :-1] @ change, change)


def linearised(
    model: FaceModel, fit: Fit, points: Float[np.ndarray, "F 68 2"], shared: bool
) -> tuple[Float[np.ndarray, "F 136 own"], Float[np.ndarray, "F 136 common"], Float[np.ndarray, "F 136"]]:
    """Derivatives of the 136 coordinates by the variables of the frame (3 turns, log s, 2 of t, e) and by a and q, and
    the residuals; all in noise levels and with Huber's weights, lengths in units of the model."""
    yaw, count = fit.yaw, len(fit)  # the jaw's sliding with the yaw is constant within a step
    still = model.at(model.mean + model.identity @ fit.identity, yaw)
    move = model.at(model.expression, yaw)
    turned = (still + (move @ fit.expression[:, None, :, None])[..., 0]) @ fit.rotation.transpose(0, 2, 1)
    depth = 1 / (1 + fit.perspective * turned[..., 2])
    flat = turned[..., :2] * depth[..., None]
    residual = (points - fit.place[:, None]) / fit.scale[:, None, None] - flat
    far = np.linalg.norm(residual, axis=-1) / NOISE
    # Reweighted least squares: w r^2 with w = HUBER / far grows like |r|. The root, because w r^2 = (sqrt(w) r)^2.
    weight = np.sqrt(np.minimum(1, HUBER / np.maximum(far, 1e-6))) / NOISE
    by_turned = np.zeros((count, 68, 2, 3), np.float32)  # d flat / d turned, weighted
    by_turned[..., 0, 0] = by_turned[..., 1, 1] = depth * weight
    by_turned[..., 2] = -fit.perspective * flat * (depth * weight)[..., None]
    own = np.empty((count, 68, 2, 6 + move.shape[-1]), np.float32)
    for axis in range(3):  # a small turn w moves Y by w x Y
        own[..., axis] = (by_turned @ np.cross(np.eye(3, dtype=np.float32)[axis], turned)[..., None])[..., 0]
    own[..., 3] = flat * weight[..., None]  # d(s flat) / d log s = s flat, and lengths are in units of s
    own[..., 4:6] = np.eye(2, dtype=np.float32) * weight[..., None, None]
    by_head = by_turned @ fit.rotation[:, None]
    own[..., 6:] = by_head @ move
    common = np.empty((count, 68, 2, len(fit.identity) + 1 if shared else 0), np.float32)
    if shared:
        common[..., :-1] = by_head @ model.at(model.identity, yaw)
        # d flat / d q = -Y_xy Y_z / (1 + q Y_z)^2
        common[..., -1] = -flat * (turned[..., 2] * depth * weight)[..., None]
    return (
        own.reshape(count, 136, -1),
        common.reshape(count, 136, -1),
        (residual * weight[..., None]).reshape(count, -1),
    )


def moved(fit: Fit, own: Float[np.ndarray, "F own"], common: Float[np.ndarray, " common"]) -> Fit:
    """The fit after a step; the clips keep it in the range of real cameras and the step of the scale small."""
    identity, perspective = fit.identity, fit.perspective
    if len(common):
        identity = identity + common[:-1]
        perspective = float(np.clip(perspective + common[-1], 0.0, 0.2))
    return Fit(
        identity, perspective, turn(own[:, :3]) @ fit.rotation, fit.scale * np.exp(np.clip(own[:, 3], -0.3, 0.3)),
        fit.place + fit.scale[:, None] * own[:, 4:6], fit.expression + own[:, 6:],
    )  # fmt: skip


def turn(vectors: Float[np.ndarray, "F 3"]) -> Float[np.ndarray, "F 3 3"]:
    """Rotation matrices of rotation vectors (Rodrigues); at most half a radian each."""
    angle = np.linalg.norm(vectors, axis=-1, keepdims=True)
    axis = vectors / np.maximum(angle, 1e-9)
    angle = np.minimum(angle, 0.5)[..., None]
    x, y, z = axis.T
    zero = np.zeros_like(x)
    k = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    return (np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)).astype(np.float32)
