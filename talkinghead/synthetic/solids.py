"""Simple solids for what people wear: grids of points, tubes along a path, ellipsoids; each with its own colours."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Solid:
    """A mesh in the body's frame, metres.

    Attributes:
        colours: linear RGB per vertex
        kind: of its faces: raster.CLOTH or raster.GLOSSY
        follow: share of the head's rotation per vertex
    """

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "T 3"]
    colours: Float[np.ndarray, "V 3"]
    kind: int
    follow: Float[np.ndarray, " V"]


def solid(
    grid: Float[np.ndarray, "R C 3"], colours: Float[np.ndarray, "*S 3"], kind: int, follow: float = 1.0,
    ring: bool = False,
) -> Solid:  # fmt: skip
    """A grid whose columns close to a ring, and whose rows do if `ring`; its outside faces outwards."""
    rows, columns = grid.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    index = np.concatenate([index, index[:, :1]], 1)
    index = np.concatenate([index, index[:1]]) if ring else index
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    vertices = grid.reshape(-1, 3).astype(np.float32)
    painted = np.broadcast_to(colours, grid.shape).reshape(-1, 3).astype(np.float32)
    faces = faces if volume(vertices, faces) > 0 else faces[:, ::-1]
    return Solid(vertices, faces.astype(np.int32), painted, kind, np.full(len(vertices), follow, np.float32))


def volume(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "T 3"]) -> float:
    """Enclosed volume: negative where faces point inwards."""
    corners = vertices[faces].astype(np.float64) - vertices.mean(0, dtype=np.float64)
    return float(np.einsum("ti,ti->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6)


def tube(
    path: Float[np.ndarray, "P 3"], radius: float | Float[np.ndarray, " P"], colour: Float[np.ndarray, "3"], kind: int,
    *, sides: int = 7, closed: bool = False, up: Float[np.ndarray, "3"] | None = None, flat: float = 1.0,
) -> Solid:  # fmt: skip
    """A tube along a path. Its section is `flat` times as thick across as along `up`."""
    before, after = (np.roll(path, 1, 0), np.roll(path, -1, 0)) if closed else (path[[0, *range(len(path) - 1)]], None)
    after = path[[*range(1, len(path)), -1]] if after is None else after
    along = after - before
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    up = np.array([0.0, 0.0, 1.0]) if up is None else up
    across = np.cross(along, up)
    across /= np.linalg.norm(across, axis=1, keepdims=True).clip(1e-6)
    up_ = np.cross(across, along)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    offsets = np.cos(angle)[None, :, None] * across[:, None] * flat + np.sin(angle)[None, :, None] * up_[:, None]
    grid = path[:, None] + offsets * np.broadcast_to(radius, len(path))[:, None, None]
    if not closed:  # round ends
        grid = np.concatenate([grid[:1] * 0 + path[0], grid, grid[:1] * 0 + path[-1]])
    return solid(grid, colour, kind, ring=closed)


def ellipsoid(
    centre: Float[np.ndarray, "3"], radii: Float[np.ndarray, "3"], colour: Float[np.ndarray, "3"], kind: int,
    rows: int = 9, columns: int = 14,
) -> Solid:  # fmt: skip
    """An ellipsoid with its poles along z; `centre` and `radii` in metres."""
    height = np.linspace(-np.pi / 2, np.pi / 2, rows)[:, None]
    around = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    sphere = np.stack([np.cos(height) * np.cos(around), np.cos(height) * np.sin(around),
                       np.sin(height) + 0 * around], -1)  # fmt: skip
    return solid(centre + sphere * radii, colour, kind)


def together(solids: list[Solid]) -> list[Solid]:
    """Merge the solids of each kind into one."""
    merged = []
    for kind in dict.fromkeys(one.kind for one in solids):
        parts = [one for one in solids if one.kind == kind]
        starts = np.cumsum([0, *(len(one.vertices) for one in parts)])
        merged.append(replace(
            parts[0], vertices=np.concatenate([one.vertices for one in parts]),
            faces=np.concatenate([one.faces + start for one, start in zip(parts, starts[:-1], strict=True)]),
            colours=np.concatenate([one.colours for one in parts]),
            follow=np.concatenate([one.follow for one in parts]),
        ))  # fmt: skip
    return merged
