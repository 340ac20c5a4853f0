"""Skin, make-up, beard and clothes painted on a map around the head, and strands painted on the hair.

The map unrolls the template: u is the azimuth around the head's axis (0.5 is the face's middle), v goes down with the
height of the template. Masks are therefore smooth functions of degrees and metres, the same for every person.
"""

import cv2
import numpy as np
from jaxtyping import Float

from talkinghead.synthetic.extras import Extras
from talkinghead.synthetic.hair import CENTRE, hairline_elevation
from talkinghead.synthetic.person import Colour, Person

Number = float | int

TOP, BOTTOM, AXIS_Y = 0.86, 0.40, -0.03
LIPS_UPPER = ((-13.0, 0.6625), (-9, 0.6655), (-5, 0.6700), (-2.4, 0.6725), (0, 0.6710), (2.4, 0.6725), (5, 0.6700),
              (9, 0.6655), (13, 0.6625))  # fmt: skip
LIPS_LOWER = ((9.5, 0.6560), (5.5, 0.6525), (0, 0.6510), (-5.5, 0.6525), (-9.5, 0.6560))
BROW = ((4.8, 0.7462), (9, 0.7490), (14.5, 0.7515), (20, 0.7512), (26, 0.7460))  # middle line, inner to outer end
BROW_HALF = (0.0026, 0.0034, 0.0032, 0.0024, 0.0008)


