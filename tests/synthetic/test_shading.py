"""Light on a wall that faces the camera: Lambert's law, shadows, ambient light and textures, by hand."""

# mypy: ignore-errors
# @no_type_check: warp's annotations are for its compiler, not for a type checker

from typing import no_type_check

import numpy as np
import pytest
import warp as wp

from talkinghead.synthetic import raster, shading
from talkinghead.synthetic.raster import CLOTH, HAIR, SKIN
from talkinghead.synthetic.renderer import Camera, Colours, Lighting, Renderer, Surface

CAMERA = Camera(distance=1.0, centre=(0.0, 0.0), half=0.1)
FRONT = (0.0, -1.0, 0.0)
ORANGE = (0.8, 0.4, 0.2)


@pytest.fixture(scope="module", autouse=True)
def _warp() -> None:
    raster.start()


@wp.kernel
@no_type_check
def evaluate_smooth(x: wp.array(dtype=float), out: wp.array(dtype=float)):
    """Between 2 and 4."""
    n = wp.tid()
    out[n] = shading.smooth(2.0, 4.0, x[n])


@wp.kernel
@no_type_check
def evaluate_sample(texture: wp.array2d(dtype=wp.vec3), uv: wp.array(dtype=wp.vec2), out: wp.array(dtype=wp.vec3)):
    """Of each place."""
    n = wp.tid()
    out[n] = shading.sample(texture, uv[n])


@wp.kernel
@no_type_check
def evaluate_corners(texcoords: wp.array(dtype=wp.vec2), w: wp.array(dtype=wp.vec3), out: wp.array(dtype=wp.vec2)):
    """Inside the face of the first three corners."""
    n = wp.tid()
    out[n] = shading.corners(texcoords, wp.vec3i(0, 1, 2), w[n])


def wall(y: float = 0.0, half: float = 0.15, shift: float = 0.0) -> np.ndarray:
    """Corners of a square that faces the camera, `y` metres behind the origin and `shift` to the right."""
    x, z = np.array([-1, 1, 1, -1]) * half + shift, np.array([-1, -1, 1, 1]) * half
    return np.stack([x, np.full(4, y), z], -1).astype(np.float32)


def draw(*walls: np.ndarray, kind: int = CLOTH, direction: tuple[float, float, float] = FRONT, **options) -> np.ndarray:
    """Display colours in [0, 1] of orange walls, the middle 8 x 8 pixels of 32."""
    light = {"key": (0.0, 0.0, 0.0), "ambient": (0.0, 0.0, 0.0), "fill": (0.0, 0.0, 0.0)} | options
    quad = np.array([[0, 1, 2], [0, 2, 3]])
    vertices, faces = np.concatenate(walls), np.concatenate([quad + 4 * n for n in range(len(walls))])
    count = len(vertices)
    texture = np.broadcast_to(np.float32(ORANGE), (4, 4, 3)).copy()
    surface = Surface(
        faces.astype(np.int32), np.full(len(faces), kind, np.int32), np.zeros((count, 2), np.float32),
        np.broadcast_to(np.float32(ORANGE), (count, 3)).copy(), np.ones(count, np.float32),
        np.ones(count, np.float32), texture, texture,
    )  # fmt: skip
    colours = Colours((0.2, 0.2, 0.2), 0.4, (0.8, 0.8, 0.8), gloss=0.0, hair_gloss=0.0)
    room = np.zeros((4, 4, 3), np.float32)
    picture = Renderer(32)(vertices[None], surface, CAMERA, Lighting(direction, **light), room, colours)
    return picture[0, 12:20, 12:20] / 255


def display(*linear: float) -> np.ndarray:
    return np.array(linear) ** (1 / 2.2)


def test_smooth_steps() -> None:
    out = wp.empty(5, dtype=float, device="cpu")
    places = wp.array([1.0, 2.5, 3.0, 3.5, 9.0], dtype=float, device="cpu")
    wp.launch(evaluate_smooth, 5, [places], [out], device="cpu")
    assert out.numpy() == pytest.approx(np.array([0, 0.15625, 0.5, 0.84375, 1])), "3 t^2 - 2 t^3"


def test_a_texture_is_bilinear_wraps_around_the_head_and_ends_at_top_and_bottom() -> None:
    values = np.arange(8, dtype=np.float32).reshape(2, 4)  # two rows of four texels
    texture = wp.array(np.repeat(values[..., None], 3, -1), dtype=wp.vec3, device="cpu")
    places = [(1, 2), (3, 2), (2, 2), (2, 4), (0, 2), (7.5, 2), (8, 2), (1, 0), (1, 9)]  # eighths
    out = wp.empty(len(places), dtype=wp.vec3, device="cpu")
    uv = wp.array(np.array(places, np.float32) / 8, dtype=wp.vec2, device="cpu")
    wp.launch(evaluate_sample, len(places), [texture, uv], [out], device="cpu")
    assert out.numpy()[:, 0] == pytest.approx(np.array([0, 1, 0.5, 2.5, 1.5, 2.25, 1.5, 0, 4]))


