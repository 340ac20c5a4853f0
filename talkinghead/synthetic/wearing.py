"""Glasses, hats, scarves, earrings and knots of hair, built around one person's own face and skull."""

from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Float

from talkinghead.synthetic.body import BODY, Body
from talkinghead.synthetic.extras import Extras, Glasses
from talkinghead.synthetic.hair import HairMesh, make_hair, skull_points
from talkinghead.synthetic.landmarks import landmark_points
from talkinghead.synthetic.paint import linear
from talkinghead.synthetic.person import Colour, Person
from talkinghead.synthetic.raster import CLOTH, GLOSSY
from talkinghead.synthetic.solids import Solid, ellipsoid, solid, together, tube

Points = Float[np.ndarray, "_ 3"]
COLUMNS, STRANDS = 48, 24  # around a hat; around a lock of hair
# Elevation of a hat's lower edge in degrees, seen from the head's middle, for azimuths from the face (0) to the nape.
EDGES = {
    "beanie": ((0, 60, 90, 130, 180), (29, 24, 17, 0, -16)), "cap": ((0, 60, 90, 130, 180), (30, 26, 21, 10, -2)),
    "felt": ((0, 60, 90, 130, 180), (31, 28, 24, 14, 6)), "straw": ((0, 60, 90, 130, 180), (33, 30, 26, 16, 8)),
}  # fmt: skip


def wearing(extras: Extras, person: Person, neutral: Float[np.ndarray, "V 3"], body: Body) -> list[Solid]:
    """All that the person wears, one solid per kind of surface."""
    face = landmark_points(neutral[None], np.zeros(1), body.original_index)[0]
    worn = [*_glasses(extras.glasses, face, neutral, body)] if extras.glasses else []
    worn += _hat(extras, person, neutral, body) if extras.hat in EDGES else []
    worn += _veil(linear(extras.hat_colours[0]), person, neutral, body) if extras.hat == "veil" else []
    worn += _scarf(extras.scarf, person, face, neutral, body) if extras.scarf else []
    worn += _earrings(extras, neutral, body) if extras.earrings and extras.hat != "veil" else []
    return together(worn)


def ears(body: Body) -> np.ndarray:
    """Which vertices of the template stand off as ears."""
    x, y, z = body.template.T
    return (body.follow > 0.99) & (np.abs(x) > 0.0725) & (z > 0.66) & (z < 0.738) & (y > -0.07)


def _skin(body: Body) -> np.ndarray:
    on_skin = np.zeros(len(body.template), bool)
    on_skin[body.faces[body.groups == BODY]] = True
    return on_skin & (body.cavity == 0)


def _glasses(spec: Glasses, face: Points, neutral: np.ndarray, body: Body) -> list[Solid]:
    """Rims before the eyes, as near as skin allows, a bridge on the nose, and temples to the ears."""
    right, left = face[36:42].mean(0), face[42:48].mean(0)
    apart = float(left[0] - right[0])
    skin = neutral[_skin(body) & (body.follow > 0.9) & (neutral[:, 1] < face[27, 1] + 0.06)]
    theta = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    power = 2 / spec.square
    out = np.sign(np.cos(theta)) * np.abs(np.cos(theta)) ** power * spec.width
    up = np.sign(np.sin(theta)) * np.abs(np.sin(theta)) ** power * spec.height + spec.tilt * out
    rims = []
    for centre, side in ((right, -1.0), (left, 1.0)):
        x = centre[0] + side * (out + 0.03) * apart
        z = centre[2] + (up - 0.12 * spec.height) * apart
        rims.append(np.stack([x, 2.0 * (x - face[27, 0]) ** 2, z], -1))
    clear = [_front(skin, rim) - rim[:, 1] for rim in rims]
    plane = min(float(np.concatenate(clear).min()) - 0.003 - spec.thick, float(face[36:48, 1].min()) - 0.009)
    rims = [rim + np.array([0, plane, 0]) for rim in rims]
    colour = linear(spec.colour)
    towards_camera = np.array([0.0, 1.0, 0.0])
    solids = [tube(rim, spec.thick, colour, GLOSSY, closed=True, up=towards_camera, flat=1.2) for rim in rims]
    inner = [rim[np.abs(theta - 2.6).argmin()] for rim in rims]
    middle = (inner[0] + inner[1]) / 2 + np.array([0, -0.0015, 0.003])
    nose = float(_front(skin, middle[None])[0])
    middle[1] = min(middle[1], nose - spec.thick - 0.001)
    arch = _curve(np.stack([inner[0], middle, inner[1]]), 9)
    solids.append(tube(arch, spec.thick, colour, GLOSSY, sides=6))
    for rim, side in zip(rims, (-1.0, 1.0), strict=True):
        solids.append(_temple(rim[np.abs(theta - 0.5).argmin()], side, spec, neutral, body))
        if spec.dark:
            solids.append(_lens(rim, linear((0.09, 0.08, 0.08))))
    return solids


