"""Pictures of a textured head: z-buffered triangles, one shadowing key light, supersampling; CPU or CUDA by warp."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import warp as wp
from jaxtyping import Float, Int, UInt8

from talkinghead.synthetic import raster, shading


@dataclass(frozen=True)
class Surface:
    """The parts of a person that do not move: the mesh's faces, and all that is painted on them.

    kinds      per face: raster.SKIN, EYE, TEETH, TONGUE, HAIR, CLOTH or GLOSSY
    texcoords  in [0, 1], u wraps around the head
    local      EYE: direction seen from the eyeball's centre; TEETH: position; CLOTH, GLOSSY: linear RGB
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
class Colours:
    """Eyes, teeth and shine of a person; colours are linear RGB, `iris_size` is the sine of the iris's angle."""

    iris: tuple[float, float, float]
    iris_size: float
    teeth: tuple[float, float, float]
    gloss: float
    hair_gloss: float


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
    """Draws clips of any person at one size, some frames at a time."""

    def __init__(
        self,
        size: int,
        supersampling: int = 2,
        shadow_size: int = 128,
        device: str = "cpu",
        samples_at_once: int = 1 << 22,
    ) -> None:
        self.size, self.supersampling, self.shadow_size, self.device = size, supersampling, shadow_size, device
        self.frames_at_once = max(1, samples_at_once // (size * supersampling) ** 2)
        raster.start()

    def compile(self) -> None:
        """Build the kernels now (some seconds, once per machine), before worker processes race for it."""
        for module in (raster, shading):
            wp.load_module(module, device=self.device)
        wp.load_module(raster, device="cpu")  # for `ambient_light`

    def __call__(
        self,
        vertices: Float[np.ndarray, "F V 3"],
        surface: Surface,
        camera: Camera,
        lighting: Lighting,
        background: Float[np.ndarray, "H W 3"],
        colours: Colours,
    ) -> UInt8[np.ndarray, "F S S 3"]:
        """Draw the frames of one clip: uint8 RGB, `size` pixels square."""
        with wp.ScopedDevice(self.device):
            geometry = _upload(surface)
            still: Any = wp.array(cv2.resize(background, (self.size * self.supersampling,) * 2), dtype=wp.vec3)
            coverage: Any = wp.array(surface.coverage, dtype=wp.float32)
            look = _look(camera, lighting, colours)
            pictures = [
                self._draw(vertices[n : n + self.frames_at_once], geometry, coverage, camera, lighting, look, still)
                for n in range(0, len(vertices), self.frames_at_once)
            ]
        return np.concatenate(pictures)

    def _draw(
        self,
        vertices: np.ndarray,
        g: Any,
        coverage: Any,
        camera: Camera,
        lighting: Lighting,
        look: Any,
        background: Any,
    ) -> np.ndarray:
        fine = self.size * self.supersampling
        g.vertices = wp.array(np.ascontiguousarray(vertices, np.float32), dtype=wp.vec3)
        g.normals, g.screen = wp.zeros(g.vertices.shape, dtype=wp.vec3), wp.empty(g.vertices.shape, dtype=wp.vec3)
        wp.launch(raster.face_normals, (len(vertices), len(g.faces)), inputs=[g.vertices, g.faces], outputs=[g.normals])
        inputs = [g.vertices, wp.vec2(*camera.centre), camera.half, camera.distance, fine]
        wp.launch(raster.project, g.vertices.shape, inputs=inputs, outputs=[g.screen])
        visible = self._visible(g, g.screen, coverage, fine, 1.0)
        frame, from_light = _light_frame(lighting.direction, vertices), wp.empty(g.vertices.shape, dtype=wp.vec3)
        wp.launch(
            raster.project_light, g.vertices.shape, inputs=[g.vertices, frame, self.shadow_size], outputs=[from_light]
        )
        lit = self._visible(g, from_light, coverage, self.shadow_size, -1.0)
        shaded = wp.empty((len(vertices), fine, fine), dtype=wp.vec3)
        wp.launch(shading.shade, shaded.shape, inputs=[g, look, background, visible, lit, frame], outputs=[shaded])
        pictures = wp.empty((len(vertices), self.size, self.size, 3), dtype=wp.uint8)
        wp.launch(shading.resolve, pictures.shape[:3], inputs=[shaded, self.supersampling], outputs=[pictures])
        return pictures.numpy()

    def _visible(self, g: Any, screen: Any, coverage: Any, size: int, sided: float) -> Any:
        visible = wp.zeros((screen.shape[0], size, size), dtype=wp.int64)
        inputs = [screen, g.faces, g.kinds, coverage, g.texcoords, size, sided]
        wp.launch(raster.rasterise, (screen.shape[0], len(g.faces)), inputs=inputs, outputs=[visible])
        return visible


def _upload(surface: Surface) -> Any:
    g = shading.Geometry()
    g.faces, g.kinds = wp.array(surface.faces, dtype=wp.vec3i), wp.array(surface.kinds, dtype=wp.int32)
    g.texcoords, g.local = wp.array(surface.texcoords, dtype=wp.vec2), wp.array(surface.local, dtype=wp.vec3)
    g.occlusion = wp.array(surface.occlusion, dtype=wp.float32)
    g.skin, g.hair = wp.array(surface.skin, dtype=wp.vec3), wp.array(surface.hair, dtype=wp.vec3)
    return g


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
        wp.launch(raster.ambient, len(vertices), inputs=inputs, outputs=[seen])
        return seen.numpy()


def _look(camera: Camera, lighting: Lighting, colours: Colours) -> Any:
    look = shading.Look()
    look.distance, look.light, look.key = camera.distance, wp.vec3(*lighting.direction), wp.vec3(*lighting.key)
    look.ambient, look.fill = wp.vec3(*lighting.ambient), wp.vec3(*lighting.fill)
    look.iris, look.iris_size, look.teeth = wp.vec3(*colours.iris), colours.iris_size, wp.vec3(*colours.teeth)
    look.gloss, look.hair_gloss = colours.gloss, colours.hair_gloss
    return look


def _light_frame(direction: tuple[float, float, float], vertices: np.ndarray) -> Any:
    """Maps space to the shadow map, [-1, 1] in x and y, and a depth around 1 that grows towards the light."""
    towards = np.array(direction)
    right = np.cross(towards, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    low, high = vertices.reshape(-1, 3).min(0), vertices.reshape(-1, 3).max(0)
    extent = float(np.linalg.norm(high - low) / 2) * 0.8
    rows = np.stack([right / extent, np.cross(right, towards) / extent, towards])
    shift = np.array([0.0, 0.0, 1.0]) - rows @ ((low + high) / 2)
    return wp.mat44(*np.vstack([np.column_stack([rows, shift]), [0.0, 0.0, 0.0, 1.0]]).ravel().tolist())
