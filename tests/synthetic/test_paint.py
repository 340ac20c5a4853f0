"""What is painted on a head: the map's coordinates, its brushes by hand, beards, necklines, strands and rooms."""

import dataclasses

import numpy as np
import pytest

from talkinghead.synthetic.body import load_body
from talkinghead.synthetic.paint import (
    AXIS_Y,
    BOTTOM,
    LIPS_LOWER,
    LIPS_UPPER,
    TOP,
    SkinMap,
    beard_mask,
    linear,
    neckline,
    paint_background,
    paint_hair,
    paint_room,
    paint_skin,
    texture_coordinates,
)
from talkinghead.synthetic.person import Person, make_person

SIZE = 128
FLAT = {"freckles": 0.0, "wrinkles": 0.0, "blush": 0.0, "make_up": 0.0, "beard": "none", "female": 1.0, "age": 0.0}


@pytest.fixture(scope="module")
def person() -> Person:
    return make_person(3, load_body())


def near(skin: np.ndarray, azimuth: float, height: float) -> np.ndarray:
    """The mean colour of 5 x 3 texels of a map around degrees and metres."""
    row, column = int((TOP - height) / (TOP - BOTTOM) * SIZE), int((azimuth / 360 + 0.5) * SIZE)
    return skin[row - 1 : row + 2, column - 2 : column + 3].mean((0, 1))


# The map.


def test_the_map_has_the_face_in_its_middle_and_unrolls_to_both_sides() -> None:
    front, left, right, top = [0, -0.2, 0.63], [0.1, AXIS_Y, 0.63], [-0.1, AXIS_Y, BOTTOM], [0, -0.2, TOP]
    found = texture_coordinates(np.array([front, left, right, top], np.float32))
    assert found == pytest.approx(np.array([[0.5, 0.5], [0.75, 0.5], [0.25, 1.0], [0.5, 0.0]]), abs=1e-6)


def test_a_texel_lies_where_the_coordinates_say() -> None:
    skin = SkinMap(SIZE, 0)
    row, column = 20, 90
    azimuth, height = np.deg2rad(skin.azimuth[0, column]), skin.height[row, 0]
    point = np.array([[np.sin(azimuth), AXIS_Y - np.cos(azimuth), height]], np.float32)
    expected = [(column + 0.5) / SIZE, (row + 0.5) / SIZE]
    assert texture_coordinates(point)[0] == pytest.approx(np.array(expected), abs=1e-5)


def test_linear_light_of_a_middle_grey() -> None:
    assert linear((0.0, 0.5, 1.0)) == pytest.approx(np.array([0, 0.2176, 1]), abs=1e-4)


# Brushes.


def test_blending_and_tinting_by_hand() -> None:
    skin = SkinMap(4, 0)
    mask = np.zeros((4, 4), np.float32)
    mask[0, :2] = 1.0, 0.25
    skin.blend(np.array([0.0, 0.5, 1.0]), mask)
    assert skin.colour[0, :3] == pytest.approx(np.array([[0, 0.5, 1], [0.75, 0.875, 1], [1, 1, 1]]))
    skin.tint((0.5, 1.0, 2.0), mask)
    assert skin.colour[0, :3] == pytest.approx(np.array([[0, 0.5, 2], [0.65625, 0.875, 1.25], [1, 1, 1]]))
    assert (skin.colour[1:] == 1).all()


def test_a_spot_is_on_both_sides_and_falls_to_1_over_e_at_its_half_widths() -> None:
    skin = SkinMap(360, 0)  # a texel a degree
    spot = skin.spot(30.5, float(skin.height[100, 0]), 10, float(skin.height[100, 0] - skin.height[110, 0]))
    assert np.allclose(spot, spot[:, ::-1], atol=1e-5)
    assert skin.azimuth[0, 210] == pytest.approx(30.5)
    assert spot[100, 210] == spot.max() == pytest.approx(1)
    assert spot[100, 220] == pytest.approx(1 / np.e, abs=1e-4)
    assert spot[110, 200] == pytest.approx(1 / np.e**2, abs=1e-4)


def test_a_polygon_has_its_area_and_a_soft_border() -> None:
    skin = SkinMap(512, 0)
    high, low = TOP - (TOP - BOTTOM) * 0.25, TOP - (TOP - BOTTOM) * 0.5
    mask = skin.polygon([(-45, high), (45, high), (45, low), (-45, low)], soft=2.0)
    assert mask.sum() == pytest.approx(128 * 128, rel=0.03), "a quarter of the way around and of the height"
    assert (mask[192, 256], mask[192, 100], mask[300, 256]) == (1, 0, 0)
    assert mask[192, 192] == pytest.approx(0.5, abs=0.15)


def test_noise_has_unit_variance_and_the_grain_that_is_asked_for() -> None:
    fine, coarse = SkinMap(256, 0).noise(4, 4), SkinMap(256, 0).noise(16, 16)
    assert coarse.mean() == pytest.approx(0, abs=0.1)
    assert coarse.std() == pytest.approx(1, abs=0.1)
    assert np.abs(np.diff(coarse, axis=1)).mean() < 0.4 * np.abs(np.diff(fine, axis=1)).mean()
    assert not np.array_equal(fine, SkinMap(256, 1).noise(2, 2))


