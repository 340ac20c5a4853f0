"""Who a synthetic person is: body, face, skin, hair, clothes, room and temper, all drawn from one seed."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from talkinghead.synthetic.body import Body
from talkinghead.synthetic.renderer import Lighting

Colour = tuple[float, float, float]  # sRGB in [0, 1]

HAIR_STYLES = ("bald", "buzz", "short", "swept", "fringe", "receding", "afro", "bob", "long", "tied", "curly")
BEARDS = ("none", "stubble", "moustache", "goatee", "full")
COLLARS = ("crew", "v", "shirt", "roll", "wide")


@dataclass(frozen=True)
class Personality:
    """How a person moves: factors around 1, and the expression that the face falls back to."""

    tempo: float
    amplitude: float
    speech: float
    blink_rate: float  # per second
    gaze: float
    habit: dict[str, float]
    rest_pose: tuple[float, float, float]  # yaw, pitch, roll in degrees


@dataclass(frozen=True)
class Person:
    """All properties of a person that do not change between frames; a clip's light and room are not among them."""

    seed: int
    female: float  # 0 male ... 1 female
    age: float  # 0 young adult ... 1 old
    muscle: float
    weight: float
    race: tuple[float, float, float]
    changes: tuple[float, ...]  # per Body.change_names, -1 ... 1
    skin: Colour
    lips: Colour
    iris: Colour
    freckles: float
    wrinkles: float
    blush: float
    make_up: float
    hair_style: str
    hair_colour: Colour
    hair_length: float
    hair_volume: float
    brow_thickness: float
    brow_height: float
    beard: str
    collar: str
    cloth: Colour
    cloth_second: Colour
    cloth_pattern: int
    personality: Personality


def make_person(seed: int, body: Body) -> Person:
    """Draw all properties of the person with this seed; equal seeds give equal people."""
    rng = np.random.default_rng([seed, 1])
    female = float(np.clip(rng.choice([0.08, 0.92]) + rng.normal(0, 0.08), 0, 1))
    age = float(rng.beta(1.0, 1.6))
    race = rng.dirichlet([0.35, 0.35, 0.4])
    is_woman = female > 0.5
    style = _hair_style(rng, is_woman, age)
    hair = _hair_colour(rng, race, age)
    skin, lips = _skin(rng, race, is_woman)
    beard = "none" if is_woman else str(rng.choice(BEARDS, p=[0.42, 0.2, 0.09, 0.09, 0.2]))
    cloth, cloth_second = (muted(rng, 0.22) for _ in range(2))
    return Person(
        seed=seed, female=female, age=age, race=tuple(race), skin=skin, lips=lips, hair_style=style, hair_colour=hair,
        muscle=float(rng.beta(2, 2)), weight=float(rng.beta(1.3, 1.5)), changes=_changes(rng, body),
        iris=_iris(rng, race), freckles=float(max(0.0, rng.normal(-0.3, 0.6))) * race[2], wrinkles=age,
        blush=float(rng.uniform(0.2, 1.0)), make_up=float(rng.uniform(0.2, 1.0)) if is_woman else 0.0,
        hair_length=float(rng.uniform(0, 1)), hair_volume=float(rng.uniform(0.5, 1.5)),
        brow_thickness=float(rng.uniform(0.55, 1.0) if is_woman else rng.uniform(0.8, 1.5)),
        brow_height=float(rng.normal(0, 1)), beard=beard, collar=str(rng.choice(COLLARS)), cloth=cloth,
        cloth_second=cloth_second, cloth_pattern=int(rng.integers(0, 5)), personality=_personality(rng),
    )  # fmt: skip


def neutral_vertices(person: Person, body: Body) -> Float[np.ndarray, "V 3"]:
    """The person's mesh with a calm face, in the body's frame."""
    gender = (1 - person.female, person.female)
    age = (1 - person.age, person.age)
    mix = np.einsum("g,a,m,w->gamw", gender, age, _levels(person.muscle), _levels(person.weight))
    macro = np.tensordot(mix.astype(np.float32), body.macro, 4)
    race = np.tensordot(np.einsum("r,g,a->rga", person.race, gender, age).astype(np.float32), body.race, 3)
    amounts = np.array(person.changes)
    both = np.stack([np.clip(-amounts, 0, 1), np.clip(amounts, 0, 1)], -1)
    local = np.tensordot(both.astype(np.float32), body.changes, 2)
    return (body.template + macro + race + local).astype(np.float32)


