"""Pictures of a textured head: z-buffered triangles, one shadowing key light, supersampling; CPU or CUDA by warp."""

from dataclasses import dataclass

import numpy as np
import warp as wp
from jaxtyping import Float, Int, UInt8

from talkinghead.synthetic import kernels


@dataclass(frozen=True)
class Surface:
    """What does not move of one person: the mesh's faces and everything painted on it.

    kinds      per face: kernels.SKIN, EYE, TEETH, TONGUE, HAIR, CLOTH
    texcoords  in [0, 1], u wraps around the head
    local      EYE: direction seen from the eyeball's centre; TEETH: position
    occlusion  ambient light that reaches a vertex
    coverage   below one, hair thins out
    skin, hair textures, linear RGB
    """

    faces: Int[np.ndarray, "T 3"]
    kinds: Int[np.ndarray, " T"]
    texcoords: Float[np.ndarray, "V 2"]
    local: Float[np.ndarray, "V 3"]
    occlusion: Float[np.ndarray, " V"]
    coverage: Float[np.ndarray, " V"]
    skin: Float[np.ndarray, "H W 3"]
    hair: Float[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Lighting:
    """Directions towards the camera's side; colours are linear RGB."""

    direction: tuple[float, float, float]
    key: tuple[float, float, float]
    ambient: tuple[float, float, float]
    fill: tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """A pinhole on the -y axis; the crop is a square of tangents around `centre` (x right, z up)."""

    distance: float
    centre: tuple[float, float]
    half: float

    def project(self, points: Float[np.ndarray, "*N 3"], size: int) -> Float[np.ndarray, "*N 2"]:
        """Pixels of a `size` x `size` picture, integers at pixel centres, x right, y down."""
        depth = points[..., 1] + self.distance
        x = ((points[..., 0] / depth - self.centre[0]) / self.half * 0.5 + 0.5) * size - 0.5
        y = ((self.centre[1] - points[..., 2] / depth) / self.half * 0.5 + 0.5) * size - 0.5
        return np.stack([x, y], -1)


class Renderer:
    """Draws clips of any person; keeps its buffers between calls."""

    def __init__(self, size: int, supersampling: int = 2, shadow_size: int = 128, device: str = "cpu") -> None:
        self.size, self.supersampling, self.shadow_size, self.device = size, supersampling, shadow_size, device
        wp.init()

    def compile(self) -> None:
        """Build the kernels now (some seconds, once per machine), before worker processes race for it."""
        wp.load_module(kernels, device=self.device)

    def __call__(
        self,
        vertices: Float[np.ndarray, "F V 3"],
        surface: Surface,
        camera: Camera,
        lighting: Lighting,
        background: Float[np.ndarray, "H W 3"],
        eyes: dict[str, object],
    ) -> UInt8[np.ndarray, "F S S 3"]:
        """Frames of one clip. `background` is sampled at the nearest pixel; `eyes` sets Look's iris and teeth fields."""
        frames, fine = len(vertices), self.size * self.supersampling
        look = _look(camera, lighting, eyes)
        with wp.ScopedDevice(self.device):
            points = wp.array(np.ascontiguousarray(vertices, np.float32), dtype=wp.vec3)
            faces = wp.array(surface.faces, dtype=wp.vec3i)
            kinds = wp.array(surface.kinds, dtype=wp.int32)
            coverage = wp.array(surface.coverage, dtype=wp.float32)
            normals = wp.zeros(points.shape, dtype=wp.vec3)
            wp.launch(kernels.face_normals, (frames, len(faces)), inputs=[points, faces], outputs=[normals])
            screen = wp.empty(points.shape, dtype=wp.vec3)
            wp.launch(kernels.project, points.shape, inputs=[points, look, fine], outputs=[screen])
            visible = self._visibility(screen, faces, kinds, coverage, fine, 1.0)
            right, up, origin, extent = _light_frame(lighting.direction, vertices)
            lit_screen = wp.empty(points.shape, dtype=wp.vec3)
            inputs = [points, right, up, wp.vec3(*lighting.direction), origin, extent, self.shadow_size]
            wp.launch(kernels.project_light, points.shape, inputs=inputs, outputs=[lit_screen])
            lit = self._visibility(lit_screen, faces, kinds, coverage, self.shadow_size, -1.0)
            colours = wp.empty((frames, fine, fine), dtype=wp.vec3)
            inputs = [points, normals, screen, faces, kinds, wp.array(surface.texcoords, dtype=wp.vec2)]
            inputs += [wp.array(surface.local, dtype=wp.vec3), wp.array(surface.occlusion, dtype=wp.float32)]
            inputs += [
                wp.array(np.ascontiguousarray(t, np.float32), dtype=wp.vec3) for t in (surface.skin, surface.hair)
            ]
            inputs += [
                wp.array(_nearest(background, fine), dtype=wp.vec3),
                visible,
                lit,
                right,
                up,
                origin,
                extent,
                look,
            ]
            wp.launch(kernels.shade, colours.shape, inputs=inputs, outputs=[colours])
            pictures = wp.empty((frames, self.size, self.size, 3), dtype=wp.uint8)
            inputs = [colours, self.supersampling]
            wp.launch(kernels.resolve, pictures.shape[:3], inputs=inputs, outputs=[pictures])
            return pictures.numpy()

    def _visibility(self, screen, faces, kinds, coverage, size: int, sided: float):
        visible = wp.zeros((screen.shape[0], size, size), dtype=wp.int64)
        inputs = [screen, faces, kinds, coverage, size, sided]
        wp.launch(kernels.rasterise, (screen.shape[0], len(faces)), inputs=inputs, outputs=[visible])
        return visible


def _look(camera: Camera, lighting: Lighting, eyes: dict[str, object]):
    look = kernels.Look()
    look.centre, look.half, look.distance = wp.vec2(*camera.centre), camera.half, camera.distance
    look.light, look.key = wp.vec3(*lighting.direction), wp.vec3(*lighting.key)
    look.ambient, look.fill = wp.vec3(*lighting.ambient), wp.vec3(*lighting.fill)
    for name, value in eyes.items():
        setattr(look, name, wp.vec3(*value) if isinstance(value, (tuple, list)) else value)
    return look


def _light_frame(direction: tuple[float, float, float], vertices: np.ndarray):
    towards = np.array(direction)
    right = np.cross(towards, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, towards)
    flat = vertices.reshape(-1, 3)
    low, high = flat.min(0), flat.max(0)
    origin = (low + high) / 2
    extent = float(np.linalg.norm(high - low) / 2) * 0.8
    return wp.vec3(*right), wp.vec3(*up), wp.vec3(*origin), extent


def _nearest(picture: np.ndarray, size: int) -> np.ndarray:
    rows = (np.arange(size) * picture.shape[0]) // size
    columns = (np.arange(size) * picture.shape[1]) // size
    return np.ascontiguousarray(picture[rows[:, None], columns[None]], np.float32)
