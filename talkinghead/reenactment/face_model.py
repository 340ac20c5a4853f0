"""A linear model of the 68 landmarks in space: mean face, identity and expression, from synthetic heads.

    X = mean + identity a + expression e          a, e ~ N(0, 1) over people and moments

Axes: x right, y down, z away from the camera, for a head that faces it; the origin is the middle of the calm face's
landmarks and the unit their root mean square distance from it. Jaw points slide along the cheek as the head turns, as a
detector's do, so the model has them at several yaw angles and blends between these. It is learned by
`python -m talkinghead.tools.learn_face_model` (docs/adaptation.md).
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file

from talkinghead.faces.landmark_image import PARTS

FILE = Path(__file__).with_name("face_model.safetensors")
JAW = len(PARTS["jaw"].points)  # 17, the first of the 68


class FaceModel(NamedTuple):
    """Shapes of the landmarks; P rows are the jaw at each yaw knot, knot by knot, then the points that do not slide."""

    knots: Float[np.ndarray, " knots"]  # yaw, degrees, positive towards the picture's right
    mean: Float[np.ndarray, "P 3"]
    identity: Float[np.ndarray, "P 3 A"]
    expression: Float[np.ndarray, "P 3 E"]
    pivot: Float[np.ndarray, " 3"]  # joint of the neck

    def at(self, rows: Float[np.ndarray, "P 3 *n"], yaw: Float[np.ndarray, " F"]) -> Float[np.ndarray, "F 68 3 *n"]:
        """The P rows of a shape or basis as 68 points for each `yaw`, degrees: the jaw is interpolated."""
        count = len(self.knots)
        jaw = rows[: JAW * count].reshape(count, JAW, *rows.shape[1:])
        place = np.clip(np.interp(yaw, self.knots, np.arange(count)), 0, count - 1)
        low = np.minimum(place.astype(int), count - 2)
        share = (place - low).astype(rows.dtype).reshape(-1, *[1] * rows.ndim)
        points = np.empty((len(yaw), 68, *rows.shape[1:]), rows.dtype)
        points[:, :JAW] = jaw[low] * (1 - share) + jaw[low + 1] * share
        points[:, JAW:] = rows[JAW * count :]
        return points


@cache
def load_face_model(path: Path = FILE) -> FaceModel:
    """Load the model that ships with the package, or another file of `tools.learn_face_model`."""
    arrays = load_file(path)
    missing = set(FaceModel._fields) - set(arrays)
    if missing:
        raise ValueError(f"{path} is no face model: it has no {', '.join(sorted(missing))}")
    return FaceModel(**{name: arrays[name] for name in FaceModel._fields})
