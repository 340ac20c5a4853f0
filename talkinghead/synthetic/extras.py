"""More variety of rendered people, drawn from the seed: what they wear; moles, lines and relief of the skin."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from talkinghead.synthetic.person import Colour, Person, muted

HATS = ("beanie", "cap", "felt", "straw", "veil")
UPDOS = ("bun", "knot", "tail", "bunches")
METALS: tuple[Colour, ...] = ((0.86, 0.68, 0.33), (0.75, 0.75, 0.77), (0.80, 0.55, 0.45))


@dataclass(frozen=True)
class Glasses:
    """Sizes as shares of the distance between the eyes' middles; `square` is the superellipse's exponent."""

    width: float
    height: float
    square: float
    tilt: float  # outer corners up
    thick: float  # of the rim, metres
    colour: Colour
    dark: bool  # sun glasses


@dataclass(frozen=True)
class Extras:
    """What a person wears, and details of the skin; empty words: nothing of the kind."""

    glasses: Glasses | None
    hat: str
    hat_colours: tuple[Colour, Colour]
    scarf: tuple[Colour, Colour] | None
    earrings: str
    metal: Colour
    updo: str
    moles: tuple[tuple[float, float, float, float], ...]  # degrees, metres of the map, radius in metres, darkness
    lines: float  # around the eyes, between the brows, under the eyes: 0 … 1
    relief: float  # strength of pores, strokes, cracks; 0: none


def make_extras(person: Person) -> Extras:
    """Draw the extras of a person; only a share of all people has each."""
    rng = np.random.default_rng([person.seed, 11])
    woman = person.female > 0.5
    hat = str(rng.choice(HATS, p=[0.26, 0.26, 0.2, 0.14, 0.14])) if rng.uniform() < 0.2 else ""
    glasses = _glasses(rng) if rng.uniform() < 0.3 else None
    jewel = str(rng.choice(["stud", "hoop", "drop"])) if rng.uniform() < (0.45 if woman else 0.06) else ""
    grown = person.hair_style == "tied" or (woman and person.hair_style in ("fringe", "swept", "short"))
    updo = str(rng.choice(UPDOS)) if grown and not hat and rng.uniform() < 0.75 else ""
    moles = tuple(
        (float(rng.uniform(-60, 60)), float(rng.uniform(0.60, 0.78)), float(rng.uniform(0.0007, 0.0018)),
         float(rng.uniform(0.35, 0.85)))
        for _ in range(rng.poisson(1.2))
    )  # fmt: skip
    return Extras(
        glasses=glasses, hat=hat, hat_colours=(muted(rng, 0.25), muted(rng, 0.25)),
        scarf=(muted(rng, 0.25), muted(rng, 0.25)) if rng.uniform() < 0.14 else None, earrings=jewel,
        metal=METALS[rng.integers(len(METALS))], updo=updo, moles=moles,
        lines=float(np.clip(person.age * rng.uniform(0.5, 1.3), 0, 1)),
        relief=float(rng.uniform(0.02, 0.16)) if rng.uniform() < 0.65 else 0.0,
    )  # fmt: skip


def _glasses(rng: np.random.Generator) -> Glasses:
    width, dark = rng.uniform(0.36, 0.41), bool(rng.uniform() < 0.12)
    colours = ((0.03, 0.03, 0.035), (0.16, 0.09, 0.05), (0.42, 0.26, 0.13), *METALS, muted(rng, 0.35))
    return Glasses(
        width=float(width), height=float(width * rng.uniform(0.62, 1.0)), square=float(rng.uniform(2.0, 5.0)),
        tilt=float(rng.uniform(-0.02, 0.10)), thick=float(rng.uniform(0.0007, 0.0021)),
        colour=colours[rng.integers(len(colours))], dark=dark,
    )  # fmt: skip


def add_relief(
    texture: Float[np.ndarray, "H W 3"], strength: float, rng: np.random.Generator
) -> Float[np.ndarray, "H W 3"]:
    """The texture in [0, 1], lighter and darker by noise of six scales; in three of ten along one direction."""
    height, width = texture.shape[:2]
    total = np.zeros((height, width, 3), np.float32)
    for scale in (1, 2, 4, 8, 16, 32):
        colours = 1 if rng.uniform() < 0.7 else 3
        noise = rng.normal(0, 1, (max(2, height // scale), max(2, width // scale), colours)).astype(np.float32)
        if rng.uniform() < 0.3:
            noise = (np.sign(noise) * np.abs(noise) ** 1.5).astype(np.float32)
        wide = np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))
        total += wide.reshape(height, width, -1) * rng.uniform() ** 2
    if rng.uniform() < 0.3:
        angle, stroke = rng.uniform(0, np.pi), np.zeros((15, 15), np.float32)
        cv2.line(stroke, (int(7 - 7 * np.cos(angle)), int(7 - 7 * np.sin(angle))),
                 (int(7 + 7 * np.cos(angle)), int(7 + 7 * np.sin(angle))), 1.0, 1)  # fmt: skip
        total = cv2.filter2D(total, -1, stroke / stroke.sum()) * 2.5
    return np.clip(texture * np.exp(total * strength), 0, 1).astype(np.float32)
