"""Warp kernels that colour what is visible: skin, eyes, teeth and hair, under a shadowing key light and the sky."""

# ruff: noqa: UP018  warp needs float(0.0) where a variable changes
# mypy: ignore-errors
# @no_type_check: warp's annotations are for its compiler, not for a type checker

from typing import no_type_check

import warp as wp

from talkinghead.synthetic.raster import (
    CLOTH,
    EYE,
    FACE_MASK,
    GLOSSY,
    HAIR,
    SKIN,
    TEETH,
    TONGUE,
    depth_of,
    edge,
    hash21,
)

wp.set_module_options({"enable_backward": False})


@wp.struct
@no_type_check
class Look:
    """What the shader must know of one person, one light and one camera; colours are linear RGB."""

    distance: float  # of the camera in front of the origin, metres
    light: wp.vec3  # direction towards the key light
    key: wp.vec3
    ambient: wp.vec3
    fill: wp.vec3
    iris: wp.vec3
    iris_size: float  # sine of its angle, seen from the eyeball's centre
    teeth: wp.vec3
    gloss: float
    hair_gloss: float


@wp.struct
@no_type_check
class Geometry:
    """The moving mesh, and what is painted on it (see `renderer.Surface`)."""

    vertices: wp.array2d(dtype=wp.vec3)
    normals: wp.array2d(dtype=wp.vec3)
    screen: wp.array2d(dtype=wp.vec3)
    faces: wp.array(dtype=wp.vec3i)
    kinds: wp.array(dtype=wp.int32)
    texcoords: wp.array(dtype=wp.vec2)
    local: wp.array(dtype=wp.vec3)
    occlusion: wp.array(dtype=float)
    skin: wp.array2d(dtype=wp.vec3)
    hair: wp.array2d(dtype=wp.vec3)