def _lens(rim: Points, colour: np.ndarray) -> Solid:
    """A dark disk, thin and closed."""
    middle = rim.mean(0, keepdims=True)
    bulge = middle + np.array([[0, -0.0015, 0]])
    rows = [
        np.broadcast_to(bulge, rim.shape),
        (rim + bulge) / 2,
        rim,
        np.broadcast_to(middle + np.array([[0, 0.001, 0]]), rim.shape),
    ]
    return solid(np.stack(rows), colour, GLOSSY)


def _temple(hinge: Float[np.ndarray, " 3"], side: float, spec: Glasses, neutral: np.ndarray, body: Body) -> Solid:
    """From the rim along the side of the head over the ear."""
    ear = neutral[ears(body) & (side * body.template[:, 0] > 0)]
    top = float(ear[:, 2].max()) - 0.003
    back = float(ear[:, 1].mean())
    head = neutral[_skin(body) & (body.follow > 0.99) & ~ears(body)]
    path = [hinge]
    for share in (0.12, 0.3, 0.5, 0.7, 0.9, 1.0):
        y, z = hinge[1] + (back - hinge[1]) * share, hinge[2] + (top - hinge[2]) * share
        near = head[(np.abs(head[:, 1] - y) < 0.012) & (np.abs(head[:, 2] - z) < 0.014) & (side * head[:, 0] > 0)]
        wide = float((side * near[:, 0]).max()) if len(near) else 0.0
        straight = side * hinge[0] + 0.004 * min(1.0, share * 4)
        path.append(np.array([side * max(wide + 0.003, straight if share < 0.6 else 0.0), y, z]))
    path.append(path[-1] + np.array([-side * 0.002, 0.016, -0.020]))
    return tube(_curve(np.stack(path), 18), spec.thick * 1.1, linear(spec.colour), GLOSSY, sides=6)


def _front(skin: Points, at: Points) -> Float[np.ndarray, " _"]:
    """The foremost skin (least y) near places seen from the front."""
    gap = np.linalg.norm(skin[None, :, [0, 2]] - at[:, None, [0, 2]], axis=-1)
    return np.where(gap < np.maximum(0.006, gap.min(1, keepdims=True) + 0.002), skin[None, :, 1], np.inf).min(1)


def _curve(points: Points, count: int) -> Points:
    """A smooth path through points: quadratic pieces by repeated cutting of corners, then even steps."""
    for _ in range(2):
        cut = np.concatenate([0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]], 1)
        points = np.concatenate([points[:1], cut.reshape(-1, 3), points[-1:]])
    length = np.concatenate([[0], np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()])
    at = np.linspace(0, length[-1], count)
    return np.stack([np.interp(at, length, points[:, k]) for k in range(3)], -1)


def hat_edge(hat: str, azimuth: Float[np.ndarray, "*N"]) -> Float[np.ndarray, "*N"]:
    """Elevation of the hat's lower edge, degrees."""
    return np.interp(np.abs(azimuth), *EDGES[hat])


