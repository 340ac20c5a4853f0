"""The mean head in space that the guide takes skull and ears from: `python head_points.py`, models/head_points.json."""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/warp_256/head_points.py")

import json
from itertools import product

import numpy as np
from jaxtyping import Float

from talkinghead.models.guide import HEAD_POINTS
from talkinghead.storage import write_atomic
from talkinghead.synthetic.body import load_body
from talkinghead.synthetic.landmarks import landmark_points
from talkinghead.synthetic.person import make_person, neutral_vertices

PEOPLE, OUTSIDE = 80, 1.08  # people in the mean; hair lies so far outside the skull
CENTRE_Y = -0.35  # of the skull, in units of the table
DIRECTIONS = [  # degrees around the vertical and above the horizontal
    *product((-135, -90, -45, 0, 45, 90, 135), (50,)), *product((0, 120, -120), (78,)),
    *product((-90, -30, 30, 90, -140, 140), (28,)), (-95, 0), (95, 0), (-95, -25), (95, -25),
]  # fmt: skip


def towards_camera(points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Of the body's axes (x right, z up) x right, y down, z away from the camera."""
    return np.stack([points[:, 0], -points[:, 2], points[:, 1]], -1)


def main() -> None:
    """Write the table."""
    body = load_body()
    mean = np.mean([neutral_vertices(make_person(number, body), body) for number in range(PEOPLE)], 0)
    landmarks = towards_camera(landmark_points(mean[None], np.zeros(1), body.original_index)[0])
    vertices, middle = towards_camera(mean), landmarks.mean(0)
    unit = np.sqrt(((landmarks - middle) ** 2).sum(1).mean())
    landmarks, vertices = (landmarks - middle) / unit, (vertices - middle) / unit
    drawn = np.zeros(len(vertices), bool)
    drawn[body.faces[body.groups == 0]] = True
    skull = vertices[(body.follow > 0.99) & (body.cavity < 0.5) & drawn]
    centre = np.array([0, CENTRE_Y, skull[:, 2].mean()])
    points, outward = [], []
    for around, above in np.deg2rad(DIRECTIONS):
        direction = np.array([np.sin(around) * np.cos(above), -np.sin(above), -np.cos(around) * np.cos(above)])
        along = (skull - centre) @ direction
        aside = np.linalg.norm(skull - centre - along[:, None] * direction, axis=1)
        near = np.flatnonzero((aside < 0.12) & (along > 0))
        reach = along[near].max() if len(near) else along[(along - 2 * aside).argmax()]
        points.append(centre + direction * reach * OUTSIDE)
        outward.append(direction)
    table = {"landmarks": landmarks, "skull": np.array(points), "outward": np.array(outward)}
    text = json.dumps({name: values.round(4).tolist() for name, values in table.items()})
    write_atomic(HEAD_POINTS, text.encode())


if __name__ == "__main__":
    main()
