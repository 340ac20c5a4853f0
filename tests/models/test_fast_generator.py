"""The quick G' draws what G' draws, with two thirds of the multiplications."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from talkinghead.models.fast_generator import FastGenerator, depth_to_space
from talkinghead.models.fsth import Generator, PersonalGenerator
from talkinghead.precision import fast_dtype

SIZE = 32
PRESETS = [
    {"down_channels": (8, 16), "num_residual": 2, "up_channels": (16, 8), "attention_down": 16, "attention_up": 16},
    {"down_channels": (8, 16, 24), "num_residual": 1, "up_channels": (24, 16, 8), "attention_down": None,
     "attention_up": 32},
    {"down_channels": (16,), "num_residual": 0, "up_channels": (8,), "attention_down": None, "attention_up": None},
]  # fmt: skip


def person(preset: dict, spectral_norm: bool = True) -> PersonalGenerator:
    """Random, with attention that does something."""
    torch.manual_seed(0)
    generator = Generator(SIZE, 16, **preset, spectral_norm=spectral_norm).eval()
    for name, parameter in generator.named_parameters():
        if name.endswith(("gamma", "scale_shift")):
            torch.nn.init.normal_(parameter, std=0.5)
    return generator.personalize(torch.randn(1, 16))


def landmarks(count: int = 3, size: int = SIZE) -> torch.Tensor:
    return torch.rand(count, 3, size, size) * 2 - 1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("spectral_norm", [True, False])
def test_the_same_pictures(preset: dict, spectral_norm: bool) -> None:
    exact, y = person(preset, spectral_norm).double(), landmarks().double()
    before = {name: value.clone() for name, value in exact.state_dict().items()}
    quick = FastGenerator(exact, torch.float64)
    with torch.no_grad():
        expected = exact(y)
    assert expected.std() > 0.05
    torch.testing.assert_close(quick(y).float(), expected, atol=1e-6, rtol=0)
    assert all(torch.equal(before[name], value) for name, value in exact.state_dict().items()), "a copy"


def test_pictures_do_not_depend_on_those_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    quick, y = FastGenerator(person(PRESETS[0])), landmarks(5)
    together = quick(y)
    for pixels in (1, 2 * SIZE * SIZE):  # one at a time, two at a time
        monkeypatch.setattr("talkinghead.models.fast_generator.PIXELS_AT_ONCE", pixels)
        torch.testing.assert_close(quick(y), together, atol=1e-5, rtol=0)


def test_any_memory_format_and_no_gradients_even_under_autocast() -> None:
    quick, y = FastGenerator(person(PRESETS[0])), landmarks(2)
    expected = quick(y)
    assert not expected.requires_grad
    assert expected.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(quick(y.contiguous(memory_format=torch.channels_last)), expected, atol=1e-6, rtol=0)


def test_bfloat16_is_near() -> None:
    exact, y = person(PRESETS[0]), landmarks()
    difference = FastGenerator(exact, torch.bfloat16)(y) - FastGenerator(exact)(y)
    assert 0 < difference.square().mean().sqrt() < 0.05


def test_two_thirds_of_the_multiplications() -> None:
    sizes = {"down_channels": (64, 128, 256, 512), "up_channels": (512, 256, 128, 64), "num_residual": 4}
    paper = Generator(256, **sizes, attention_down=32, attention_up=64, spectral_norm=False).eval()
    exact = paper.personalize(torch.randn(1, 512)).fold()
    counts = []
    for generator in (exact, FastGenerator(exact)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            generator(landmarks(1, 256))
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.7 * counts[0]


def test_four_phases_make_a_picture() -> None:
    h = torch.arange(4.0).repeat_interleave(2)[None, :, None, None] + torch.zeros(1, 8, 4, 3)
    picture = depth_to_space(h)
    assert picture.shape == (1, 2, 6, 4)
    assert picture[0, 0, :2, :2].tolist() == [[0, 1], [2, 3]]
    assert torch.equal(picture[:, :, ::2, ::2], torch.zeros(1, 2, 3, 2))


def test_bf16_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_units, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has_units: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert fast_dtype("cpu") == dtype