def make_lighting(seed: int) -> Lighting:
    """Light of one video: a key light from the front or side, ambient light, and fill from the other side."""
    rng = np.random.default_rng([seed, 2])
    azimuth, height = rng.uniform(-1.0, 1.0), rng.uniform(0.15, 0.8)
    direction = np.array([np.sin(azimuth), -np.cos(azimuth), height])
    warmth = rng.normal(0, 0.07)
    key = rng.uniform(0.7, 1.05) * np.array([1 + warmth, 1.0, 1 - warmth])
    ambient = rng.uniform(0.28, 0.5) * np.array([1 - warmth, 1.0, 1 + warmth])
    fill = rng.uniform(0.0, 0.35) * (1 + rng.normal(0, 0.08, 3))
    direction /= np.linalg.norm(direction)
    return Lighting(*(tuple(v.tolist()) for v in (direction, key, ambient, fill)))


def muted(rng: np.random.Generator, saturation: float) -> Colour:
    """A colour of any hue and lightness; seldom a garish one."""
    light = rng.uniform(0.04, 0.95)
    tone = rng.normal(0, saturation, 3) * (0.15 + light * (1 - light) * 2.0)
    return tuple(float(c) for c in np.clip(light + tone - tone.mean(), 0.02, 0.97))  # type: ignore[return-value]


def _levels(value: float) -> tuple[float, float, float]:
    """Weights of minimum, average and maximum."""
    return max(0.0, 1 - 2 * value), 1 - abs(2 * value - 1), max(0.0, 2 * value - 1)


def _changes(rng: np.random.Generator, body: Body) -> tuple[float, ...]:
    amounts = dict[str, float]()
    for name in body.change_names.tolist():
        sides = name[2:] if name[:2] in ("l-", "r-") else name
        spread = {"ear": 0.25, "eye": 0.24, "neck": 0.25, "mouth": 0.27}.get(sides.split("-")[0], 0.34)
        if "trans" in name or "epicanthus" in name or "angle" in name:
            spread *= 0.6
        if sides in ("nose-trans-out", "mouth-trans-out", "head-trans-out", "neck-trans-out", "head-trans-forward"):
            spread = 0.03
        amounts.setdefault(sides, float(np.clip(rng.normal(0, spread), -0.95, 0.95)))
        amounts[name] = amounts[sides] + float(rng.normal(0, 0.04))
    return tuple(amounts[name] for name in body.change_names.tolist())


def _skin(rng: np.random.Generator, race: np.ndarray, woman: bool) -> tuple[Colour, Colour]:
    ramps = np.array(  # light and dark end of african, asian, caucasian
        [[[0.60, 0.42, 0.33], [0.27, 0.17, 0.13]], [[0.91, 0.75, 0.62], [0.66, 0.47, 0.34]],
         [[0.95, 0.79, 0.71], [0.77, 0.56, 0.44]]]
    )  # fmt: skip
    depth = rng.beta(1.2, 1.4)
    skin = np.einsum("r,rc->c", race, ramps[:, 0] * (1 - depth) + ramps[:, 1] * depth)
    skin = np.clip(skin * (1 + rng.normal(0, 0.03, 3)), 0, 1)
    natural = skin * np.array([0.92, 0.66, 0.66])
    painted = np.array([rng.uniform(0.55, 0.85), rng.uniform(0.08, 0.3), rng.uniform(0.15, 0.38)])
    share = rng.uniform(0, 0.75) if woman and rng.uniform() < 0.6 else 0.0
    lips = natural * (1 - share) + painted * share
    return tuple(map(float, skin)), tuple(map(float, lips))  # type: ignore[return-value]