def texture_coordinates(template: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 2"]:
    """Where each vertex of the template lies on the map."""
    azimuth = np.arctan2(template[:, 0], -(template[:, 1] - AXIS_Y))
    height = (TOP - template[:, 2]) / (TOP - BOTTOM)
    return np.stack([azimuth / (2 * np.pi) + 0.5, height], -1).astype(np.float32)


def linear(colour: Colour | Float[np.ndarray, "*N"]) -> Float[np.ndarray, "*N"]:
    """Display colours in [0, 1] to linear light."""
    return np.asarray(colour, np.float32) ** 2.2


class SkinMap:
    """The map being painted: `azimuth` in degrees and `height` in metres of every texel, `colour` linear RGB."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.azimuth = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5)[None] * 360
        self.height = (TOP - (np.arange(size, dtype=np.float32) + 0.5) / size * (TOP - BOTTOM))[:, None]
        self.colour = np.ones((size, size, 3), np.float32)
        self.rng = np.random.default_rng([seed, 5])

    def blend(self, colour: Float[np.ndarray, " 3"], mask: Float[np.ndarray, "H W"]) -> None:
        """Paint over with a linear colour."""
        self.colour += mask[..., None] * (np.asarray(colour, np.float32) - self.colour)

    def tint(self, factor: tuple[float, float, float], mask: Float[np.ndarray, "H W"]) -> None:
        """Multiply by a factor per channel."""
        self.colour *= 1 + mask[..., None] * (np.asarray(factor, np.float32) - 1)

    def spot(self, azimuth: Number, height: Number, width: Number, tall: Number) -> Float[np.ndarray, "H W"]:
        """A soft spot on both sides of the face; half widths in degrees and metres."""
        side = np.exp(-(((np.abs(self.azimuth) - azimuth) / width) ** 2))
        return side * np.exp(-(((self.height - height) / tall) ** 2))

    def polygon(self, corners: list[tuple[Number, Number]], soft: Number) -> Float[np.ndarray, "H W"]:
        """Filled polygon of (degrees, metres), its border `soft` texels of a 512 map wide."""
        mask = np.zeros((self.size, self.size), np.uint8)
        points = np.array(corners)
        pixels = np.stack([(points[:, 0] / 360 + 0.5), (TOP - points[:, 1]) / (TOP - BOTTOM)], -1) * self.size * 16
        cv2.fillPoly(mask, [pixels.round().astype(np.int32)], 255, cv2.LINE_AA, 4)
        return cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), soft * self.size / 512)

    def noise(self, across: Number, down: Number) -> Float[np.ndarray, "H W"]:
        """Smooth noise of about unit variance, 2 where a grain is one texel; grain in texels of a 512 map."""
        scale = self.size / 512
        small = (max(4, int(self.size / (across * scale))), max(4, int(self.size / (down * scale))))
        grain = self.rng.normal(0, 1, (small[1], small[0])).astype(np.float32)
        return cv2.resize(grain, (self.size, self.size), interpolation=cv2.INTER_LINEAR) * 1.4


def paint_skin(person: Person, size: int, extras: Extras | None = None) -> Float[np.ndarray, "H W 3"]:
    """The whole map of one person, linear RGB."""
    skin = SkinMap(size, person.seed)
    _complexion(skin, person)
    if extras is not None:
        _marks(skin, extras)
    _lips(skin, person)
    _eyes(skin, person)
    _beard(skin, person)
    _brows(skin, person)
    _scalp(skin, person)
    _clothes(skin, person)
    return np.clip(skin.colour, 0, 1)


def _complexion(skin: SkinMap, person: Person) -> None:
    skin.colour *= linear(person.skin)
    mottle = 0.6 * skin.noise(24, 24) + 0.4 * skin.noise(6, 6)
    skin.colour *= (1 + 0.045 * mottle * (1 + person.age))[..., None]
    red = person.blush * np.clip(np.mean(person.skin) * 1.3, 0.3, 1)
    for azimuth, height, width, tall, amount in (
        (26, 0.690, 11, 0.017, 0.45), (0, 0.697, 5, 0.010, 0.40), (90, 0.705, 14, 0.03, 0.4),
        (0, 0.628, 8, 0.008, 0.25),
    ):  # fmt: skip
        skin.tint((1.0, 0.74, 0.74), skin.spot(azimuth, height, width, tall) * red * amount * 1.6)
    skin.tint((0.74, 0.66, 0.68), skin.spot(14, 0.7135, 6.5, 0.0055) * (0.25 + 0.45 * person.age))
    if person.freckles > 0:
        dots = np.clip(skin.noise(2.2, 2.2) - 1.2, 0, 1) * (skin.spot(16, 0.70, 16, 0.02) + skin.spot(0, 0.70, 9, 0.02))
        skin.tint((0.62, 0.45, 0.36), np.clip(dots * person.freckles * 1.5, 0, 1))
    if person.wrinkles > 0.3:
        depth = (person.wrinkles - 0.3) * 0.7
        for height in (0.769, 0.780, 0.790):
            wave = height + 0.0015 * np.sin(np.deg2rad(skin.azimuth * 6 + height * 9000))
            lines = np.exp(-(((skin.height - wave) / 0.0012) ** 2)) * np.clip(1 - np.abs(skin.azimuth) / 32, 0, 1)
            skin.tint((0.72, 0.66, 0.64), lines * depth)
        smile = np.abs(np.abs(skin.azimuth) - (10 + (0.694 - skin.height) * 260))
        fold = np.exp(-((smile / 1.4) ** 2)) * ((skin.height < 0.694) & (skin.height > 0.660))
        skin.tint((0.70, 0.62, 0.60), fold * depth)


def _marks(skin: SkinMap, extras: Extras) -> None:
    """Moles; lines at the outer corners of the eyes, between the brows and under the eyes."""
    for azimuth, height, radius, dark in extras.moles:
        across = (skin.azimuth - azimuth) * 0.0019  # metres a degree, at the cheek
        spot = np.clip(1.6 - np.hypot(across, skin.height - height) / radius, 0, 1)
        skin.tint((0.42, 0.30, 0.26), spot * dark)
    side, depth = np.abs(skin.azimuth), extras.lines * 0.8
    for slope in (-0.00085, -0.0001, 0.0007):
        off = skin.height - 0.7295 - slope * (side - 25.5)
        crow = np.exp(-((off / 0.0008) ** 2)) * np.clip((side - 25) / 2, 0, 1) * np.clip((36 - side) / 5, 0, 1)
        skin.tint((0.70, 0.62, 0.60), crow * depth)
    for height, bend in ((0.7195, 0.00009), (0.7145, 0.00006)):
        line = np.exp(-(((skin.height - height - bend * (side - 15) ** 2) / 0.0008) ** 2))
        skin.tint((0.74, 0.66, 0.66), line * np.clip(1.6 - np.abs(side - 15) / 6, 0, 1) * depth)
    frown = np.exp(-(((side - 2.6) / 0.55) ** 2)) * np.clip(1.5 - np.abs(skin.height - 0.752) / 0.008, 0, 1)
    skin.tint((0.72, 0.64, 0.62), frown * depth)


def _lips(skin: SkinMap, person: Person) -> None:
    mask = skin.polygon([*LIPS_UPPER, *LIPS_LOWER], 1.1)
    colour = linear(person.lips)
    skin.blend(colour, mask * 0.9)
    skin.tint((0.6, 0.5, 0.5), np.exp(-(((skin.height - 0.6622) / 0.0011) ** 2)) * (np.abs(skin.azimuth) < 12.5) * 0.7)
    skin.tint((1.25, 1.22, 1.2), skin.spot(0, 0.6565, 6, 0.0022) * mask * 0.5)


def _eyes(skin: SkinMap, person: Person) -> None:
    """Darker lids and lashes; make-up on top of them. The lids' rims are darkened by the scene's occlusion."""
    lid = skin.spot(15, 0.7345, 7.5, 0.0045)
    skin.tint((0.82, 0.72, 0.72), lid * 0.6)
    if person.make_up > 0.45:
        shadow = np.random.default_rng([person.seed, 6]).uniform(0.1, 0.5, 3).astype(np.float32) ** 2
        skin.blend(shadow, skin.spot(15.5, 0.7365, 7, 0.0045) * (person.make_up - 0.45))
    lash = 0.25 + 0.6 * person.make_up
    arc = 0.7315 + 0.0035 * np.clip(1 - ((np.abs(skin.azimuth) - 14.5) / 8.5) ** 2, -1, 1)
    lashes = np.exp(-(((skin.height - arc) / 0.0011) ** 2)) * np.clip(9.5 - np.abs(np.abs(skin.azimuth) - 15), 0, 1)
    skin.blend(linear(person.hair_colour) * 0.15, lashes * lash)


def _brows(skin: SkinMap, person: Person) -> None:
    rise, thick = person.brow_height * 0.0012, person.brow_thickness
    line, half = np.array(BROW), np.array(BROW_HALF) * thick
    hairs = np.clip(0.85 + 0.18 * skin.noise(1.2, 2.5), 0, 1)
    for side in (-1, 1):
        upper = [(side * a, h + rise + t) for (a, h), t in zip(line, half, strict=True)]
        lower = [(side * a, h + rise - t) for (a, h), t in zip(line, half, strict=True)][::-1]
        mask = skin.polygon(upper + lower, 0.9) * hairs
        strength = 0.92 if thick > 0.75 else 0.8
        skin.blend(linear(_brow_colour(person)), np.clip(mask * strength, 0, 1))


def _brow_colour(person: Person) -> Float[np.ndarray, " 3"]:
    hair = np.array(person.hair_colour, np.float32)
    natural = np.minimum(hair, np.array([0.42, 0.32, 0.24])) * 0.9 if person.age < 0.7 else hair * 0.85
    return np.minimum(natural, np.array(person.skin, np.float32) * 0.72)


def _beard(skin: SkinMap, person: Person) -> None:
    mask = beard_mask(person.beard, skin.azimuth, skin.height)
    if person.beard == "none" or not mask.any():
        if person.female < 0.5:
            shadow = beard_mask("full", skin.azimuth, skin.height)
            skin.tint((0.88, 0.9, 0.93), shadow * 0.45)
        return
    amount = 0.45 if person.beard == "stubble" else 0.94
    hairs = np.clip(0.85 + 0.3 * skin.noise(1.8, 6) + 0.1 * skin.noise(8, 8), 0, 1)
    inside_lips = skin.polygon([*LIPS_UPPER, *LIPS_LOWER], 0.8)
    skin.blend(linear(person.hair_colour) * 0.9, mask * hairs * amount * (1 - inside_lips))


def beard_mask(kind: str, azimuth: Float[np.ndarray, "*A"], height: Float[np.ndarray, "*B"]) -> Float[np.ndarray, "*C"]:
    """How densely the beard grows at degrees and metres of the map, 0 ... 1."""
    side = np.abs(azimuth)
    moustache = np.clip((13.5 - side) / 3, 0, 1) * np.clip((0.6865 - 0.0003 * side - height) / 0.004, 0, 1)
    moustache = moustache * np.clip((height - 0.6640) / 0.004, 0, 1)
    if kind == "moustache":
        return moustache
    chin = (
        np.clip((12.5 - side) / 4, 0, 1)
        * np.clip((0.6500 - height) / 0.006, 0, 1)
        * np.clip((height - 0.616) / 0.004, 0, 1)
    )
    if kind == "goatee":
        link = np.clip(1.5 - np.abs(side - 12.5) / 2.5, 0, 1) * (height < 0.675) * (height > 0.632)
        return np.clip(np.maximum(np.maximum(moustache, chin), link), 0, 1)
    cheek = np.interp(side, [0, 12, 30, 55, 66, 70, 76, 180], [0.650, 0.668, 0.6655, 0.678, 0.705, 0.735, 0.70, 0.60])
    low = np.interp(side, [0, 40, 75, 95], [0.611, 0.613, 0.63, 0.66])
    full = (
        np.clip((cheek - height) / 0.008, 0, 1) * np.clip((height - low) / 0.012, 0, 1) * np.clip((80 - side) / 6, 0, 1)
    )
    return np.maximum(full, moustache) if kind in ("full", "stubble") else np.zeros_like(full)


def _scalp(skin: SkinMap, person: Person) -> None:
    """Hair colour under the hair, so that the hairline is soft; a shaved shadow on bald heads."""
    radius = np.interp(skin.height, [0.60, 0.70, 0.78, 0.82, 0.85], [0.075, 0.085, 0.085, 0.066, 0.02])
    elevation = np.rad2deg(np.arctan2(skin.height - CENTRE[2], radius))
    shift = 22.0 if person.hair_style in ("receding", "bald") else 0.0
    front = np.clip((65 - np.abs(skin.azimuth)) / 30, 0, 1)
    line = hairline_elevation(skin.azimuth) + shift * front - 1.5
    edge = np.clip((elevation - line + 2.0 * skin.noise(4, 9)) / 7, 0, 1) * (skin.height > 0.61)
    grown = {"bald": 0.12, "buzz": 0.85}.get(person.hair_style, 0.9)
    skin.blend(linear(person.hair_colour) * 1.1, edge * grown)


def _clothes(skin: SkinMap, person: Person) -> None:
    top = neckline(person.collar, skin.azimuth)
    mask = np.clip((top - skin.height) / 0.002, 0, 1)
    first, second = linear(person.cloth), linear(person.cloth_second)
    pattern = {
        1: np.sin(skin.height * 520) > 0.2, 2: np.sin(skin.azimuth / 4) > 0.3,
        3: (np.sin(skin.height * 420) > 0) ^ (np.sin(skin.azimuth / 5) > 0),
    }.get(person.cloth_pattern)  # fmt: skip
    skin.blend(first, mask)
    if pattern is not None:
        skin.blend(second, mask * pattern * 0.8)
    skin.tint((0.55, 0.55, 0.55), np.exp(-(((skin.height - top) / 0.002) ** 2)) * (mask > 0) * 0.6)
    skin.tint((1.0, 1.0, 1.0), mask)
    skin.colour *= 1 + (0.05 * skin.noise(9, 9) * mask)[..., None]
    if person.collar == "shirt":
        flap = np.clip((top + 0.016 - skin.height) / 0.002, 0, 1) * (np.abs(skin.azimuth) > 14) * (skin.height >= top)
        skin.blend(np.clip(first * 1.3 + 0.06, 0, 1), flap)


def neckline(collar: str, azimuth: Float[np.ndarray, "*A"]) -> Float[np.ndarray, "*A"]:
    """Height at which clothes begin, metres of the template."""
    side = np.abs(azimuth)
    points = {
        "crew": ([0, 60, 180], [0.556, 0.578, 0.600]), "v": ([0, 30, 70, 180], [0.520, 0.564, 0.582, 0.600]),
        "shirt": ([0, 14, 40, 180], [0.540, 0.580, 0.592, 0.612]), "roll": ([0, 180], [0.594, 0.616]),
        "wide": ([0, 45, 180], [0.546, 0.562, 0.590]),
    }  # fmt: skip
    return np.interp(side, *points[collar])


def paint_hair(person: Person, size: int) -> Float[np.ndarray, "h w 3"]:
    """Strands along v, each with its own shade; darker at the roots."""
    rng = np.random.default_rng([person.seed, 7])
    base = linear(person.hair_colour)
    fine = rng.normal(0, 1, (1, size * 2)).astype(np.float32)
    coarse = cv2.resize(rng.normal(0, 1, (1, size // 6)).astype(np.float32), (size * 2, 1))
    drift = cv2.resize(rng.normal(0, 1, (8, size // 4)).astype(np.float32), (size * 2, size // 2))
    shade = 1 + 0.22 * fine + 0.22 * coarse + 0.16 * drift
    depth = np.linspace(0, 1, size // 2, dtype=np.float32)[:, None]
    shade = shade * (0.8 + 0.35 * depth)
    warm = np.clip(1 + 0.05 * coarse[..., None] * np.array([1, 0, -1], np.float32), 0, 2)
    return np.clip(base * np.clip(shade, 0.25, 2.2)[..., None] * warm, 0, 1).astype(np.float32)


def paint_background(seed: int, size: int) -> Float[np.ndarray, "H W 3"]:
    """A room out of focus: a gradient, some blurred shapes and a little light, linear RGB."""
    rng = np.random.default_rng([seed, 8])
    corners = linear(
        np.clip(rng.uniform(0.08, 0.85) + rng.normal(0, 0.09, (2, 2, 1)) + rng.normal(0, 0.045, (2, 2, 3)), 0, 1)
    )
    picture = cv2.resize(corners.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    for _ in range(rng.integers(0, 7)):
        x, y, w, h = rng.uniform(-0.2, 1.0, 2).tolist() + rng.uniform(0.08, 0.6, 2).tolist()
        mask = np.zeros((size, size), np.float32)
        mask[int(max(0, y) * size) : int((y + h) * size), int(max(0, x) * size) : int((x + w) * size)] = 1
        colour = linear(np.clip(rng.uniform(0.05, 0.9) + rng.normal(0, 0.08, 3), 0.02, 0.95))
        picture += (colour - picture) * (mask * rng.uniform(0.2, 0.8))[..., None]
    blur = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.015, 0.06) * size)
    return np.clip(blur, 0, 1).astype(np.float32)


def paint_room(seed: int, size: int) -> Float[np.ndarray, "H W 3"]:
    """A room in focus: `paint_background` with edges, stripes, specks and grain on it, linear RGB.

    A network that moves pixels learns from it that what lies behind a head stays where it is.
    """
    rng = np.random.default_rng([seed, 10])
    picture = cv2.resize(paint_background(seed, 128), (size, size), interpolation=cv2.INTER_LINEAR)
    for _ in range(rng.integers(4, 30)):
        colour = linear(np.clip(rng.uniform(0.05, 0.9) + rng.normal(0, 0.12, 3), 0.02, 0.95))
        mask = np.zeros((size, size), np.float32)
        centre, extent = rng.uniform(0, size, 2), rng.uniform(0.02, 0.3, 2) * size
        kind = rng.integers(4)
        if kind == 0:
            box = cv2.boxPoints((centre.tolist(), extent.tolist(), float(rng.uniform(-90, 90) * (rng.uniform() < 0.4))))
            cv2.fillPoly(mask, [np.round(box).astype(np.int32)], 1.0, cv2.LINE_AA)
        elif kind == 1:
            axes = (int(extent[0] / 2) + 1, int(extent[1] / 2) + 1)
            cv2.ellipse(mask, (int(centre[0]), int(centre[1])), axes, 0, 0, 360, 1.0, -1, cv2.LINE_AA)
        elif kind == 2:  # books, blinds, letters: stripes in a box
            period, along = rng.uniform(4, 24), rng.uniform(0, size, 2)
            stripes = (np.sin((np.arange(size) + along[0]) * 2 * np.pi / period) > rng.uniform(-0.7, 0.7)).astype(
                np.float32
            )
            stripes = np.broadcast_to(stripes if rng.uniform() < 0.7 else stripes[:, None], (size, size))
            x, y = (centre - extent / 2).clip(0, size - 1).astype(int)
            mask[y : y + int(extent[1]) + 4, x : x + int(extent[0]) + 4] = 1
            mask = mask * stripes
        else:
            (x0, y0), (x1, y1) = (int(v) for v in centre), (int(v) for v in centre + rng.normal(0, 0.3, 2) * size)
            cv2.line(mask, (x0, y0), (x1, y1), 1.0, int(rng.integers(1, 6)), cv2.LINE_AA)
        picture += (colour - picture) * (mask * rng.uniform(0.3, 1.0))[..., None]
    grain = cv2.resize(rng.normal(0, 1, (size // 2, size // 2)).astype(np.float32), (size, size))
    picture = picture * (1 + grain[..., None] * rng.uniform(0, 0.08))
    blur = rng.uniform(0, 0.012) * size
    picture = cv2.GaussianBlur(picture, (0, 0), blur) if blur > 0.4 else picture
    return np.clip(picture, 0, 1).astype(np.float32)
