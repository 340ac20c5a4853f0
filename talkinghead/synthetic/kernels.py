"""Warp kernels of the renderer: projection, visibility (a z-buffer of triangles), shading, and down-sampling."""

# ruff: noqa: UP018  warp needs float(0.0) where a variable changes

import warp as wp

wp.config.quiet = True

SKIN, EYE, TEETH, TONGUE, HAIR, CLOTH = (wp.constant(n) for n in range(6))


@wp.struct
class Look:
    """What the shader must know of one person, one light and one camera."""

    centre: wp.vec2  # of the crop, tangents of the viewing angle
    half: float  # half the crop's side, same unit
    distance: float  # of the camera in front of the origin, metres
    light: wp.vec3  # direction towards the key light
    key: wp.vec3  # linear RGB
    ambient: wp.vec3
    fill: wp.vec3
    iris: wp.vec3
    iris_size: float
    teeth: wp.vec3
    gloss: float
    hair_gloss: float


@wp.kernel
def project(vertices: wp.array2d(dtype=wp.vec3), look: Look, size: int, screen: wp.array2d(dtype=wp.vec3)):
    """Pixels of a `size` x `size` picture, integers at pixel centres, and the inverse depth."""
    f, v = wp.tid()
    p = vertices[f, v]
    inverse = 1.0 / (p[1] + look.distance)
    s = float(size)
    x = ((p[0] * inverse - look.centre[0]) / look.half * 0.5 + 0.5) * s - 0.5
    y = ((look.centre[1] - p[2] * inverse) / look.half * 0.5 + 0.5) * s - 0.5
    screen[f, v] = wp.vec3(x, y, inverse)


@wp.kernel
def project_light(
    vertices: wp.array2d(dtype=wp.vec3),
    right: wp.vec3,
    up: wp.vec3,
    towards: wp.vec3,
    origin: wp.vec3,
    extent: float,
    size: int,
    screen: wp.array2d(dtype=wp.vec3),
):
    """The same from the key light: parallel rays, `extent` metres from the centre to the border."""
    f, v = wp.tid()
    p = vertices[f, v] - origin
    s = float(size)
    x = (wp.dot(p, right) / extent * 0.5 + 0.5) * s - 0.5
    y = (wp.dot(p, up) / extent * 0.5 + 0.5) * s - 0.5
    screen[f, v] = wp.vec3(x, y, 1.0 + wp.dot(p, towards))


@wp.kernel
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
def edge(a: wp.vec3, b: wp.vec3, x: float, y: float):
    return (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])


@wp.func
def hash21(x: int, y: int):
    h = wp.uint32(x) * wp.uint32(374761393) + wp.uint32(y) * wp.uint32(668265263)
    h = (h ^ (h >> wp.uint32(13))) * wp.uint32(1274126177)
    return float((h ^ (h >> wp.uint32(16))) & wp.uint32(65535)) / 65536.0


@wp.kernel
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
    """Keeps the nearest face of every pixel: inverse depth in the high bits, face + 1 in the low ones.

    Hair is seen from both sides; where its `coverage` falls below one, only some strands are left.
    """
    f, t = wp.tid()
    c = faces[t]
    a = screen[f, c[0]]
    b = screen[f, c[1]]
    d = screen[f, c[2]]
    area = edge(a, b, d[0], d[1]) * sided
    hair = kinds[t] == HAIR
    if area == 0.0 or (area > 0.0 and not hair):
        return
    area = area * sided
    last = float(size - 1)
    x0 = int(wp.ceil(wp.max(wp.min(wp.min(a[0], b[0]), d[0]), 0.0)))
    x1 = int(wp.floor(wp.min(wp.max(wp.max(a[0], b[0]), d[0]), last)))
    y0 = int(wp.ceil(wp.max(wp.min(wp.min(a[1], b[1]), d[1]), 0.0)))
    y1 = int(wp.floor(wp.min(wp.max(wp.max(a[1], b[1]), d[1]), last)))
    scale = 1.0 / area
    for y in range(y0, y1 + 1):
        for x in range(x0, x1 + 1):
            w0 = edge(b, d, float(x), float(y)) * scale
            w1 = edge(d, a, float(x), float(y)) * scale
            w2 = 1.0 - w0 - w1
            if w0 >= 0.0 and w1 >= 0.0 and w2 >= 0.0:
                draw = bool(True)
                if hair:
                    cover = w0 * coverage[c[0]] + w1 * coverage[c[1]] + w2 * coverage[c[2]]
                    strand = w0 * texcoords[c[0]][0] + w1 * texcoords[c[1]][0] + w2 * texcoords[c[2]][0]
                    draw = hash21(int(strand * 420.0), 7) < cover
                if draw:
                    z = w0 * a[2] + w1 * b[2] + w2 * d[2]
                    key = (wp.int64(z * 67108864.0) << wp.int64(24)) | wp.int64(t + 1)
                    wp.atomic_max(visible, f, y, x, key)


