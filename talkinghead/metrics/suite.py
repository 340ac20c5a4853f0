"""All image metrics of one method at one shot count: SSIM, PSNR, perceptual distances, identity, landmark error."""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import MeanMetric

from talkinghead.metrics.landmarks import LandmarkDetector, landmark_error
from talkinghead.metrics.motion import MOTION, STILLNESS, motion, stillness
from talkinghead.pixels import as_pictures

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # of the window, in pixels
GAUSSIAN = torch.exp(-torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1.0).square() / (2 * SSIM_SIGMA**2))
WINDOW = (GAUSSIAN / GAUSSIAN.sum()).tolist()
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
MAX_PSNR = 80.0  # dB; of identical images, so that one copied frame does not make the mean infinite

DISTANCE_BATCH = 8  # images per forward pass of a distance's network

ImageDistance = Callable[[Tensor, Tensor], Tensor]
Similarity = Callable[[Tensor, Tensor, Tensor], Tensor]


def ssim(x_hat: Float[Tensor, "B 3 H W"], x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
    """Structural similarity of images in [0, 1], 1 where they agree (Wang et al. 2004).

    The authors' window: Gaussian, sigma 1.5, 11 x 11; mean over channels and over pixels whose window is inside the
    image (torchmetrics also averages over a mirrored border, which gives other numbers).

    >>> x = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    >>> ssim(x, x), ssim(x, 1 - x)  # a ramp against itself, and against its negative
    (tensor([1.]), tensor([-0.5006]))
    """
    moments = blur(torch.stack([x, x_hat, x * x, x_hat * x_hat, x * x_hat]))  # one pass for all local means
    mu, mu_hat, xx, hh, xh = moments.flatten(2)
    variances, covariance = xx - mu * mu + hh - mu_hat * mu_hat, xh - mu * mu_hat
    luminance = (2 * mu * mu_hat + SSIM_C1) / (mu * mu + mu_hat * mu_hat + SSIM_C1)
    return (luminance * (2 * covariance + SSIM_C2) / (variances + SSIM_C2)).mean(dim=1)


def blur(x: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B h w"]:
    """Separable Gaussian blur without padding, as weighted sums of shifted images: on CPUs far faster than conv2d."""
    height, width = (length - 2 * SSIM_RADIUS for length in x.shape[-2:])
    if height < 1 or width < 1:
        raise ValueError(
            f"SSIM needs images of at least {2 * SSIM_RADIUS + 1} pixels, these have {tuple(x.shape[-2:])}"
        )
    first, *others = (weight * x[..., n : n + height, :] for n, weight in enumerate(WINDOW))
    rows = sum(others, start=first)
    first, *others = (weight * rows[..., n : n + width] for n, weight in enumerate(WINDOW))
    return sum(others, start=first)


def psnr(x_hat: Float[Tensor, "B 3 H W"], x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
    """10 log10(1 / MSE) of each image in [0, 1], in dB, at most `MAX_PSNR`.

    >>> x = torch.zeros(1, 3, 8, 8)
    >>> psnr(x + 0.1, x), psnr(x, x)
    (tensor([20.]), tensor([80.]))
    """
    return (-10 * (x_hat - x).square().mean(dim=(1, 2, 3)).log10()).clamp(max=MAX_PSNR)


class ImageMetrics(nn.Module):
    """Means over images of `ssim`, `psnr`, one entry per distance and similarity given, `nme` and `face_found`.

    Args:
        detector: finds the landmarks of an output; None: neither `nme` nor `face_found`
        distances: further distances by log name, each (x_hat, x) in [-1, 1] -> [B]; None entries are left out
        max_detections: images per rank, between two resets, on which landmarks are detected; None: all
        similarities: of identity, by log name, each (x_hat, x, points) -> [B]; None entries are left out

    `nme` is the mean over the images where a face was found, NaN where there is none: read it together with
    `face_found`, their share. `compute` reduces over ranks, so every rank must call it; `measure` and `average` are for
    the images of one rank. Networks are not submodules, so they stay out of checkpoints and optimizers.
    """

    def __init__(
        self,
        detector: LandmarkDetector | None = None,
        distances: Mapping[str, ImageDistance | None] | None = None,
        max_detections: int | None = None,
        similarities: Mapping[str, Similarity | None] | None = None,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.distances = {name: part for name, part in (distances or {}).items() if part is not None}
        self.similarities = {name: part for name, part in (similarities or {}).items() if part is not None}
        self.max_detections = max_detections
        self._num_detections = 0
        landmarks = ["nme", "face_found"] if detector is not None else []
        names = ["ssim", "psnr", *self.distances, *self.similarities, *landmarks]
        self.of_clips = (STILLNESS, *(MOTION if detector is not None else ()))
        self.means = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in names})

    def fresh(self) -> "ImageMetrics":
        """An empty suite with the same detector and networks, for another method or shot count."""
        return ImageMetrics(self.detector, self.distances, self.max_detections, self.similarities)

    def update(
        self, x_hat: Float[Tensor, "B 3 H W"], x: Float[Tensor, "B 3 H W"], points: Float[Tensor, "B 68 2"]
    ) -> None:
        """Add outputs and targets in [-1, 1], and the target's landmarks in pixels of them."""
        left = None if self.max_detections is None else max(0, self.max_detections - self._num_detections)
        values = self.measure(x_hat, x, points, left)
        for name, mean in self._means().items():
            mean.update(counted(name, values[name]))
        if self.detector is not None:
            self._num_detections += len(counted("face_found", values["face_found"]))

    @torch.no_grad()
    def measure(
        self, x_hat: Float[Tensor, "B 3 H W"], x: Float[Tensor, "B 3 H W"], points: Float[Tensor, "B 68 2"],
        max_detections: int | None = None, found: Float[np.ndarray, "b 68 2"] | None = None,
    ) -> dict[str, Float[Tensor, " _"]]:  # fmt: skip
        """Every metric of every image, without adding to the means and without communication between ranks.

        A similarity may leave images out. NaN in `nme`: no face was found; NaN in both `nme` and `face_found`: beyond
        `max_detections`, no face was searched.

        Args:
            x_hat: outputs in [-1, 1]
            x: targets in [-1, 1]
            points: landmarks of the targets, pixels
            max_detections: images on which landmarks are detected; None: all
            found: landmarks of the outputs, if known (`find`)
        """
        x_hat, x, points = x_hat.float().clamp(-1, 1), x.float().clamp(-1, 1), points.float()
        with torch.autocast(x.device.type, enabled=False):  # distances are networks; bf16 would change them
            unit_hat, unit = (x_hat + 1) / 2, (x + 1) / 2
            values = {"ssim": ssim(unit_hat, unit), "psnr": psnr(unit_hat, unit)}
            for name, distance in self.distances.items():
                if isinstance(distance, nn.Module):
                    distance.to(x.device)
                parts = zip(x_hat.split(DISTANCE_BATCH), x.split(DISTANCE_BATCH), strict=True)
                values[name] = torch.cat([distance(*part) for part in parts])
            for name, similarity in self.similarities.items():
                values[name] = similarity(x_hat, x, points)
        if self.detector is not None:
            found = self.find(x_hat[:max_detections]) if found is None else found
            values |= measure_landmarks(found, points)
        return values

    def find(self, x_hat: Float[Tensor, "B 3 H W"]) -> Float[np.ndarray, "B 68 2"]:
        """Detect the landmarks of outputs in [-1, 1]; NaN where no face is found."""
        assert self.detector is not None
        found = [self.detector(picture) for picture in as_pictures(x_hat)]
        none = np.full((68, 2), np.nan, np.float32)
        return np.stack([none if points is None else points for points in found]) if found else none[None][:0]

    def measure_clip(
        self, x_hat: Float[Tensor, "F 3 H W"], x: Float[Tensor, "F 3 H W"], points: Float[Tensor, "F 68 2"]
    ) -> dict[str, float]:
        """Means of `measure` over the frames of one clip, in order of time, and the metrics of motion (`of_clips`)."""
        found = None if self.detector is None else self.find(x_hat)
        values = self.average(self.measure(x_hat, x, points, found=found))
        unit_hat, unit = ((images.float().clamp(-1, 1) + 1) / 2 for images in (x_hat, x))
        values[STILLNESS] = stillness(unit_hat, unit, points.float())
        return values | ({} if found is None else motion(found, points.float().cpu().numpy()))

    def average(self, values: Mapping[str, Float[Tensor, " _"]]) -> dict[str, float]:
        """Means over images of the result of `measure`, by log name; NaN where there is nothing to average."""
        return {name: float(counted(name, value).mean()) for name, value in values.items()}

    def _means(self) -> dict[str, MeanMetric]:
        return {name: mean for name, mean in self.means.items() if isinstance(mean, MeanMetric)}

    def compute(self) -> dict[str, Tensor]:
        """The means by log name over all ranks; NaN where nothing was added."""
        with warnings.catch_warnings():  # a rank without faces must still take part in the reduction
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric MeanMetric was called before")
            return {name: mean.compute() for name, mean in self._means().items()}

    def reset(self) -> None:
        """Reset all means and the count of detections."""
        self._num_detections = 0
        for mean in self._means().values():
            mean.reset()


def measure_landmarks(
    found: Float[np.ndarray, "b 68 2"], points: Float[Tensor, "B 68 2"]
) -> dict[str, Float[Tensor, " B"]]:
    """`nme` and `face_found` of the first images, those with a detection result; NaN for the others."""
    nme, face_found = (torch.full((len(points),), torch.nan) for _ in range(2))
    for n, (mine, driver) in enumerate(zip(found, points.cpu().numpy(), strict=False)):
        seen = not np.isnan(mine).any()
        face_found[n] = float(seen)
        if seen:
            nme[n] = landmark_error(mine, driver)
    return {"nme": nme.to(points.device), "face_found": face_found.to(points.device)}


def counted(name: str, values: Float[Tensor, " B"]) -> Float[Tensor, " b"]:
    """The values that enter the mean: all, so that a NaN shows, except images without a face in landmark metrics."""
    return values[~values.isnan()] if name in ("nme", "face_found") else values
