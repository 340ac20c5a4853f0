"""Warp kernels that find the visible triangle of every pixel: projection, normals, z-buffer, ambient rays."""

# ruff: noqa: UP018  warp needs float(0.0) where a variable changes
# mypy: ignore-errors
# @no_type_check: warp's annotations are for its compiler, not for a type checker

import os
from typing import no_type_check

import warp as wp

wp.config.quiet = True  # older versions
wp.config.log_level = 40  # errors only: no banner, no word on machines without CUDA
wp.set_module_options({"enable_backward": False})

SKIN, EYE, TEETH, TONGUE, HAIR, CLOTH, GLOSSY = (wp.constant(n) for n in range(7))  # kinds of faces
FACE_BITS = wp.constant(wp.int64(24))
FACE_MASK = wp.constant(wp.int64((1 << 24) - 1))
DEPTH_STEPS = wp.constant(67108864.0)


def start() -> None:
    """Load warp's native library, without its message on standard error that there is no CUDA."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        wp.init()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@wp.kernel
@no_type_check
def project(
    vertices: wp.array2d(dtype=wp.vec3),
    centre: wp.vec2,
    half: float,
    distance: float,
    size: int,
    screen: wp.array2d(dtype=wp.vec3),
):
    """Pixels of a `size` x `size` picture, integers at pixel centres, and the inverse depth. As `Camera.project`."""
    f, v = wp.tid()
    p = vertices[f, v]
    inverse = 1.0 / (p[1] + distance)
    s = float(size)
    x = ((p[0] * inverse - centre[0]) / half * 0.5 + 0.5) * s - 0.5
    y = ((centre[1] - p[2] * inverse) / half * 0.5 + 0.5) * s - 0.5
    screen[f, v] = wp.vec3(x, y, inverse)


@wp.kernel
@no_type_check
def project_light(vertices: wp.array2d(dtype=wp.vec3), frame: wp.mat44, size: int, screen: wp.array2d(dtype=wp.vec3)):
    """Pixels of the shadow map and a depth that grows towards the light; `frame` maps space to [-1, 1] and depth."""
    f, v = wp.tid()
    p = wp.transform_point(frame, vertices[f, v])
    s = float(size)
    screen[f, v] = wp.vec3((p[0] * 0.5 + 0.5) * s - 0.5, (p[1] * 0.5 + 0.5) * s - 0.5, p[2])


@wp.kernel
@no_type_check
def face_normals(
    vertices: wp.array2d(dtype=wp.vec3), faces: wp.array(dtype=wp.vec3i), normals: wp.array2d(dtype=wp.vec3)
):
    """Adds each face's area-weighted normal to its corners."""
    f, t = wp.tid()
    c = faces[t]
    a = vertices[f, c[0]]
    n = wp.cross(vertices[f, c[1]] - a, vertices[f, c[2]] - a)
    wp.atomic_add(normals, f, c[0], n)
    wp.atomic_add(normals, f, c[1], n)
    wp.atomic_add(normals, f, c[2], n)


@wp.func
@no_type_check
def edge(a: wp.vec3, b: wp.vec3, x: float, y: float):
    """Twice the signed area of the triangle a, b, (x, y)."""
    return (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])


@wp.func
@no_type_check
def hash21(x: int, y: int):
    """Repeatable noise in [0, 1)."""
    h = wp.uint32(x) * wp.uint32(374761393) + wp.uint32(y) * wp.uint32(668265263)
    h = (h ^ (h >> wp.uint32(13))) * wp.uint32(1274126177)
    return float((h ^ (h >> wp.uint32(16))) & wp.uint32(65535)) / 65536.0


@wp.func
@no_type_check
def depth_of(key: wp.int64):
    """Depth that a z-buffer entry holds."""
    return float(key >> FACE_BITS) / DEPTH_STEPS


@wp.func
@no_type_check
def draw_pixel(
    x: int,
    y: int,
    w: wp.vec3,
    depths: wp.vec3,
    covers: wp.vec3,
    strands: wp.vec3,
    key: wp.int64,
    f: int,
    visible: wp.array3d(dtype=wp.int64),
):
    """Keep the face where it is nearest; where the coverage falls below one, only on some strands."""
    if wp.min(w) >= 0.0:
        cover = wp.dot(w, covers)
        if cover >= 1.0 or hash21(int(wp.dot(w, strands) * 420.0), 7) < cover:
            wp.atomic_max(visible, f, y, x, (wp.int64(wp.dot(w, depths) * DEPTH_STEPS) << FACE_BITS) | key)


@wp.kernel
@no_type_check
def rasterise(
    screen: wp.array2d(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    kinds: wp.array(dtype=wp.int32),
    coverage: wp.array(dtype=float),
    texcoords: wp.array(dtype=wp.vec2),
    size: int,
    sided: float,
    visible: wp.array3d(dtype=wp.int64),
):
    """Keeps the nearest face of every pixel: its depth in the high bits, face + 1 in the low ones.

    Hair and cloth are seen from both sides, all else from the front: its projected area times `sided` is negative.
    """
    f, t = wp.tid()
    c = faces[t]
    a, b, d = screen[f, c[0]], screen[f, c[1]], screen[f, c[2]]
    area = edge(a, b, d[0], d[1])
    if area == 0.0 or (area * sided > 0.0 and kinds[t] != HAIR and kinds[t] != CLOTH):
        return
    last = float(size - 1)
    x0 = int(wp.ceil(wp.max(wp.min(wp.min(a[0], b[0]), d[0]), 0.0)))
    x1 = int(wp.floor(wp.min(wp.max(wp.max(a[0], b[0]), d[0]), last)))
    y0 = int(wp.ceil(wp.max(wp.min(wp.min(a[1], b[1]), d[1]), 0.0)))
    y1 = int(wp.floor(wp.min(wp.max(wp.max(a[1], b[1]), d[1]), last)))
    depths = wp.vec3(a[2], b[2], d[2])
    covers = wp.vec3(coverage[c[0]], coverage[c[1]], coverage[c[2]])
    strands = wp.vec3(texcoords[c[0]][0], texcoords[c[1]][0], texcoords[c[2]][0])
    for y in range(y0, y1 + 1):
        for x in range(x0, x1 + 1):
            w0 = edge(b, d, float(x), float(y)) / area
            w1 = edge(d, a, float(x), float(y)) / area
            w = wp.vec3(w0, w1, 1.0 - w0 - w1)
            draw_pixel(x, y, w, depths, covers, strands, wp.int64(t + 1), f, visible)


@wp.kernel
@no_type_check
def ambient(
    mesh: wp.uint64,
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    rays: int,
    reach: float,
    out: wp.array(dtype=float),
):
    """Share of cosine-distributed rays, `reach` metres long, that leave a vertex without hitting the mesh."""
    v = wp.tid()
    n = normals[v]
    across = wp.normalize(wp.cross(n, wp.where(wp.abs(n[0]) < 0.7, wp.vec3(1.0, 0.0, 0.0), wp.vec3(0.0, 1.0, 0.0))))
    along = wp.cross(n, across)
    start = points[v] + n * 0.0015
    free = float(0.0)
    for k in range(rays):
        share = (float(k) + 0.5) / float(rays)
        angle = (float(k) * 0.618034 + hash21(v, 3)) * 6.2831853
        radius = wp.sqrt(share)
        towards = (across * wp.cos(angle) + along * wp.sin(angle)) * radius + n * wp.sqrt(1.0 - share)
        if not wp.mesh_query_ray_anyhit(mesh, start, towards, reach):
            free += 1.0
    out[v] = free / float(rays)
