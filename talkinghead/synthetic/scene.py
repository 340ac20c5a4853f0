"""A person in front of a camera: what to draw, and where every vertex and landmark is in each frame."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, UInt8

from talkinghead.synthetic.body import BODY, LEFT_EYE, LOWER_TEETH, RIGHT_EYE, TONGUE, UPPER_TEETH, Body
from talkinghead.synthetic.extras import Extras, add_relief
from talkinghead.synthetic.hair import HairMesh, make_hair
from talkinghead.synthetic.landmarks import landmark_points
from talkinghead.synthetic.motion import Motion
from talkinghead.synthetic.paint import (
    AXIS_Y,
    beard_mask,
    linear,
    neckline,
    paint_background,
    paint_hair,
    paint_room,
    paint_skin,
    texture_coordinates,
)
from talkinghead.synthetic.person import Person, make_lighting, neutral_vertices
from talkinghead.synthetic.raster import EYE, HAIR, SKIN, TEETH
from talkinghead.synthetic.raster import TONGUE as TONGUE_KIND
from talkinghead.synthetic.renderer import Camera, Colours, Renderer, Surface, ambient_light
from talkinghead.synthetic.wearing import add_updo, hat_edge, wearing

# The crop's side over the mean of the landmarks' longer extent, and how far down the frame their middle lies.
CROP_RATIO, CROP_MIDDLE = 1.92, 0.56
WORN_LIGHT = np.float32(0.9)  # ambient light that reaches hats, glasses, scarves
MOUTH = np.array([0.0, -0.155, 0.662], np.float32)  # in the template
INSIDE_DIM = {UPPER_TEETH: 0.65, LOWER_TEETH: 0.5, TONGUE: 0.45}  # ambient light of looks 1 and 2
INSIDE_LIT = {UPPER_TEETH: 1.0, LOWER_TEETH: 0.8, TONGUE: 0.45}  # of looks 3
KINDS = np.array([SKIN, EYE, EYE, TEETH, TEETH, TONGUE_KIND])  # of the faces of body.GROUPS


@dataclass(frozen=True)
class Head:
    """One person ready to move: neutral vertices (body, then hair), the facial actions' offsets, and what to paint.

    Attributes:
        follow: share of the head's rotation per vertex
        pivot: the joint that the head turns about
    """

    person: Person
    body: Body
    neutral: Float[np.ndarray, "V 3"]
    actions: Float[np.ndarray, "A B 3"]
    follow: Float[np.ndarray, " V"]
    pivot: Float[np.ndarray, " 3"]
    surface: Surface


def make_head(
    person: Person, body: Body, texture_size: int, extras: Extras | None = None, speaking: bool = False
) -> Head:
    """Build geometry and paint of one person.

    Args:
        extras: what the person wears, and more of the skin
        speaking: the upper teeth show below the lip, in light, as in people who speak
    """
    neutral = neutral_vertices(person, body)
    actions = fit_actions(body, neutral)
    hair, worn = _hair(person, neutral, body, extras), wearing(extras, person, neutral, body) if extras else []
    dressed = _dress(person, body, neutral, speaking)
    vertices, faces, kinds = dressed, body.faces, KINDS[body.groups]
    local = _eye_frames(body, neutral)
    texcoords, coverage, follow = texture_coordinates(body.template), np.ones(len(dressed), np.float32), body.follow
    if hair is not None:
        vertices = np.concatenate([vertices, hair.vertices])
        faces = np.concatenate([faces, hair.faces + len(dressed)])
        kinds = np.concatenate([kinds, np.full(len(hair.faces), HAIR)])
        local = np.concatenate([local, np.zeros_like(hair.vertices)])
        texcoords = np.concatenate([texcoords, hair.texcoords])
        coverage, follow = np.concatenate([coverage, hair.coverage]), np.concatenate([follow, hair.follow])
    for one in worn:
        kinds, faces = (
            np.concatenate([kinds, np.full(len(one.faces), one.kind)]),
            np.concatenate([faces, one.faces + len(vertices)]),
        )
        vertices, local = np.concatenate([vertices, one.vertices]), np.concatenate([local, one.colours])
        follow = np.concatenate([follow, one.follow])
    rest = len(vertices) - len(texcoords)
    texcoords, coverage = np.pad(texcoords, ((0, rest), (0, 0))), np.pad(coverage, (0, rest), constant_values=1)
    occlusion = _occlusion(body, vertices, faces, INSIDE_LIT if speaking else INSIDE_DIM)
    if hair is not None:
        occlusion = np.concatenate([occlusion, hair.occlusion])
    occlusion = np.pad(occlusion, (0, rest), constant_values=WORN_LIGHT)
    surface = Surface(
        faces.astype(np.int32), kinds.astype(np.int32), texcoords, local, occlusion, coverage,
        *_textures(person, texture_size, extras),
    )  # fmt: skip
    near = np.linalg.norm(body.template - body.neck, axis=1) < 0.08
    pivot = body.neck + (neutral - body.template)[near].mean(0)
    return Head(person, body, vertices.astype(np.float32), actions, follow.astype(np.float32), pivot, surface)


def _hair(person: Person, neutral: np.ndarray, body: Body, extras: Extras | None) -> HairMesh | None:
    """Hair, under a hat or bound up where there are extras; none under a veil."""
    if extras is None:
        return make_hair(person, neutral, body)
    if extras.hat == "veil":
        return None
    hair = make_hair(person, neutral, body, partial(hat_edge, extras.hat) if extras.hat else None)
    return add_updo(hair, extras.updo, person, neutral, body) if hair and extras.updo else hair


def _textures(person: Person, size: int, extras: Extras | None) -> tuple[np.ndarray, np.ndarray]:
    """Skin and hair, with relief where there are extras."""
    skin, hair = paint_skin(person, size, extras), paint_hair(person, max(64, size // 2))
    if extras is None:
        return skin, hair
    rng = np.random.default_rng([person.seed, 14])
    if not extras.relief:
        return skin, hair
    return add_relief(skin, extras.relief, rng), add_relief(hair, 1.5 * extras.relief, rng)


def fit_actions(body: Body, neutral: Float[np.ndarray, "B 3"]) -> Float[np.ndarray, "A B 3"]:
    """The actions' offsets for this face: scaled to its size, and blinks that just close its eyes."""
    skull = body.follow > 0.99
    actions = body.actions * (np.ptp(neutral[skull], axis=0) / np.ptp(body.template[skull], axis=0))
    names = body.action_names.tolist()
    for side, (upper, lower) in {"Right": ([37, 38], [41, 40]), "Left": ([43, 44], [47, 46])}.items():
        blink = names.index(f"eyeBlink{side}")
        points = landmark_points(np.stack([neutral, neutral + actions[blink]]), np.zeros(2), body.original_index)
        gap = (points[:, upper, 2] - points[:, lower, 2]).mean(1)
        actions[blink] *= np.clip(gap[0] / max(gap[0] - gap[1], 1e-4), 0.8, 1.6)
    return actions.astype(np.float32)