# Beards and clothes.


@pytest.mark.parametrize(("kind", "grows"), [
    ("none", ()), ("moustache", ("lip",)), ("goatee", ("lip", "chin")),
    ("full", ("lip", "chin", "cheek")), ("stubble", ("lip", "chin", "cheek")),
])  # fmt: skip
def test_where_beards_grow(kind: str, grows: tuple[str, ...]) -> None:
    places = {"lip": (0.0, 0.678), "chin": (0.0, 0.635), "cheek": (50.0, 0.65), "brow": (0.0, 0.75), "neck": (0.0, 0.6)}
    found = {name: float(beard_mask(kind, np.array([a]), np.array([h]))[0]) for name, (a, h) in places.items()}
    assert found == {name: float(name in grows) for name in places}


@pytest.mark.parametrize("kind", ["moustache", "goatee", "full"])
def test_a_beard_is_the_same_on_both_sides_and_leaves_the_nape_free(kind: str) -> None:
    azimuth, height = np.linspace(-180, 180, 73)[None], np.linspace(0.5, 0.8, 61)[:, None]
    mask = beard_mask(kind, azimuth, height)
    assert np.allclose(mask, mask[:, ::-1])
    assert 0 == mask.min() < mask.max() == 1
    assert not mask[:, np.abs(azimuth[0]) > 80].any()


def test_a_neckline_is_interpolated_between_front_and_back() -> None:
    around = np.array([0.0, 90.0, -90.0, 180.0])
    assert neckline("roll", around) == pytest.approx(np.array([0.594, 0.605, 0.605, 0.616]))
    assert neckline("v", np.array([0.0, 15.0])) == pytest.approx(np.array([0.520, 0.542]))


def test_lips_and_clothes_have_the_persons_colours(person: Person) -> None:
    flat = dataclasses.replace(person, **FLAT, lips=(0.9, 0.1, 0.1), cloth=(0.1, 0.2, 0.9), cloth_pattern=0)
    skin = paint_skin(flat, SIZE)
    assert skin.shape == (SIZE, SIZE, 3)
    assert 0 <= skin.min() <= skin.max() <= 1
    middle = float(np.mean([height for _, height in (*LIPS_UPPER, *LIPS_LOWER)]))
    red, green, _ = near(skin, 0, middle)
    assert red > 3 * green
    assert near(skin, 120, 0.45) == pytest.approx(linear((0.1, 0.2, 0.9)), rel=0.1)
    assert near(skin, 45, 0.70) == pytest.approx(linear(flat.skin), rel=0.1)


def test_a_full_beard_darkens_the_chin_of_who_has_dark_hair(person: Person) -> None:
    flat = dataclasses.replace(person, **FLAT, hair_colour=(0.05, 0.05, 0.05), skin=(0.9, 0.8, 0.7))
    shaved, bearded = paint_skin(flat, SIZE), paint_skin(dataclasses.replace(flat, beard="full"), SIZE)
    assert near(bearded, 0, 0.635).mean() < 0.5 * near(shaved, 0, 0.635).mean()
    assert near(bearded, 45, 0.72) == pytest.approx(near(shaved, 45, 0.72), rel=0.1), "not on the cheekbones"


# Hair and rooms.


def test_strands_run_along_v_and_are_darkest_at_the_roots(person: Person) -> None:
    hair = paint_hair(dataclasses.replace(person, hair_colour=(0.6, 0.5, 0.4)), SIZE)
    assert hair.shape == (SIZE // 2, 2 * SIZE, 3)
    assert hair.mean((0, 1)) == pytest.approx(linear((0.6, 0.5, 0.4)), rel=0.15)
    assert hair[:8].mean() < 0.8 * hair[-8:].mean(), "0.8 at the roots, 1.15 at the ends"
    assert np.abs(np.diff(hair, axis=0)).mean() < 0.2 * np.abs(np.diff(hair, axis=1)).mean()


@pytest.mark.parametrize("paint", [paint_background, paint_room])
def test_a_room_comes_from_its_seed_alone(paint: object) -> None:
    rooms = [paint(seed, 64) for seed in (1, 1, 2)]  # type: ignore[operator]
    assert np.array_equal(rooms[0], rooms[1])
    assert not np.allclose(rooms[0], rooms[2], atol=0.01)
    assert all(room.shape == (64, 64, 3) and 0 <= room.min() <= room.max() <= 1 for room in rooms)


def test_a_room_in_focus_has_edges_that_one_out_of_focus_has_not() -> None:
    def steepest(picture: np.ndarray) -> float:
        return float(np.abs(np.diff(picture, axis=1)).max())

    blurred, sharp = ([steepest(paint(seed, 128)) for seed in range(8)] for paint in (paint_background, paint_room))
    assert max(blurred) < 0.15
    assert np.median(sharp) > 3 * np.median(blurred)
