"""Hair as a shell around the skull: a grid of meridians from the crown over the hairline, or down to the shoulders."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float, Int

from talkinghead.synthetic.body import BODY, Body
from talkinghead.synthetic.person import Person

COLUMNS, ROWS, HANGING_ROWS = 72, 22, 10
PRESSED = 0.004  # metres of hair under a hat
CENTRE = np.array([0.0, -0.035, 0.735], np.float32)  # in the template, between the ears
# Elevation in degrees, seen from CENTRE, at which short hair ends, for azimuths from the face (0) to the nape (180).
HAIRLINE = (
    (0, 20, 38, 52, 62, 70, 78, 86, 100, 112, 122, 140, 180),
    (41, 40, 37, 32, 23, 2, -8, 8, 12, 4, -30, -44, -47),
)


@dataclass(frozen=True)
class HairMesh:
    """Grid vertices in the body's frame, ready to move with the head."""

    vertices: Float[np.ndarray, "H 3"]
    faces: Int[np.ndarray, "T 3"]
    texcoords: Float[np.ndarray, "H 2"]
    coverage: Float[np.ndarray, " H"]
    occlusion: Float[np.ndarray, " H"]
    follow: Float[np.ndarray, " H"]


@dataclass(frozen=True)
class Style:
    """Thickness in metres at the top, sides and back; hairline shift in degrees; how far hair hangs below the ears."""

    top: float
    side: float
    back: float
    line: float = 0.0
    hang: float = 0.0  # metres below the ears' level
    hang_from: float = 72.0  # azimuth at which hanging starts
    curl: float = 0.0
    fringe: float = 0.0
    part: float = 0.0


STYLES = {
    "buzz": Style(0.004, 0.003, 0.003),
    "short": Style(0.020, 0.009, 0.010),
    "swept": Style(0.030, 0.010, 0.013, line=3.0, part=0.5),
    "fringe": Style(0.020, 0.014, 0.015, fringe=1.0),
    "receding": Style(0.006, 0.006, 0.008, line=24.0),
    "afro": Style(0.050, 0.042, 0.048, curl=0.35),
    "bob": Style(0.018, 0.018, 0.022, hang=0.10, fringe=0.5),
    "long": Style(0.016, 0.015, 0.020, hang=0.24, part=0.4),
    "tied": Style(0.010, 0.008, 0.012),
    "veil": Style(0.014, 0.022, 0.019, hang=0.22, hang_from=58.0, line=-1.0),
    "curly": Style(0.028, 0.028, 0.034, hang=0.12, curl=1.0),
}


def make_hair(
    person: Person, neutral: Float[np.ndarray, "V 3"], body: Body,
    hat: Callable[[np.ndarray], np.ndarray] | None = None,
) -> HairMesh | None:  # fmt: skip
    """The person's hair on the person's skull; None for bald heads.

    Args:
        hat: the elevation of its edge at azimuths, degrees: hair above it is pressed to the skull
    """
    if person.hair_style not in STYLES:
        return None
    style = STYLES[person.hair_style]
    style = style if hat is None else replace(style, curl=0.0, part=0.0)
    rng = np.random.default_rng([person.seed, 4])
    azimuth = np.linspace(-180, 180, COLUMNS + 1)
    line = _hairline(style, person, azimuth, rng)
    fall = np.linspace(0, 1, ROWS) ** 0.9
    elevation = 90 - (90 - line)[None] * fall[:, None]
    skull, outward = skull_points(elevation, np.broadcast_to(azimuth, elevation.shape), neutral, body)
    thickness = _thickness(style, person, elevation, azimuth, fall, rng)
    if hat is not None:
        under = np.clip((elevation - hat(azimuth) + 12) / 10, 0, 1)
        thickness = thickness * (1 - under) + np.minimum(thickness, PRESSED) * under
    grid = skull + outward * thickness[..., None]
    coverage = np.clip(np.minimum(1.0, (1 - fall[:, None]) * 9 + 0.25 * np.ones_like(elevation)), 0, 1)
    if style.hang:
        grid, coverage = _hang(style, person, grid, coverage, azimuth)
    grid = _curl(style, grid, azimuth, rng)
    return _mesh(grid, coverage, azimuth)


def hairline_elevation(azimuth: np.ndarray) -> np.ndarray:
    """Elevation of a plain hairline, degrees, for azimuths in degrees."""
    return np.interp(np.abs(azimuth), *HAIRLINE)


