"""What ships to try animate at once: pictures and clips of synthetic people, and a model that has seen only such."""

import re
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from talkinghead.faces.detectors import Dlib
from talkinghead.faces.face_track import find_face
from talkinghead.provenance import read
from talkinghead.reenactment.inputs import MODELS, SHIPPED
from talkinghead.synthetic.dataset import FIRST_PERSON
from talkinghead.tools import render_examples

FOLDER = SHIPPED.parent
FILES = [
    *(f"portraits/{name}.jpg" for name in render_examples.PORTRAITS),
    *(f"drivers/{n}.mp4" for n in render_examples.DRIVERS),
]


def frames(file: str) -> list[np.ndarray]:
    if file.endswith(".mp4"):
        with av.open(str(FOLDER / file)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [cv2.imread(str(FOLDER / file))[..., ::-1]]


@pytest.mark.parametrize("file", FILES)
def test_an_example_has_a_face_and_says_that_it_is_drawn(file: str) -> None:
    for image in frames(file)[::50]:
        points = find_face(np.ascontiguousarray(image), Dlib())
        assert 50 < np.ptp(points[:, 0]) < 300, "a face large enough to see, in a picture of head and shoulders"
    said = read((FOLDER / file).read_bytes())
    assert [(s["generated"], s["digital_source_type"].rsplit("/")[-1]) for s in said] == [(True, "algorithmicMedia")]


def test_nobody_of_the_examples_is_in_a_data_set() -> None:
    people = {
        render_examples.FIRST_PERSON + number
        for number in [*render_examples.PORTRAITS.values(), *render_examples.DRIVERS.values()]
    }
    assert min(people) > max(FIRST_PERSON.values()) + 100_000
    assert len(people) == len(FILES)


def test_they_are_rendered_by_the_command_that_says_so() -> None:
    """The same person comes out: a small render of one is the shipped picture."""
    name, person = next(iter(render_examples.PORTRAITS.items()))
    shipped = cv2.resize(frames(f"portraits/{name}.jpg")[0], (64, 64), interpolation=cv2.INTER_AREA)
    again = render_examples.portrait(person, 64).frames[0]
    assert np.abs(shipped.astype(float) - again).mean() < 4


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_a_shipped_model_is_small_and_names_no_folder(model: Path) -> None:
    """It says what builds it, and nothing of the machine it was trained on."""
    assert model.stat().st_size < 20e6
    checkpoint = torch.load(model, weights_only=True)
    assert checkpoint["config"]["model"]["image_size"] == int(model.stem.rsplit("_")[-1])
    assert "facenet_synthetic" in checkpoint["config"]["loss"]["content"]["backbones"]
    assert not re.search(r"[:=] ?['\"]?/", str(checkpoint["config"])), "an absolute path is in the config"


def test_every_committed_picture_with_generated_faces_says_so() -> None:
    """Charts are PNG, faces are JPEG, MP4 and WebP."""
    root = SHIPPED.parents[3]
    files = [f for folder in ("docs", "experiments", "talkinghead") for f in sorted((root / folder).rglob("*.*"))]
    faces = [f for f in files if f.suffix in (".jpg", ".mp4", ".webp")]
    assert len(faces) > 10
    assert [str(f) for f in faces if not any(said["generated"] for said in read(f.read_bytes()))] == []