def test_a_face_across_the_seam_is_not_stretched_around_the_head() -> None:
    texcoords = wp.array(np.array([[0.95, 0.2], [0.05, 0.4], [0.05, 0.2]], np.float32), dtype=wp.vec2, device="cpu")
    weights = wp.array(np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1]], np.float32), dtype=wp.vec3, device="cpu")
    out = wp.empty(3, dtype=wp.vec2, device="cpu")
    wp.launch(evaluate_corners, 3, [texcoords, weights], [out], device="cpu")
    found = out.numpy()
    assert found[:, 0] % 1 == pytest.approx(np.array([0.95, 0.0, 0.05]), abs=1e-6)
    assert found[:, 1] == pytest.approx(np.array([0.2, 0.3, 0.2]))


@pytest.mark.parametrize("kind", [SKIN, HAIR, CLOTH])
def test_a_wall_in_the_key_light_has_its_own_colour_times_the_lights(kind: int) -> None:
    found = draw(wall(), kind=kind, key=(0.5, 0.5, 1.0))
    shine = 0.02 if kind == CLOTH else 0.0
    assert found == pytest.approx(
        np.broadcast_to(display(0.5 * (0.8 + shine), 0.5 * (0.4 + shine), 0.2 + shine), (8, 8, 3)), abs=0.015
    )


def test_light_from_the_side_falls_with_the_cosine_and_skin_lets_red_go_furthest() -> None:
    side = (np.sin(np.deg2rad(60)), -np.cos(np.deg2rad(60)), 0.0)
    cloth = draw(wall(), direction=side, key=(1.0, 1.0, 1.0)).mean((0, 1))
    assert cloth == pytest.approx(display(*np.array(ORANGE) / 2), abs=0.01)
    skin = draw(wall(), direction=side, key=(1.0, 1.0, 1.0), kind=SKIN).mean((0, 1))
    share = skin**2.2 / np.array(ORANGE)
    assert share[0] > share[1] > share[2] > 0.5, "wrapped around the terminator"
    assert share == pytest.approx(np.array([0.8 / 1.3, 0.66 / 1.16, 0.6 / 1.1]), abs=0.02)


def test_ambient_light_comes_from_above_and_fill_from_the_camera() -> None:
    assert draw(wall(), ambient=(1.0, 1.0, 1.0)).mean((0, 1)) == pytest.approx(
        display(*0.6 * np.array(ORANGE)), abs=0.01
    )
    fill = draw(wall(), fill=(0.5, 0.0, 0.0)).mean((0, 1))
    assert fill == pytest.approx(display(0.4, 0, 0), abs=0.01)


def test_who_stands_in_the_light_throws_a_shadow() -> None:
    """On a wall that the camera sees, from a screen beside its view: the light comes from the left."""
    towards = np.array([-1.0, -1.0, 0.0]) / np.sqrt(2)
    screen = wall(-0.1, 0.045, shift=-0.1)
    lit, shadowed = (
        draw(*walls, direction=tuple(towards.tolist()), key=(1.0, 1.0, 1.0)) for walls in ([wall()], [wall(), screen])
    )
    assert lit.mean((0, 1)) == pytest.approx(display(*np.array(ORANGE) * np.sqrt(0.5)), abs=0.02)
    assert shadowed.max() < 0.05


def test_samples_are_averaged_in_linear_light_before_they_are_displayed() -> None:
    fine = np.zeros((1, 4, 4, 3), np.float32)
    fine[0, :2, :2] = np.array([[0.0, 1.0], [1.0, 0.0]])[..., None]
    fine[0, 2:, 2:] = 9.0  # a highlight counts as 1.2 at most, and white is white
    fine[0, :2, 2:] = np.array([[9.0, 0.0], [0.0, 0.0]])[..., None]
    out = wp.empty((1, 2, 2, 3), dtype=wp.uint8, device="cpu")
    wp.launch(shading.resolve, (1, 2, 2), [wp.array(fine, dtype=wp.vec3, device="cpu"), 2], [out], device="cpu")
    expected = [[255 * 0.5 ** (1 / 2.2), 255 * 0.3 ** (1 / 2.2)], [0, 255]]
    assert np.abs(out.numpy()[0] - np.array(expected)[..., None]).max() <= 1
