"""Learn the face model: `python -m talkinghead.tools.learn_face_model` (ten seconds)."""

from talkinghead.processes import interruptible, program

if __name__ == "__main__":  # before the imports that take seconds
    program("talkinghead.tools.learn_face_model")

import argparse
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import save

from talkinghead.reenactment.face_model import FILE, JAW, FaceModel
from talkinghead.storage import write_atomic
from talkinghead.synthetic.body import Body, load_body
from talkinghead.synthetic.dataset import person_seed
from talkinghead.synthetic.landmarks import landmark_points, landmark_table
from talkinghead.synthetic.motion import make_motion
from talkinghead.synthetic.person import make_person, neutral_vertices
from talkinghead.synthetic.scene import fit_actions

TO_CAMERA = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)  # the body's z up, y back -> y down, z away
FRAMES = 32  # moments per person


def main() -> None:
    """Learn the model and write it into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=600, help="synthetic people of the training split")
    parser.add_argument("--identity", type=int, default=40, help="components of identity")
    parser.add_argument("--expression", type=int, default=32, help="components of expression")
    parser.add_argument("--output", type=Path, default=FILE)
    given = parser.parse_args()
    model = learn(given.people, given.identity, given.expression)
    write_atomic(given.output, save({name: np.ascontiguousarray(part) for name, part in model._asdict().items()}))
    print(f"{given.output}: {given.output.stat().st_size / 1024:.0f} KB")


def learn(people: int, num_identity: int, num_expression: int) -> FaceModel:
    """Principal components of calm faces, and of how they move, over the first `people` training people."""
    body, knots = load_body(), landmark_table()[0]
    faces, moves, pivots = zip(*(sample(person_seed(0, "train", n), body, knots) for n in range(people)), strict=True)
    mean, identity = components(np.stack(faces), num_identity)
    middle, expression = components(np.concatenate(moves), num_expression)
    return FaceModel(knots, mean + middle, identity, expression, np.mean(pivots, 0).astype(np.float32))


def sample(
    seed: int, body: Body, knots: Float[np.ndarray, " knots"]
) -> tuple[Float[np.ndarray, "P 3"], Float[np.ndarray, "F P 3"], Float[np.ndarray, " 3"]]:
    """A person's calm face, some moments of its motion as offsets, and its pivot, in the model's axes and unit."""
    person = make_person(seed, body)
    neutral = neutral_vertices(person, body)
    actions = fit_actions(body, neutral)
    near = np.linalg.norm(body.template - body.neck, axis=1) < 0.08
    pivot = body.neck + (neutral - body.template)[near].mean(0)
    names = body.action_names.tolist()
    amounts = make_motion(person.personality, seed, 1, FRAMES, 2.5, names).actions
    amounts[::4] = any_actions(np.random.default_rng([seed, 17]), len(amounts[::4]), len(names))
    calm = rows_of(neutral, body, knots) @ TO_CAMERA.T
    offsets = np.stack([rows_of(action, body, knots) for action in actions]) @ TO_CAMERA.T
    frontal = FaceModel(knots, calm, calm[..., None], calm[..., None], pivot).at(calm, np.zeros(1))[0]
    middle = frontal.mean(0)
    unit = np.sqrt(((frontal - middle) ** 2).sum(-1).mean())
    moves = np.tensordot(amounts, offsets, 1)
    return (calm - middle) / unit, moves / unit, (TO_CAMERA @ pivot - middle) / unit


def any_actions(rng: np.random.Generator, frames: int, count: int) -> Float[np.ndarray, "frames count"]:
    """Faces that no motion makes: one to four of all facial actions at once."""
    chosen = rng.uniform(size=(frames, count)) < rng.integers(1, 5, (frames, 1)) / count
    return (chosen * rng.uniform(0, 1, (frames, count))).astype(np.float32)


def rows_of(vertices: Float[np.ndarray, "V 3"], body: Body, knots: Float[np.ndarray, " knots"]) -> np.ndarray:
    """The jaw at each knot, then the other points."""
    every = np.broadcast_to(vertices, (len(knots), *vertices.shape))
    points = landmark_points(every, knots, body.original_index)
    return np.concatenate([points[:, :JAW].reshape(-1, 3), points[0, JAW:]])


def components(
    shapes: Float[np.ndarray, "N P 3"], count: int
) -> tuple[Float[np.ndarray, "P 3"], Float[np.ndarray, "P 3 C"]]:
    """The mean, and the first `count` principal components, scaled to their standard deviations."""
    mean = shapes.mean(0)
    flat = (shapes - mean).reshape(len(shapes), -1)
    variances, directions = np.linalg.eigh(flat.T @ flat / len(flat))
    largest = slice(-1, -count - 1, -1)
    basis = directions[:, largest] * np.sqrt(np.maximum(variances[largest], 0))
    return mean.astype(np.float32), basis.reshape(*mean.shape, count).astype(np.float32)


if __name__ == "__main__":
    with interruptible("talkinghead.tools.learn_face_model"):
        main()