def _iris(rng: np.random.Generator, race: np.ndarray) -> Colour:
    brown, hazel = np.array([0.26, 0.14, 0.07]), np.array([0.38, 0.28, 0.13])
    light = [np.array(c) for c in ([0.33, 0.47, 0.60], [0.36, 0.46, 0.33], [0.45, 0.50, 0.52], [0.22, 0.38, 0.58])]
    options = [brown, brown * 0.6, hazel, *light]
    pale = race[2] ** 2 * 0.17
    chances = np.array([0.45, 0.35 - 0.15 * race[2], 0.1, pale, pale, pale, pale])
    colour = options[rng.choice(len(options), p=chances / chances.sum())] * rng.uniform(0.8, 1.2)
    return tuple(map(float, np.clip(colour, 0, 1)))  # type: ignore[return-value]


def _hair_colour(rng: np.random.Generator, race: np.ndarray, age: float) -> Colour:
    shades = np.array([[0.06, 0.05, 0.05], [0.16, 0.10, 0.07], [0.30, 0.19, 0.12], [0.46, 0.22, 0.10],
                       [0.70, 0.53, 0.31], [0.84, 0.70, 0.47]])  # fmt: skip
    pale = race[2]
    chances = np.array([0.5 - 0.38 * pale, 0.3, 0.05 + 0.2 * pale, 0.14 * pale, 0.16 * pale, 0.12 * pale])
    colour = shades[rng.choice(len(shades), p=chances / chances.sum())] * rng.uniform(0.8, 1.25)
    if rng.uniform() < 0.05:
        colour = np.array(muted(rng, 0.25))  # dyed
    grey = np.clip((age - 0.45) / 0.4 + rng.normal(0, 0.2), 0, 1) if age > 0.4 else 0.0
    colour = colour * (1 - grey) + np.array([0.70, 0.69, 0.67]) * rng.uniform(0.7, 1.15) * grey
    return tuple(map(float, np.clip(colour, 0, 1)))  # type: ignore[return-value]


def _hair_style(rng: np.random.Generator, woman: bool, age: float) -> str:
    if woman:
        weights = [0.01, 0.02, 0.1, 0.09, 0.12, 0.0, 0.08, 0.19, 0.22, 0.1, 0.13]
    else:
        weights = [0.08 + 0.14 * age, 0.16, 0.26, 0.18, 0.1, 0.03 + 0.22 * age, 0.05, 0.02, 0.04, 0.03, 0.06]
    return str(rng.choice(HAIR_STYLES, p=np.array(weights) / sum(weights)))


def _personality(rng: np.random.Generator) -> Personality:
    habits: list[dict[str, float]] = [
        {}, {"mouthSmileLeft": 0.4, "mouthSmileRight": 0.4, "cheekSquintLeft": 0.2, "cheekSquintRight": 0.2},
        {"browDownLeft": 0.5, "browDownRight": 0.5}, {"browInnerUp": 0.6},
        {"mouthFrownLeft": 0.4, "mouthFrownRight": 0.4},
        {"browOuterUpLeft": 0.5, "browInnerUp": 0.3}, {"eyeSquintLeft": 0.5, "eyeSquintRight": 0.5},
        {"eyeWideLeft": 0.5, "eyeWideRight": 0.5, "browInnerUp": 0.3},
        {"mouthSmileRight": 0.45, "mouthDimpleRight": 0.4},
        {"mouthPressLeft": 0.4, "mouthPressRight": 0.4},
    ]  # fmt: skip
    return Personality(
        tempo=float(rng.uniform(0.6, 1.5)), amplitude=float(rng.uniform(0.6, 1.25)),
        speech=float(rng.uniform(0.6, 1.3)), blink_rate=float(rng.uniform(0.25, 0.7)),
        gaze=float(rng.uniform(0.4, 1.2)), habit=habits[rng.integers(len(habits))],
        rest_pose=(float(rng.normal(0, 6)), float(rng.normal(0, 3)), float(rng.normal(0, 2.5))),
    )  # fmt: skip