@wp.func
def sample(texture: wp.array2d(dtype=wp.vec3), u: float, v: float):
    """Bilinear, wrapped in u and clamped in v."""
    h = texture.shape[0]
    w = texture.shape[1]
    x = (u - wp.floor(u)) * float(w) - 0.5
    y = wp.clamp(v * float(h) - 0.5, 0.0, float(h - 1))
    x0 = int(wp.floor(x))
    y0 = int(y)
    fx = x - float(x0)
    fy = y - float(y0)
    xa = (x0 + w) % w
    xb = (x0 + 1) % w
    y1 = wp.min(y0 + 1, h - 1)
    top = texture[y0, xa] * (1.0 - fx) + texture[y0, xb] * fx
    bottom = texture[y1, xa] * (1.0 - fx) + texture[y1, xb] * fx
    return top * (1.0 - fy) + bottom * fy


@wp.func
def smooth(a: float, b: float, x: float):
    t = wp.clamp((x - a) / (b - a), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@wp.func
def mix(a: wp.vec3, b: wp.vec3, t: float):
    return a * (1.0 - t) + b * t


@wp.func
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
    return mix(iris, white, smooth(look.iris_size * 0.96, look.iris_size * 1.06, r))


@wp.kernel
def shade(
    vertices: wp.array2d(dtype=wp.vec3),
    normals: wp.array2d(dtype=wp.vec3),
    screen: wp.array2d(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    kinds: wp.array(dtype=wp.int32),
    texcoords: wp.array(dtype=wp.vec2),
    local: wp.array(dtype=wp.vec3),
    occlusion: wp.array(dtype=float),
    skin: wp.array2d(dtype=wp.vec3),
    hair: wp.array2d(dtype=wp.vec3),
    background: wp.array2d(dtype=wp.vec3),
    visible: wp.array3d(dtype=wp.int64),
    lit: wp.array3d(dtype=wp.int64),
    light_right: wp.vec3,
    light_up: wp.vec3,
    light_origin: wp.vec3,
    light_extent: float,
    look: Look,
    out: wp.array3d(dtype=wp.vec3),
):
    """Colour of every visible point, linear RGB."""
    f, y, x = wp.tid()
    t = int(visible[f, y, x] & wp.int64(16777215)) - 1
    if t < 0:
        out[f, y, x] = background[y, x]
        return
    c = faces[t]
    a = screen[f, c[0]]
    b = screen[f, c[1]]
    d = screen[f, c[2]]
    scale = 1.0 / edge(a, b, d[0], d[1])
    w0 = edge(b, d, float(x), float(y)) * scale * 1.0
    w1 = edge(d, a, float(x), float(y)) * scale * 1.0
    w2 = 1.0 - w0 - w1
    # perspective-correct weights
    total = w0 * a[2] + w1 * b[2] + w2 * d[2]
    w0 = w0 * a[2] / total
    w1 = w1 * b[2] / total
    w2 = w2 * d[2] / total
    n = wp.normalize(normals[f, c[0]] * w0 + normals[f, c[1]] * w1 + normals[f, c[2]] * w2)
    p = vertices[f, c[0]] * w0 + vertices[f, c[1]] * w1 + vertices[f, c[2]] * w2
    view = wp.normalize(wp.vec3(0.0, -look.distance, 0.0) - p)
    if wp.dot(n, view) < 0.0 and kinds[t] == HAIR:
        n = -n
    ao = occlusion[c[0]] * w0 + occlusion[c[1]] * w1 + occlusion[c[2]] * w2
    q = local[c[0]] * w0 + local[c[1]] * w1 + local[c[2]] * w2
    u0 = texcoords[c[0]][0]
    u1 = texcoords[c[1]][0]
    u2 = texcoords[c[2]][0]
    u1 = u1 - wp.round(u1 - u0)
    u2 = u2 - wp.round(u2 - u0)
    u = u0 * w0 + u1 * w1 + u2 * w2
    v = texcoords[c[0]][1] * w0 + texcoords[c[1]][1] * w1 + texcoords[c[2]][1] * w2
    # key light, softly shadowed
    size = lit.shape[1]
    r = p + n * 0.004 - light_origin
    lx = (wp.dot(r, light_right) / light_extent * 0.5 + 0.5) * float(size) - 0.5
    ly = (wp.dot(r, light_up) / light_extent * 0.5 + 0.5) * float(size) - 0.5
    lz = 1.0 + wp.dot(r, look.light) + 0.004
    open_ = float(0.0)
    for k in range(4):
        sx = int(wp.floor(lx + 1.0 * float(k % 2) + hash21(x, y) - 0.5))
        sy = int(wp.floor(ly + 1.0 * float(k / 2) + hash21(y, x) - 0.5))
        if sx < 0 or sy < 0 or sx >= size or sy >= size:
            open_ += 0.25
        else:
            depth = float(lit[f, sy, sx] >> wp.int64(24)) / 67108864.0
            if lz > depth:
                open_ += 0.25
    cosine = wp.dot(n, look.light)
    half = wp.normalize(look.light + view)
    kind = kinds[t]
    albedo = wp.vec3(0.5, 0.5, 0.5)
    shine = float(0.0)
    power = float(20.0)
    if kind == SKIN:
        albedo = sample(skin, u, v)
        shine = look.gloss * 0.35
        power = 18.0
    elif kind == CLOTH:
        albedo = sample(skin, u, v)
    elif kind == EYE:
        albedo = eye_colour(q, look) * (1.0 - 0.35 * smooth(0.25, 0.7, wp.normalize(q)[2]))
        shine = 1.6
        power = 50.0
    elif kind == TEETH:
        albedo = look.teeth * (0.8 + 0.2 * wp.abs(wp.sin(q[0] * 480.0)))
        shine = 0.2
        power = 40.0
    elif kind == TONGUE:
        albedo = wp.vec3(0.42, 0.11, 0.10)
        shine = 0.1
    else:
        albedo = sample(hair, u, v)
    diffuse = wp.vec3(0.0, 0.0, 0.0)
    if kind == SKIN:  # light bleeds around the terminator, red most
        wrap = wp.vec3(0.30, 0.16, 0.10)
        diffuse = wp.vec3(
            wp.max(cosine + wrap[0], 0.0) / (1.0 + wrap[0]),
            wp.max(cosine + wrap[1], 0.0) / (1.0 + wrap[1]),
            wp.max(cosine + wrap[2], 0.0) / (1.0 + wrap[2]),
        )
    elif kind == HAIR:
        lambert = wp.max(cosine + 0.35, 0.0) / 1.35
        diffuse = wp.vec3(lambert, lambert, lambert)
    else:
        lambert = wp.max(cosine, 0.0)
        diffuse = wp.vec3(lambert, lambert, lambert)
    sky = 0.6 + 0.4 * n[2]
    side = wp.max(wp.dot(n, wp.vec3(-look.light[0], look.light[1], 0.1)), 0.0)
    light = (
        look.ambient * (sky * ao) + look.fill * (side * ao) + wp.cw_mul(look.key, diffuse) * (open_ * (0.4 + 0.6 * ao))
    )
    colour = wp.cw_mul(albedo, light)
    if kind == HAIR:
        tangent = wp.normalize(wp.vec3(0.0, 0.0, -1.0) - n * (-n[2]))
        th = wp.dot(tangent, half)
        glow = wp.pow(wp.sqrt(wp.max(1.0 - th * th, 0.0)), 40.0) * look.hair_gloss
        colour = colour + wp.cw_mul(mix(albedo, look.key, 0.25), look.key) * (
            glow * open_ * wp.max(cosine + 0.2, 0.0) * ao
        )
    else:
        colour = colour + look.key * (shine * wp.pow(wp.max(wp.dot(n, half), 0.0), power) * open_ * ao)
    out[f, y, x] = colour


@wp.kernel
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


@wp.kernel
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
