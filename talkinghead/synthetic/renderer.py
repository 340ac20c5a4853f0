"""Pictures of a textured head: z-buffered triangles, one shadowing key light, supersampling; CPU or CUDA by warp."""

from dataclasses import dataclass

import cv2
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
        """Frames of one clip. `eyes` sets the fields of Look that are not light or camera."""
        frames, fine = len(vertices), self.size * self.supersampling
        look = _look(camera, lighting, eyes)
        with wp.ScopedDevice(self.device):
            points = wp.array(np.ascontiguousarray(vertices, np.float32), dtype=wp.vec3)
            faces = wp.array(surface.faces, dtype=wp.vec3i)
            kinds = wp.array(surface.kinds, dtype=wp.int32)
            coverage = wp.array(surface.coverage, dtype=wp.float32)
            texcoords = wp.array(surface.texcoords, dtype=wp.vec2)
            normals = wp.zeros(points.shape, dtype=wp.vec3)
            wp.launch(kernels.face_normals, (frames, len(faces)), inputs=[points, faces], outputs=[normals])
            screen = wp.empty(points.shape, dtype=wp.vec3)
            wp.launch(kernels.project, points.shape, inputs=[points, look, fine], outputs=[screen])
            visible = self._visibility(screen, faces, kinds, coverage, texcoords, fine, 1.0)
            right, up, origin, extent = _light_frame(lighting.direction, vertices)
            lit_screen = wp.empty(points.shape, dtype=wp.vec3)
            inputs = [points, right, up, wp.vec3(*lighting.direction), origin, extent, self.shadow_size]
            wp.launch(kernels.project_light, points.shape, inputs=inputs, outputs=[lit_screen])
            lit = self._visibility(lit_screen, faces, kinds, coverage, texcoords, self.shadow_size, -1.0)
            colours = wp.empty((frames, fine, fine), dtype=wp.vec3)
            inputs = [points, normals, screen, faces, kinds, texcoords]
            inputs += [wp.array(surface.local, dtype=wp.vec3), wp.array(surface.occlusion, dtype=wp.float32)]
            inputs += [
                wp.array(np.ascontiguousarray(t, np.float32), dtype=wp.vec3) for t in (surface.skin, surface.hair)
            ]
            inputs += [
                wp.array(cv2.resize(background, (fine, fine)), dtype=wp.vec3),
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

    def _visibility(self, screen, faces, kinds, coverage, texcoords, size: int, sided: float):
        visible = wp.zeros((screen.shape[0], size, size), dtype=wp.int64)
        inputs = [screen, faces, kinds, coverage, texcoords, size, sided]
        wp.launch(kernels.rasterise, (screen.shape[0], len(faces)), inputs=inputs, outputs=[visible])
        return visible


def ambient_light(
    vertices: Float[np.ndarray, "V 3"],
    normals: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "T 3"],
    rays: int = 20,
    reach: float = 0.06,
) -> Float[np.ndarray, " V"]:
    """How much of the sky each vertex sees, 0 ... 1; what is further away than `reach` metres hides nothing."""
    with wp.ScopedDevice("cpu"):
        mesh = wp.Mesh(wp.array(vertices, dtype=wp.vec3), wp.array(faces.ravel(), dtype=wp.int32))
        seen = wp.empty(len(vertices), dtype=wp.float32)
        inputs = [mesh.id, mesh.points, wp.array(normals.astype(np.float32), dtype=wp.vec3), rays, reach]
        wp.launch(kernels.ambient, len(vertices), inputs=inputs, outputs=[seen])
        return seen.numpy()


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