def _hat(extras: Extras, person: Person, neutral: np.ndarray, body: Body) -> list[Solid]:
    azimuth = np.linspace(-180, 180, COLUMNS, endpoint=False)
    edge = hat_edge(extras.hat, azimuth)
    rng = np.random.default_rng([person.seed, 12])
    first, second = (linear(colour) for colour in extras.hat_colours)
    if extras.hat in ("beanie", "cap"):
        fall = np.linspace(0, 1, 16)[:, None] ** 0.9
        elevation = 90 - (90 - edge)[None] * fall
        skull, outward = skull_points(elevation, np.broadcast_to(azimuth, elevation.shape), neutral, body)
        slouch = rng.uniform(0.004, 0.028) if extras.hat == "beanie" else 0.010
        grid = skull + outward * (0.009 + slouch * (1 - fall))[..., None]
        if extras.hat == "beanie":
            return [_beanie(grid, outward, first, second, rng)]
        return [_brimmed(grid, azimuth, _visor(azimuth, rng), 0.25, first, second, band=0)]
    skull, outward = skull_points(edge, azimuth, neutral, body)
    ring = skull + outward * 0.010
    middle, tall = ring.mean(0), rng.uniform(0.105, 0.135)
    rows = []
    for share, wide in ((1.0, 0.0), (1.02, 0.35), (1.0, 0.62), (0.93, 0.78), (0.7, 0.87), (0.4, 0.94), (0.15, 1.0)):
        row = middle + (ring - middle) * [wide, wide, 1 - share] + [0, 0.006 * share, tall * share]
        row[:, 2] -= 0.018 * (share > 0.99) * np.exp(-((row[:, 0] / 0.03) ** 2))  # the crease of the crown
        rows.append(row)
    brim = np.full(COLUMNS, rng.uniform(0.045, 0.085)) * (1 + 0.1 * np.cos(np.deg2rad(azimuth * 2)))
    colour = np.array([0.62, 0.46, 0.25]) * rng.uniform(0.8, 1.2) if extras.hat == "straw" else first
    return [_brimmed(np.stack([*rows, ring]), azimuth, brim, 0.12, colour, second, band=2)]


def _beanie(grid: np.ndarray, outward: np.ndarray, first: np.ndarray, second: np.ndarray, rng) -> Solid:
    """A knitted dome with a turned-up edge."""
    ribs = 1 + 0.10 * np.cos(np.arange(COLUMNS) * 2 * np.pi / 3)[None, :, None]
    last, out = grid[-1], outward[-1]
    fold = float(rng.uniform(0.020, 0.038))
    up = (grid[-4] - last) / np.linalg.norm(grid[-4] - last, axis=1, keepdims=True)
    turned = [last + up * fold + out * 0.005, last + up * fold * 0.9 + out * 0.009, last + out * 0.009 + up * 0.004,
              last + out * 0.004, last - out * 0.006]  # fmt: skip
    kept = grid[:-2]
    colours = np.concatenate([np.broadcast_to(first, kept.shape), np.broadcast_to(second, (5, COLUMNS, 3))]) * ribs
    return solid(np.concatenate([kept, np.stack(turned)]), np.clip(colours, 0, 1), CLOTH)


def _veil(colour: np.ndarray, person: Person, neutral: np.ndarray, body: Body) -> list[Solid]:
    """Cloth over the head that hangs to the shoulders, shaped as hair is."""
    shape = make_hair(replace(person, hair_style="veil", hair_volume=1.0), neutral, body)
    assert shape is not None
    folds = 1 + 0.09 * np.sin(shape.texcoords[:, 0] * 120) * np.clip(shape.texcoords[:, 1] * 2, 0, 1)
    return [Solid(shape.vertices, shape.faces, (colour * folds[:, None]).astype(np.float32), CLOTH, shape.follow)]


def _visor(azimuth: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, " C"]:
    """How far a cap's brim stands out: only in front."""
    return (
        rng.uniform(0.055, 0.075) * np.clip(np.cos(np.deg2rad(azimuth * 1.35).clip(-np.pi / 2, np.pi / 2)), 0, 1) ** 0.5
    )


def _brimmed(
    grid: np.ndarray, azimuth: np.ndarray, brim: np.ndarray, droop: float, first: np.ndarray, second: np.ndarray,
    band: int,
) -> Solid:  # fmt: skip
    """A crown with a brim, its upper and its lower side; the lowest `band` rows of the crown are the ribbon's."""
    angle, ring = np.deg2rad(azimuth), grid[-1]
    away = np.stack([np.sin(angle), -np.cos(angle), np.full(COLUMNS, -droop)], -1) * brim[:, None]
    sag = np.array([0, 0, -1]) * (brim * 0.10 * np.abs(np.sin(angle)))[:, None]
    thin = np.array([0, 0, -0.0025])
    below = [ring + away * 0.5, ring + away + sag, ring + away + sag + thin, ring + away * 0.5 + thin,
             ring + thin - (ring - ring.mean(0)) * 0.06]  # fmt: skip
    if band:  # rows twice, where the colour changes at once
        grid = np.concatenate([grid[:-band], grid[-band - 1 :], grid[-1:]])
    colours = np.broadcast_to(first, (len(grid) + 5, COLUMNS, 3)).copy()
    if band:
        colours[len(grid) - band - 2 : len(grid) - 1] = second
    else:
        colours[len(grid) :] = second
    return solid(np.concatenate([grid, np.stack(below)]), colours, CLOTH)


