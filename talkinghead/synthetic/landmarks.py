"""The 68 landmarks as points of the mesh, in dlib's convention and order.

`landmarks68.json` holds each point as a weighted mean of a few vertices. The points were fitted to what dlib finds on
renders of some hundred people (benchmarks/synthetic.py measures the difference). Jaw points slide along the cheek with
the yaw, as a detector's do: they follow the visible outline.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

TABLE = Path(__file__).with_name("landmarks68.json")


@cache
def landmark_table() -> tuple[
    Float[np.ndarray, " knots"], Int[np.ndarray, "68 knots W"], Float[np.ndarray, "68 knots W"]
]:
    """Yaw knots in degrees, and for each point and knot the MakeHuman vertices and their weights (sum 1)."""
    table = json.loads(TABLE.read_text())
    knots = np.array(table["yaw_knots"], np.float32)
    width = max(len(entry) for point in table["points"] for entry in point)
    vertices = np.zeros((68, len(knots), width), np.int64)
    weights = np.zeros((68, len(knots), width), np.float32)
    for n, point in enumerate(table["points"]):
        for k, entry in enumerate(point * len(knots) if len(point) == 1 else point):
            for w, (vertex, weight) in enumerate(entry):
                vertices[n, k, w], weights[n, k, w] = vertex, weight
            weights[n, k] /= weights[n, k].sum()
    return knots, vertices, weights


def landmark_points(
    vertices: Float[np.ndarray, "F V 3"], yaw: Float[np.ndarray, " F"], original_index: Int[np.ndarray, " B"]
) -> Float[np.ndarray, "F 68 3"]:
    """Landmarks in space. The first B vertices are the body's; `original_index` names them in the MakeHuman mesh."""
    knots, originals, weights = landmark_table()
    place = np.searchsorted(original_index, originals)
    per_knot = (vertices[:, place] * weights[..., None]).sum(3)
    share = np.stack([np.interp(yaw, knots, row) for row in np.eye(len(knots))], -1)
    return np.einsum("fnkd,fk->fnd", per_knot, share).astype(np.float32)