def move(head: Head, motion: Motion) -> Float[np.ndarray, "F V 3"]:
    """Vertices of every frame, with the head's pivot a little below the camera's axis."""
    frames, count = len(motion.actions), len(head.body.template)
    offsets = motion.actions @ head.actions.reshape(len(head.actions), -1)
    still = np.broadcast_to(head.neutral - head.pivot, (frames, *head.neutral.shape)).copy()
    still[:, :count] += offsets.reshape(frames, count, 3)
    turned = np.einsum("fij,fvj->fvi", rotations(motion.pose), still)
    torso = np.einsum("fij,fvj->fvi", rotations(motion.pose * np.array([0.25, 0.05, 0.1], np.float32)), still)
    share = head.follow[None, :, None]
    moved = torso * (1 - share) + turned * share
    return (moved + motion.sway[:, None] - np.array([0, 0, 0.10], np.float32)).astype(np.float32)


def rotations(pose: Float[np.ndarray, "F 3"]) -> Float[np.ndarray, "F 3 3"]:
    """Rotation matrices of yaw, pitch and roll in degrees (signs as in `Motion`)."""
    yaw, pitch, roll = np.deg2rad(pose.astype(np.float64)).T
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    about_z = np.stack([np.cos(yaw), -np.sin(yaw), zero, np.sin(yaw), np.cos(yaw), zero, zero, zero, one], -1)
    about_x = np.stack([one, zero, zero, zero, np.cos(pitch), np.sin(pitch), zero, -np.sin(pitch), np.cos(pitch)], -1)
    about_y = np.stack([np.cos(roll), zero, np.sin(roll), zero, one, zero, -np.sin(roll), zero, np.cos(roll)], -1)
    z, x, y = (m.reshape(-1, 3, 3) for m in (about_z, about_x, about_y))
    return (y @ z @ x).astype(np.float32)


@dataclass(frozen=True)
class Picture:
    """Frames of a clip with exact landmarks, and the crop in tangents (centre x, centre z, half side)."""

    frames: UInt8[np.ndarray, "F S S 3"]
    landmarks: Float[np.ndarray, "F 68 2"]
    camera: Camera


def film(
    head: Head, motion: Motion, renderer: Renderer, room: int, ratio: float = CROP_RATIO, camera: Camera | None = None,
    in_focus: bool = False,
) -> Picture:  # fmt: skip
    """Draw a clip. `room` seeds light, background and camera; the crop is fixed for the clip.

    Args:
        ratio: how wide the crop is
        camera: of another picture, in place of one that frames this head
        in_focus: a sharp room behind the head, not a blurred one
    """
    vertices = move(head, motion)
    points = landmark_points(vertices, motion.pose[:, 0], head.body.original_index)
    rng = np.random.default_rng([room, 9])
    camera = camera or frame_face(points, float(rng.uniform(0.8, 1.6)), rng, ratio)
    background = paint_room(room, renderer.size) if in_focus else paint_background(room, 128)
    frames = renderer(vertices, head.surface, camera, make_lighting(room), background, _colours(head.person))
    return Picture(frames, camera.project(points, renderer.size).astype(np.float32), camera)