def _scarf(
    colours: tuple[Colour, Colour], person: Person, face: Points, neutral: np.ndarray, body: Body
) -> list[Solid]:
    """Two turns of cloth around the neck, below the chin."""
    rng = np.random.default_rng([person.seed, 13])
    count, solids = 44, []
    angle = np.linspace(-np.pi, np.pi, count, endpoint=False)
    chin = float(face[8, 2])
    near = np.linalg.norm(body.template - body.neck, axis=1) < 0.08
    axis = -0.02 + float((neutral - body.template)[near, 1].mean())
    skin = neutral[_skin(body)] - np.array([0, axis, 0], np.float32)
    for turn in range(2):
        height = chin - 0.047 + 0.020 * turn + 0.016 * (1 - np.cos(angle)) - 0.008 * turn * np.cos(angle + 0.7)
        radius = np.array([_neck_radius(skin, a, z) for a, z in zip(angle, height, strict=True)])
        radius = np.convolve(np.tile(radius, 3), np.ones(7) / 7, "same")[count : 2 * count] + 0.015 - 0.004 * turn
        path = np.stack([radius * np.sin(angle), axis - radius * np.cos(angle), height], -1)
        path[:, 2] += 0.004 * np.sin(angle * 2 + rng.uniform(0, 6))
        ring = tube(path, 0.023, linear(colours[0]), CLOTH, sides=18, closed=True, flat=0.6)
        folds = _folds(count, 18, rng)
        centre = np.repeat(path, 18, 0)
        ring = replace(ring, vertices=(centre + (ring.vertices - centre) * (1 + folds)[:, None]).astype(np.float32))
        stripes = (np.arange(len(ring.vertices)) // 18 % 6 < 2) & (rng.uniform() < 0.5)
        painted = (
            np.where(stripes[:, None], linear(colours[1]), ring.colours) * np.clip(1 + 1.2 * folds, 0.4, 1.4)[:, None]
        )
        solids.append(
            replace(ring, colours=np.clip(painted, 0, 1), follow=np.full(len(ring.vertices), 0.22, np.float32))
        )
    return solids


def _folds(along: int, across: int, rng: np.random.Generator) -> Float[np.ndarray, " _"]:
    """Creases that run along a ring of cloth, as shares of its thickness, one per vertex."""
    noise = np.tile(rng.normal(0, 1, (along, across)), (3, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), sigmaX=0.9, sigmaY=4.0)[along : 2 * along, across : 2 * across]
    return (0.17 * smooth / smooth.std()).clip(-0.4, 0.4).reshape(-1)


def _neck_radius(skin: Points, angle: float, height: float) -> float:
    """How far skin reaches from the neck's axis in a direction, near a height."""
    around = np.arctan2(skin[:, 0], -skin[:, 1])
    apart = np.abs((around - angle + np.pi) % (2 * np.pi) - np.pi)
    reach = np.hypot(skin[:, 0], skin[:, 1])
    near = (apart < 0.4) & (np.abs(skin[:, 2] - height) < 0.016) & (reach < 0.085)
    return float(reach[near].max()) if near.any() else 0.06


def _earrings(extras: Extras, neutral: np.ndarray, body: Body) -> list[Solid]:
    """At the lobes: studs, hoops or drops."""
    metal, solids = linear(extras.metal), []
    for side in (-1.0, 1.0):
        ear = np.flatnonzero(ears(body) & (side * body.template[:, 0] > 0))
        lowest = ear[np.argsort(body.template[ear, 2])[:10]]
        lobe = neutral[lowest].mean(0) + np.array([side * 0.002, -0.001, 0.002])
        size = 0.6 + 0.8 * (extras.metal[0] * 7 % 1)
        if extras.earrings == "stud":
            solids.append(ellipsoid(lobe, np.full(3, 0.0034) * size, metal, GLOSSY))
        elif extras.earrings == "hoop":
            turn, radius = np.linspace(0, 2 * np.pi, 24, endpoint=False), 0.013 * size
            path = lobe + np.stack([0 * turn + side * 0.002, radius * np.sin(turn), radius * (np.cos(turn) - 1)], -1)
            solids.append(tube(path, 0.0011, metal, GLOSSY, sides=6, closed=True, up=np.array([1.0, 0, 0])))
        else:
            end = lobe + np.array([side * 0.002, 0, -0.022 * size])
            wire, back = np.stack([lobe, (lobe + end) / 2, end]), np.array([0, 1.0, 0])
            solids.append(tube(wire, 0.0007, metal, GLOSSY, sides=5, up=back))
            solids.append(ellipsoid(end, np.array([0.004, 0.004, 0.007]) * size, metal, GLOSSY))
    return solids


def add_updo(hair: HairMesh, updo: str, person: Person, neutral: np.ndarray, body: Body) -> HairMesh:
    """Hair with a bun at the back, a knot on the crown, a tail or two bunches."""
    places = {
        "bun": [(28.0, 180.0)],
        "knot": [(80.0, 180.0)],
        "tail": [(38.0, 180.0)],
        "bunches": [(12.0, 118.0), (12.0, -118.0)],
    }
    elevation, azimuth = np.array(places[updo]).T
    skull, outward = skull_points(elevation, azimuth, neutral, body)
    radius = {"bun": 0.040, "knot": 0.033, "tail": 0.022, "bunches": 0.021}[updo] * (0.8 + 0.25 * person.hair_volume)
    hanging = updo in ("tail", "bunches")
    meshes = [hair]
    for point, out in zip(skull, outward, strict=True):
        if hanging:
            lock = _hanging_lock(point, out, radius, 0.10 + 0.14 * person.hair_length)
        else:
            middle, radii = point + out * (radius * 0.75 + 0.004), np.array([1.0, 0.9, 0.85]) * radius
            lock = ellipsoid(middle, radii, np.zeros(3), CLOTH, 12, STRANDS)
        meshes.append(_as_hair(lock, tapered=hanging))
    return _joined(meshes)


def _hanging_lock(point: np.ndarray, out: np.ndarray, radius: float, length: float) -> Solid:
    """A tail that leaves the head at a point, and falls."""
    start = point + out * 0.008
    down = np.array([[0, 0, 0], [0, 0, 0], [0, 0, -0.04], [0, 0, -length]])
    path = _curve(start + out * np.array([[0.0], [0.035], [0.05], [0.04]]) + down, 12)
    width = radius * np.interp(np.linspace(0, 1, 12), [0, 0.25, 0.7, 1], [0.55, 1.0, 0.7, 0.12])
    up = np.array([0.0, 1.0, 0.0]) if abs(out[0]) > abs(out[1]) else np.array([1.0, 0.0, 0.0])
    return tube(path, width, np.zeros(3), CLOTH, sides=STRANDS, up=up)


def _as_hair(lock: Solid, tapered: bool) -> HairMesh:
    """A solid of strands that run along its rows; the ends of a tapered one thin out."""
    count = len(lock.vertices)
    rows = np.arange(count) // STRANDS
    texcoords = np.stack([(np.arange(count) % STRANDS) / STRANDS, rows / rows.max()], -1).astype(np.float32)
    ones = np.ones(count, np.float32)
    coverage = np.clip((1 - texcoords[:, 1]) * 3, 0.3, 1) if tapered else ones
    below = np.clip((0.70 - lock.vertices[:, 2]) / 0.2, 0, 1).astype(np.float32)
    return HairMesh(lock.vertices, lock.faces, texcoords, coverage, ones * 0.95, (1 - 0.5 * below).astype(np.float32))


def _joined(meshes: list[HairMesh]) -> HairMesh:
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])[:-1]
    faces = np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]).astype(np.int32)
    parts = {name: np.concatenate([getattr(mesh, name) for mesh in meshes])
             for name in ("vertices", "texcoords", "coverage", "occlusion", "follow")}  # fmt: skip
    return HairMesh(faces=faces, **parts)
