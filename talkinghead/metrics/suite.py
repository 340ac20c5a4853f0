"""All image metrics of one method at one shot count: SSIM, PSNR, LPIPS and the landmark error, averaged per image."""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.functional.image import peak_signal_noise_ratio

from talkinghead.metrics.landmarks import LandmarkDetector, landmark_error

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # of the window, in pixels
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
MAX_PSNR = 80.0  # dB, of images that agree to the last bit, so that one copied frame does not make the mean infinite

ImageDistance = Callable[[Tensor, Tensor], Tensor]


def ssim(x_hat: Float[Tensor, "B 3 H W"], x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
    """Structural similarity of images in [0, 1], 1 where they agree (Wang et al. 2004).

    The authors' window: Gaussian, sigma 1.5, 11 x 11; mean over the channels and over the pixels whose window lies
    inside the image (torchmetrics' mean takes the mirrored border too, which gives other numbers).
    """
    moments = blur(torch.stack([x, x_hat, x * x, x_hat * x_hat, x * x_hat]))
    mu, mu_hat, xx, hh, xh = moments.flatten(2)
    variances, covariance = xx - mu * mu + hh - mu_hat * mu_hat, xh - mu * mu_hat
    luminance = (2 * mu * mu_hat + SSIM_C1) / (mu * mu + mu_hat * mu_hat + SSIM_C1)
    return (luminance * (2 * covariance + SSIM_C2) / (variances + SSIM_C2)).mean(dim=1)


def blur(x: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B h w"]:
    """Gaussian blur where the window fits; as weighted sums of shifted images, far faster on the CPU than conv2d."""
    weights = torch.exp(-torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1.0).square() / (2 * SSIM_SIGMA**2))
    window = (weights / weights.sum()).tolist()
    height, width = (length - 2 * SSIM_RADIUS for length in x.shape[-2:])
    if height < 1 or width < 1:
        raise ValueError(
            f"SSIM needs images of at least {2 * SSIM_RADIUS + 1} pixels, these have {tuple(x.shape[-2:])}"
        )
    rows = torch.as_tensor(sum(weight * x[..., n : n + height, :] for n, weight in enumerate(window)))
    return torch.as_tensor(sum(weight * rows[..., n : n + width] for n, weight in enumerate(window)))


def psnr(x_hat: Float[Tensor, "B 3 H W"], x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
    """10 log10(1 / MSE) of each image in [0, 1], in dB, at most `MAX_PSNR`."""
    values = peak_signal_noise_ratio(x_hat, x, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return values.clamp(max=MAX_PSNR)


class ImageMetrics(nn.Module):
    """Means over images of `ssim`, `psnr`, one entry per given distance (`lpips`), `nme` and `face_found`.

    detector        finds the landmarks of an output; without one there is neither `nme` nor `face_found`
    distances       further distances by log name, each (x_hat, x) in [-1, 1] -> [B]; None entries are left out
    max_detections  images per rank between two resets whose landmarks are looked for; None: all

    `nme` is the mean over the images where a face was found, NaN where there was none: read it beside `face_found`,
    their share. Sums are reduced over ranks in `compute`, so every rank has to call it. Networks given as distances
    are no submodules: they stay out of checkpoints and optimizers.
    """

    def __init__(
        self,
        detector: LandmarkDetector | None = None,
        distances: Mapping[str, ImageDistance | None] | None = None,
        max_detections: int | None = None,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.distances = {name: part for name, part in (distances or {}).items() if part is not None}
        self.max_detections = max_detections
        self._num_detections = 0
        names = ["ssim", "psnr", *self.distances, *(["nme", "face_found"] if detector is not None else [])]
        self.means = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in names})

    def fresh(self) -> "ImageMetrics":
        """An empty suite with the same detector and networks, for another method or shot count."""
        return ImageMetrics(self.detector, self.distances, self.max_detections)

    @torch.no_grad()
    def update(
        self, x_hat: Float[Tensor, "B 3 H W"], x: Float[Tensor, "B 3 H W"], points: Float[Tensor, "B 68 2"]
    ) -> None:
        """Add outputs and targets in [-1, 1], and the driver's landmarks in pixels of them."""
        x_hat, x = x_hat.float().clamp(-1, 1), x.float().clamp(-1, 1)
        with torch.autocast(x.device.type, enabled=False):  # distances are networks; bf16 would change them
            unit_hat, unit = (x_hat + 1) / 2, (x + 1) / 2
            self._add("ssim", ssim(unit_hat, unit))
            self._add("psnr", psnr(unit_hat, unit))
            for name, distance in self.distances.items():
                if isinstance(distance, nn.Module):
                    distance.to(x.device)
                self._add(name, distance(x_hat, x))
        if self.detector is not None:
            self._update_landmarks(unit_hat, points)

    def _update_landmarks(self, x_hat: Float[Tensor, "B 3 H W"], points: Float[Tensor, "B 68 2"]) -> None:
        if self.max_detections is not None:
            x_hat = x_hat[: max(0, self.max_detections - self._num_detections)]
        self._num_detections += len(x_hat)
        for image, driver in zip(to_uint8(x_hat), points.float().cpu().numpy(), strict=False):
            found = self.detector(image) if self.detector is not None else None
            self._add("face_found", float(found is not None))
            if found is not None:
                self._add("nme", landmark_error(found, driver))

    def _add(self, name: str, value: Tensor | float) -> None:
        self._means()[name].update(value)

    def _means(self) -> dict[str, MeanMetric]:
        return {name: mean for name, mean in self.means.items() if isinstance(mean, MeanMetric)}

    def compute(self) -> dict[str, Tensor]:
        """The means by log name over all ranks; NaN where nothing was added."""
        with warnings.catch_warnings():  # a rank that found no face must still take part in the reduction
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric MeanMetric was called before")
            return {name: mean.compute() for name, mean in self._means().items()}

    def reset(self) -> None:
        """Forget everything added."""
        self._num_detections = 0
        for mean in self._means().values():
            mean.reset()


def to_uint8(x: Float[Tensor, "B 3 H W"]) -> UInt8[np.ndarray, "B H W 3"]:
    """Pictures of images in [0, 1]; NaN becomes black."""
    levels = (x.detach().float().nan_to_num(0.0).clamp(0, 1) * 255).round()
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
