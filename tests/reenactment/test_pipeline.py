"""What makes an animation fast does not change it: precision by device, and the quick G' made once."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from talkinghead.faces.crop import Framing
from talkinghead.learners import finetune
from talkinghead.learners.finetune import PersonReenactor
from talkinghead.models.fast_generator import FastGenerator
from talkinghead.models.fsth import Generator, PersonalGenerator
from talkinghead.progress import Phases
from talkinghead.reenactment.animation import Look
from talkinghead.reenactment.pipeline import KnownPerson, Pipeline, Settings
from talkinghead.types import Frames
from tests.helpers.preparation_videos import GreenFace, write_clip

SIZE = 32


class Witness:
    """A method that shows the driver, and remembers whether it computed under autocast."""

    def __init__(self) -> None:
        self.bf16: list[bool] = []

    def __call__(self, driving: Frames) -> torch.Tensor:
        self.bf16.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)
        return driving.images


@pytest.mark.parametrize(
    ("precision", "has_units", "bf16"),
    [("auto", True, True), ("auto", False, False), ("bf16", False, True), ("fp32", True, False)],
)
def test_auto_is_bf16_where_it_is_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, has_units: bool, bf16: bool
) -> None:
    dtype = torch.bfloat16 if has_units else torch.float32
    monkeypatch.setattr("talkinghead.reenactment.pipeline.fast_dtype", lambda device: dtype)
    write_clip(tmp_path / "clip.mp4", 3)
    witness, settings = Witness(), Settings(precision=precision, adapt="absolute")
    pipeline = Pipeline(GreenFace(), Framing(), settings, Phases())
    pipeline([], tmp_path / "clip.mp4", KnownPerson(witness, SIZE, None), Look(size=None), tmp_path / "out.mp4")
    assert set(witness.bf16) == {bf16}


@pytest.fixture
def generator() -> PersonalGenerator:
    torch.manual_seed(0)
    sizes = {"down_channels": (8, 16), "num_residual": 1, "up_channels": (16, 8)}
    return Generator(SIZE, 16, **sizes, attention_down=16, attention_up=32).eval().personalize(torch.randn(1, 16))


def frames(count: int = 3) -> Frames:
    return Frames(*torch.rand(2, count, 3, SIZE, SIZE) * 2 - 1, torch.rand(count, 68, 2) * SIZE)


def test_a_person_is_drawn_as_g_draws_in_the_precision_around(generator: PersonalGenerator) -> None:
    person, driving = PersonReenactor(generator), frames()
    for bf16, tolerance in ((False, 1e-4), (True, 0.1), (False, 1e-4)):
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            x_hat = person(driving)
            with torch.no_grad():
                expected = generator(driving.landmarks)
        assert x_hat.dtype == torch.float32
        assert not x_hat.requires_grad
        torch.testing.assert_close(x_hat, expected, atol=tolerance, rtol=0)


def test_the_quick_generator_is_made_once(generator: PersonalGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.dtype] = []

    def make(person: PersonalGenerator, dtype: torch.dtype) -> FastGenerator:
        made.append(dtype)
        return FastGenerator(person, dtype)

    monkeypatch.setattr(finetune, "FastGenerator", make)
    person = PersonReenactor(generator)
    for _ in range(3):
        person(frames())
    assert made == [torch.float32]
    with torch.autocast("cpu", torch.bfloat16):
        person(frames())
        person(frames())
    assert made == [torch.float32, torch.bfloat16]