def frame_face(
    points: Float[np.ndarray, "F 68 3"], distance: float, rng: np.random.Generator, ratio: float = CROP_RATIO
) -> Camera:
    """The fixed square crop around the landmarks of all frames."""
    tangents = points[..., [0, 2]] / (points[..., 1:2] + distance)
    low, high = tangents.min(1), tangents.max(1)
    half = float((high - low).max(1).mean()) * ratio / 2 * float(rng.uniform(0.94, 1.08))
    x, z = ((low + high) / 2).mean(0) + rng.normal(0, 0.04, 2) * half
    return Camera(distance, (float(x), float(z + (CROP_MIDDLE - 0.5) * 2 * half)), half)


def _dress(person: Person, body: Body, neutral: np.ndarray, speaking: bool) -> np.ndarray:
    """Push clothes and beard off the skin, and put the teeth in their place."""
    azimuth = np.rad2deg(np.arctan2(body.template[:, 0], -(body.template[:, 1] - AXIS_Y)))
    height = body.template[:, 2]
    normals = vertex_normals(neutral, body.faces)
    cloth = np.clip((neckline(person.collar, azimuth) - height) / 0.006, 0, 1) * 0.006
    length = {"full": 0.008, "goatee": 0.006, "moustache": 0.003}.get(person.beard, 0.0)
    beard = (
        beard_mask(person.beard, azimuth, height)
        * length
        * (body.follow > 0.5)
        * (1 - body.cavity)
        * (np.abs(azimuth) < 68)
    )
    lips = (np.abs(azimuth) < 14) & (height > 0.648) & (height < 0.676)
    skin = body.groups == BODY
    on_skin = np.zeros(len(neutral), bool)
    on_skin[body.faces[skin]] = True
    push = np.where(on_skin, np.maximum(cloth, np.where(lips, 0, beard)), 0)
    dressed = neutral + normals * push[:, None].astype(np.float32)
    for group in (UPPER_TEETH, LOWER_TEETH):  # they do not know the shape of these lips: keep them well inside
        teeth = body.vertices_of(group)
        dressed[teeth] = dressed[teeth].mean(0) + (dressed[teeth] - dressed[teeth].mean(0)) * np.float32(0.9)
        dressed[teeth, 1] += 0.003
    if speaking:  # as in people who speak: the upper teeth end below the lip that anny draws over them
        moves = {UPPER_TEETH: (-0.002, 0.0055), LOWER_TEETH: (0.0, 0.003), TONGUE: (0.006, 0.006)}  # back, down; metres
        for group, (back, down) in moves.items():
            part = body.vertices_of(group)
            dressed[part, 1:] += np.array([back, -down], np.float32)
    return dressed


def vertex_normals(vertices: Float[np.ndarray, "V 3"], faces: np.ndarray) -> Float[np.ndarray, "V 3"]:
    """Unit normals of the vertices: means of the adjacent faces' normals, weighted by area."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, faces[:, k], face)
    return normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)


def _eye_frames(body: Body, neutral: np.ndarray) -> np.ndarray:
    """Vertices of each eyeball relative to its centre: the direction that carries iris and pupil."""
    local = neutral.copy()
    for group in (LEFT_EYE, RIGHT_EYE):
        eye = body.vertices_of(group)
        rest = body.template[eye]
        centre = (rest.min(0) + rest.max(0)) / 2
        centre[1] = rest[:, 1].max() - np.ptp(rest[:, 0]) / 2
        local[eye] = rest - centre
    return local


def _occlusion(body: Body, vertices: np.ndarray, faces: np.ndarray, inside: Mapping[int, float]) -> np.ndarray:
    """Ambient light at the body's vertices with hair and clothes on; little of it enters the mouth and the sockets.

    Args:
        inside: of teeth and tongue
    """
    count = len(body.template)
    light = 0.45 + 0.55 * ambient_light(vertices, vertex_normals(vertices, faces), faces)[:count]
    around_mouth = np.linalg.norm(body.template - MOUTH, axis=1) < 0.035
    light[around_mouth] = np.maximum(light[around_mouth], 0.6)
    for group in (LEFT_EYE, RIGHT_EYE):
        eye = body.vertices_of(group)
        light[eye] = np.maximum(light[eye], 0.8)
    light = np.minimum(light, 1 - 0.88 * body.cavity)
    for group, amount in inside.items():
        light[body.vertices_of(group)] = amount
    return light.astype(np.float32)


def _colours(person: Person) -> Colours:
    teeth = linear(np.array([0.88, 0.84, 0.76]) - 0.1 * person.age * np.array([0.6, 1.0, 1.5]))
    red, green, blue = (float(c) for c in linear(person.iris))
    gloss = float(0.25 + 0.25 * (1 - np.mean(person.skin)))
    return Colours((red, green, blue), 0.46, tuple(teeth.tolist()), gloss, hair_gloss=0.25)