def _hairline(style: Style, person: Person, azimuth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where the hair ends, degrees of elevation per column: a personal forehead, corners, fringe and parting."""
    line = hairline_elevation(azimuth)
    front = np.clip((65 - np.abs(azimuth)) / 30, 0, 1)
    angle = np.deg2rad(azimuth)
    line = line + front * (rng.normal(0, 2.5) - rng.uniform(0, 4) * np.cos(angle * 5))
    line = line + style.line * front * (1.0 - 0.35 * np.cos(angle * 3) * (style.line > 10))
    line = line - front * style.fringe * (11 + 5 * person.hair_length + 5 * np.sin(angle * 2 + rng.uniform(0, 6)))
    line = line - front * style.part * 16 * np.clip(np.sin(angle * 1.4) * np.sign(person.brow_height), -0.2, 1)
    if style.hang:  # starts where it leaves the head
        line = np.where(np.abs(azimuth) > style.hang_from, np.minimum(line, -4.0), np.maximum(line, 4.0))
    return line + rng.normal(0, 0.6, len(azimuth)) * (np.abs(azimuth) < 179)


def skull_points(
    elevation: np.ndarray, azimuth: np.ndarray, neutral: np.ndarray, body: Body
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the skull in the given directions, interpolated between near vertices, and outward directions."""
    skin = body.vertices_of(BODY)
    x, _, z = body.template[skin].T
    usable = (z > 0.60) & (body.follow[skin] > 0.7) & (body.cavity[skin] == 0) & ((np.abs(x) < 0.0705) | (z > 0.755))
    skin = skin[usable]
    from_centre = body.template[skin] - CENTRE
    known = from_centre / np.linalg.norm(from_centre, axis=1, keepdims=True)
    e, a = np.deg2rad(elevation), np.deg2rad(azimuth)
    wanted = np.stack([np.cos(e) * np.sin(a), -np.cos(e) * np.cos(a), np.sin(e)], -1).astype(np.float32)
    closeness = wanted.reshape(-1, 3) @ known.T
    nearest = np.argpartition(-closeness, 6, axis=1)[:, :6]
    gap = 1.0 - np.take_along_axis(closeness, nearest, 1) + 1e-4
    weight = 1 / gap
    weight /= weight.sum(1, keepdims=True)
    centre = CENTRE + (neutral[skin] - body.template[skin]).mean(0)
    offset = neutral[skin] - centre
    radius = (np.linalg.norm(offset, axis=1)[nearest] * weight).sum(1)
    return centre + wanted * radius.reshape(*elevation.shape, 1), wanted


def _thickness(
    style: Style, person: Person, elevation: np.ndarray, azimuth: np.ndarray, fall: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    up = np.clip(np.sin(np.deg2rad(elevation)), 0, 1) ** 0.7
    backness = (1 - np.cos(np.deg2rad(azimuth))) / 2
    around = style.side * (1 - backness) + style.back * backness
    thickness = (around[None] * (1 - up) + style.top * up) * person.hair_volume
    thickness = thickness + style.part * 0.016 * up * np.sin(np.deg2rad(azimuth) + np.sign(person.brow_height))[None]
    rough = cv2.GaussianBlur(rng.normal(0, 1, elevation.shape), (0, 0), 1.2) * 2.2
    thickness = thickness * (1 + 0.22 * rough)
    if not style.hang:
        thickness = thickness * np.clip((1 - fall[:, None]) * 4, 0.0, 1.0) ** 0.6
    else:
        front = (np.abs(azimuth) < style.hang_from)[None]
        thickness = thickness * np.where(front, np.clip((1 - fall[:, None]) * 4, 0.0, 1) ** 0.6, 1.0)
    return thickness + 0.0015


def _hang(
    style: Style, person: Person, grid: np.ndarray, coverage: np.ndarray, azimuth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lengthen the columns of the sides and the back straight down."""
    length = style.hang * (0.75 + 0.5 * person.hair_length)
    steps = np.linspace(0, 1, HANGING_ROWS + 1)[1:, None]
    reach = np.clip((np.abs(azimuth) - style.hang_from) / 8, 0, 1)[None]
    down = steps * length * reach
    last = grid[-1][None]
    inward = 1 - 0.10 * np.sin(steps * 2.2) * reach
    hanging = np.stack([last[..., 0] * inward, (last[..., 1] + 0.035) * inward - 0.035, last[..., 2] - down], -1)
    fade = np.where(reach > 0, np.clip((1 - steps) * 5, 0.15, 1), 0.0)
    above = np.where(reach > 0, 1.0, coverage)
    return np.concatenate([grid, hanging]).astype(np.float32), np.concatenate([above, fade])


def _curl(style: Style, grid: np.ndarray, azimuth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rows = np.arange(len(grid))[:, None]
    phase = cv2.GaussianBlur(rng.uniform(0, 6.3, (1, len(azimuth))), (0, 0), 1.0) * 3
    wave = np.sin(rows * (0.5 + style.curl) + phase) * 0.004 * style.curl
    wave = wave + np.sin(rows * 0.45 + phase) * 0.0022 * (style.hang > 0)
    wave[:, -1] = wave[:, 0]
    away = grid - np.array([0, -0.035, 0], np.float32) - CENTRE * np.array([0, 0, 1], np.float32)
    away = away / np.linalg.norm(away, axis=-1, keepdims=True)
    return (grid + away * wave[..., None] * (rows > 3)[..., None]).astype(np.float32)


def _mesh(grid: np.ndarray, coverage: np.ndarray, azimuth: np.ndarray) -> HairMesh:
    rows, columns = grid.shape[:2]
    grid[:, -1] = grid[:, 0]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
    depth = np.linspace(0, 1, rows)[:, None] + np.zeros(columns)
    texcoords = np.stack([np.broadcast_to(azimuth / 360 + 0.5, depth.shape), depth], -1).reshape(-1, 2)
    below = np.clip((0.70 - grid[..., 2].reshape(-1)) / 0.2, 0, 1)
    return HairMesh(
        vertices=grid.reshape(-1, 3).astype(np.float32), faces=faces.astype(np.int32),
        texcoords=texcoords.astype(np.float32), coverage=coverage.reshape(-1).astype(np.float32),
        occlusion=(1 - 0.35 * below).astype(np.float32), follow=(1 - 0.5 * below).astype(np.float32),
    )  # fmt: skip