@wp.func
@no_type_check
def smooth(a: float, b: float, x: float):
    """0 below a, 1 above b, smooth between."""
    t = wp.clamp((x - a) / (b - a), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@wp.func
@no_type_check
def mix(a: wp.vec3, b: wp.vec3, t: float):
    """a at 0, b at 1."""
    return a * (1.0 - t) + b * t


@wp.func
@no_type_check
def sample(texture: wp.array2d(dtype=wp.vec3), uv: wp.vec2):
    """Bilinear, wrapped in u and clamped in v."""
    h = texture.shape[0]
    w = texture.shape[1]
    x = (uv[0] - wp.floor(uv[0])) * float(w) - 0.5
    y = wp.clamp(uv[1] * float(h) - 0.5, 0.0, float(h - 1))
    x0 = int(wp.floor(x))
    y0 = int(y)
    fx = x - float(x0)
    fy = y - float(y0)
    xa = (x0 + w) % w
    xb = (x0 + 1) % w
    y1 = wp.min(y0 + 1, h - 1)
    return mix(mix(texture[y0, xa], texture[y0, xb], fx), mix(texture[y1, xa], texture[y1, xb], fx), fy)


@wp.func
@no_type_check
def corners(values: wp.array(dtype=wp.vec2), c: wp.vec3i, w: wp.vec3):
    """Texture coordinates inside a face, across the seam where u wraps."""
    first = values[c[0]]
    second = values[c[1]]
    third = values[c[2]]
    u = w[0] * first[0] + w[1] * (second[0] - wp.round(second[0] - first[0]))
    u += w[2] * (third[0] - wp.round(third[0] - first[0]))
    return wp.vec2(u, w[0] * first[1] + w[1] * second[1] + w[2] * third[1])


@wp.func
@no_type_check
def eye_colour(local: wp.vec3, look: Look):
    """White, iris and pupil around the axis that the eyeball looks along (-y of its own frame)."""
    d = wp.normalize(local)
    r = wp.where(d[1] < 0.0, wp.sqrt(d[0] * d[0] + d[2] * d[2]), 1.0)
    white = mix(wp.vec3(0.86, 0.84, 0.82), wp.vec3(0.62, 0.42, 0.38), smooth(0.55, 1.0, r))
    angle = wp.atan2(d[2], d[0])
    rays = 0.85 + 0.25 * wp.sin(angle * 23.0) * wp.sin(angle * 7.0 + 1.3)
    iris = look.iris * rays * (1.35 - 0.6 * r / look.iris_size)
    iris = mix(iris, look.iris * 0.18, smooth(0.8 * look.iris_size, look.iris_size, r))
    iris = mix(wp.vec3(0.006, 0.006, 0.007), iris, smooth(0.17, 0.21, r))
    colour = mix(iris, white, smooth(look.iris_size * 0.96, look.iris_size * 1.06, r))
    return colour * (1.0 - 0.35 * smooth(0.25, 0.7, d[2]))  # the upper lid's shadow


@wp.func
@no_type_check
def albedo_of(kind: int, uv: wp.vec2, local: wp.vec3, g: Geometry, look: Look):
    """Diffuse colour of a point."""
    if kind == EYE:
        return eye_colour(local, look)
    if kind == TEETH:
        gaps = 0.8 + 0.2 * wp.abs(wp.sin(local[0] * 480.0))
        return look.teeth * (gaps * (1.0 - 0.7 * smooth(0.010, 0.022, wp.abs(local[0]))))
    if kind == TONGUE:
        return wp.vec3(0.42, 0.11, 0.10)
    if kind == HAIR:
        return sample(g.hair, uv)
    if kind == CLOTH or kind == GLOSSY:  # noqa: PLR1714, SIM109
        return local
    return sample(g.skin, uv)


@wp.func
@no_type_check
def diffuse_of(kind: int, cosine: float):
    """Lambert's law, wrapped around the terminator: in skin light bleeds, red most; hair lets some through."""
    wrap = wp.vec3(0.0, 0.0, 0.0)
    if kind == SKIN:
        wrap = wp.vec3(0.30, 0.16, 0.10)
    if kind == HAIR:
        wrap = wp.vec3(0.35, 0.35, 0.35)
    lit = wp.vec3(cosine, cosine, cosine) + wrap
    one = wp.vec3(1.0, 1.0, 1.0)
    return wp.cw_div(wp.vec3(wp.max(lit[0], 0.0), wp.max(lit[1], 0.0), wp.max(lit[2], 0.0)), one + wrap)


@wp.func
@no_type_check
def highlight(kind: int, n: wp.vec3, half: wp.vec3, cosine: float, albedo: wp.vec3, look: Look):
    """Reflection of the key light: a spot on skin and eyes, a band across strands of hair."""
    if kind == HAIR:
        tangent = wp.normalize(wp.vec3(0.0, 0.0, -1.0) + n * n[2])
        across = wp.dot(tangent, half)
        glow = wp.pow(wp.sqrt(wp.max(1.0 - across * across, 0.0)), 40.0) * look.hair_gloss
        return wp.cw_mul(mix(albedo, look.key, 0.25), look.key) * (glow * wp.max(cosine + 0.2, 0.0))
    shine = look.gloss * 0.35
    power = float(18.0)
    if kind == EYE:
        shine = 1.6
        power = 50.0
    if kind == TEETH or kind == TONGUE:  # noqa: PLR1714, SIM109  warp has no `in`
        shine = 0.15
        power = 40.0
    if kind == CLOTH:
        shine = 0.02
    if kind == GLOSSY:
        shine = 0.9
        power = 45.0
    return look.key * (shine * wp.pow(wp.max(wp.dot(n, half), 0.0), power))


@wp.func
@no_type_check
def unshadowed(p: wp.vec3, f: int, x: int, y: int, lit: wp.array3d(dtype=wp.int64), frame: wp.mat44):
    """Share of the key light that reaches a point: four jittered looks at the shadow map."""
    size = lit.shape[1]
    r = wp.transform_point(frame, p)
    lx = (r[0] * 0.5 + 0.5) * float(size) - 0.5
    ly = (r[1] * 0.5 + 0.5) * float(size) - 0.5
    seen = float(0.0)
    for k in range(4):
        sx = int(wp.floor(lx + float(k % 2) + hash21(x, y) - 0.5))
        sy = int(wp.floor(ly + float(k / 2) + hash21(y, x) - 0.5))
        if sx < 0 or sy < 0 or sx >= size or sy >= size or r[2] + 0.009 > depth_of(lit[f, sy, sx]):
            seen += 0.25
    return seen


@wp.kernel
@no_type_check
def shade(
    g: Geometry,
    look: Look,
    background: wp.array2d(dtype=wp.vec3),
    visible: wp.array3d(dtype=wp.int64),
    lit: wp.array3d(dtype=wp.int64),
    frame: wp.mat44,
    out: wp.array3d(dtype=wp.vec3),
):
    """Colour of every pixel, linear RGB."""
    f, y, x = wp.tid()
    t = int(visible[f, y, x] & FACE_MASK) - 1
    if t < 0:
        out[f, y, x] = background[y, x]
        return
    c = g.faces[t]
    kind = g.kinds[t]
    a, b, d = g.screen[f, c[0]], g.screen[f, c[1]], g.screen[f, c[2]]
    area = edge(a, b, d[0], d[1])
    w0 = edge(b, d, float(x), float(y)) / area
    w1 = edge(d, a, float(x), float(y)) / area
    w = wp.cw_mul(wp.vec3(w0, w1, 1.0 - w0 - w1), wp.vec3(a[2], b[2], d[2]))
    w = w / (w[0] + w[1] + w[2])  # weights in space, not on the screen
    p = g.vertices[f, c[0]] * w[0] + g.vertices[f, c[1]] * w[1] + g.vertices[f, c[2]] * w[2]
    n = wp.normalize(g.normals[f, c[0]] * w[0] + g.normals[f, c[1]] * w[1] + g.normals[f, c[2]] * w[2])
    view = wp.normalize(wp.vec3(0.0, -look.distance, 0.0) - p)
    ao = g.occlusion[c[0]] * w[0] + g.occlusion[c[1]] * w[1] + g.occlusion[c[2]] * w[2]
    local = g.local[c[0]] * w[0] + g.local[c[1]] * w[1] + g.local[c[2]] * w[2]
    albedo = albedo_of(kind, corners(g.texcoords, c, w), local, g, look)
    cosine = wp.dot(n, look.light)
    direct = unshadowed(p + n * 0.004, f, x, y, lit, frame)
    side = wp.max(wp.dot(n, wp.vec3(-look.light[0], look.light[1], 0.1)), 0.0)
    light = (look.ambient * (0.6 + 0.4 * n[2]) + look.fill * side) * ao
    light += wp.cw_mul(look.key, diffuse_of(kind, cosine)) * (direct * (0.4 + 0.6 * ao))
    shine = highlight(kind, n, wp.normalize(look.light + view), cosine, albedo, look)
    out[f, y, x] = wp.cw_mul(albedo, light) + shine * (direct * ao)


@wp.kernel
@no_type_check
def resolve(fine: wp.array3d(dtype=wp.vec3), factor: int, out: wp.array4d(dtype=wp.uint8)):
    """Mean of `factor` x `factor` samples, then display gamma, as uint8 RGB."""
    f, y, x = wp.tid()
    total = wp.vec3(0.0, 0.0, 0.0)
    for j in range(factor):
        for i in range(factor):
            c = fine[f, y * factor + j, x * factor + i]
            total += wp.vec3(wp.min(c[0], 1.2), wp.min(c[1], 1.2), wp.min(c[2], 1.2))
    total = total / float(factor * factor)
    for k in range(3):
        out[f, y, x, k] = wp.uint8(wp.clamp(wp.pow(wp.max(total[k], 0.0), 0.4545) * 255.0 + 0.5, 0.0, 255.0))
