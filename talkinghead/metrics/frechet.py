"""Frechet distance of outputs and targets as sets: fid on Inception, fd_<network> on any other (arXiv 1706.08500)."""

import hashlib
import io
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import Metric

from talkinghead.storage import write_atomic

EMBED_BATCH = 16  # images per forward pass

_logger = logging.getLogger(__name__)

Sums = tuple[Tensor, Tensor, Tensor]  # n, sum of the vectors, sum of their outer products


class FeatureSums(Metric):
    """Number, sum and sum of outer products of feature vectors in fp64, added up over ranks."""

    full_state_update = False
    n: Tensor
    total: Tensor
    outer: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.add_state("n", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(num_features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(num_features, num_features, dtype=torch.float64), dist_reduce_fx="sum")
        self.loaded: Sums | None = None  # from disk: of all ranks together

    def update(self, features: Float[Tensor, "B D"]) -> None:
        vectors = features.to(self.outer.device, torch.float64)
        self.n = self.n + len(vectors)
        self.total = self.total + vectors.sum(dim=0)
        self.outer = self.outer + vectors.T @ vectors

    def compute(self) -> Sums:
        return self.n, self.total, self.outer

    def sums(self) -> Sums:
        """(n, sum, sum of outer products) over all ranks, all of which must call this; or those loaded from disk."""
        with warnings.catch_warnings():  # a rank without people must take part too
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric FeatureSums was called before")
            n, total, outer = self.loaded or self.compute()
        return n, total.view_as(self.total), outer.view_as(self.outer)  # torchmetrics drops dimensions of length 1


class FrechetDistance(nn.Module):
    """|mu - mu_hat|^2 + tr(C + C_hat - 2 (C C_hat)^(1/2)) of the features of real and fake images; lower is better.

    Args:
        name: log name: fid for Inception, fd_<network> for any other
        features: images in [-1, 1] -> [B, D]; frozen; no submodule, so that it stays out of checkpoints
        cache_dir: folder for statistics of real images, visible to all ranks; None: they are not kept

    `fresh()` gives the distance of another method or shot count to the same real images, which are added once. A
    distance keeps two matrices of D x D doubles: 67 MB for Inception. The estimate is biased upwards for few images, so
    compare only distances of equally many; with fewer images than features covariances are singular.
    """

    def __init__(self, name: str, features: nn.Module, cache_dir: Path | str | None = None) -> None:
        super().__init__()
        self.name = name
        self._features = [features.requires_grad_(False).eval()]
        self.cache_dir = Path(cache_dir) if cache_dir is not None else None
        with torch.no_grad():
            num_features = self.embed(torch.zeros(1, 3, 64, 64)).shape[1]
        self.real, self.fake = FeatureSums(num_features), FeatureSums(num_features)

    def fresh(self) -> "FrechetDistance":
        """A distance without fake images that shares the network and the real images, including later ones."""
        other = FrechetDistance.__new__(FrechetDistance)
        nn.Module.__init__(other)
        other.name, other._features, other.cache_dir = self.name, self._features, self.cache_dir
        other.real, other.fake = self.real, FeatureSums(len(self.fake.total)).to(self.fake.outer.device)
        return other

    @torch.no_grad()
    def embed(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Features of images in [-1, 1]; NaN for images that are not finite."""
        network = self._features[0].to(x.device)
        x = x.float().clamp(-1, 1)
        with torch.autocast(x.device.type, enabled=False):
            features = torch.cat([network(part).float() for part in x.split(EMBED_BATCH)])
        return features.where(x.isfinite().flatten(1).all(dim=1)[:, None], torch.nan)

    def update_real(self, x: Float[Tensor, "B 3 H W"]) -> None:
        """Add targets in [-1, 1]; ignored where their statistics were loaded."""
        if self.real.loaded is None:
            self.add_real(self.embed(x))

    def update_fake(self, x_hat: Float[Tensor, "B 3 H W"]) -> None:
        """Add outputs in [-1, 1]."""
        self.add_fake(self.embed(x_hat))

    def add_real(self, features: Float[Tensor, "B D"]) -> None:
        """Add targets by their features from `embed`; ignored where their statistics were loaded."""
        if self.real.loaded is None:
            self.real.update(features)

    def add_fake(self, features: Float[Tensor, "B D"]) -> None:
        """Add outputs by their features from `embed`."""
        self.fake.update(features)

    def compute(self) -> Float[Tensor, ""]:
        """The distance over all ranks, all of which must call this. ValueError for fewer than two images of a kind."""
        real, fake = self.real.sums(), self.fake.sums()
        counts, num_features = (int(real[0]), int(fake[0])), len(fake[1])
        if min(counts) < 2:
            raise ValueError(
                f"{self.name} of {counts[0]} real and {counts[1]} fake images: it takes at least two of each, "
                f"and more than {num_features} for covariances of full rank"
            )
        if min(counts) <= num_features:
            notice(self.name, min(counts), num_features)
        return frechet_distance(*gaussian(*real), *gaussian(*fake)).float()

    def reset(self, real: bool = False) -> None:
        """Remove the fake images, and with `real` the shared real ones too."""
        self.fake.reset()
        if real:
            self.real.loaded = None
            self.real.reset()

    def load_real(self, key: str) -> bool:
        """Load the statistics of the real images from disk; False where there are none. All ranks must call this.

        Args:
            key: identifies the images: data set and its digest, split, people, frames, size; the network is added.
        """
        path = self._cache_file(key)
        if not everyone(path is not None and path.is_file()) or path is None:
            return False
        with np.load(path) as stored:
            sums = tuple(torch.from_numpy(stored[name]).to(self.real.outer.device) for name in ("n", "total", "outer"))
        self.real.loaded = (sums[0], sums[1], sums[2])
        return True

    def save_real(self, key: str) -> None:
        """Save the statistics of the real images over all ranks. All ranks must call this; rank 0 writes."""
        path = self._cache_file(key)
        if path is None or self.real.loaded is not None:
            return
        n, total, outer = (value.cpu().numpy() for value in self.real.sums())
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            content = io.BytesIO()
            np.savez(content, n=n, total=total, outer=outer, key=np.array(key))
            write_atomic(path, content.getvalue())

    def _cache_file(self, key: str) -> Path | None:
        if self.cache_dir is None:
            return None
        text = json.dumps([key, network_hash(self._features[0])])
        return self.cache_dir / f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"


def find_distance(name: str, features: nn.Module | None, cache_dir: Path | str | None = None) -> FrechetDistance | None:
    """The distance if its network was found, else None."""
    return FrechetDistance(name, features, cache_dir) if features is not None else None


def gaussian(n: Tensor, total: Float[Tensor, " D"], outer: Float[Tensor, "D D"]) -> tuple[Tensor, Tensor]:
    """Mean and covariance (over n - 1) of n vectors, from their sum and the sum of their outer products.

    >>> x = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    >>> gaussian(torch.tensor(2), x.sum(0), x.T @ x)
    (tensor([1., 2.]), tensor([[2., 4.],
            [4., 8.]]))
    """
    mean = total / n
    return mean, (outer - n * torch.outer(mean, mean)) / (n - 1)


def frechet_distance(
    mean: Float[Tensor, " D"], covariance: Float[Tensor, "D D"],
    mean_hat: Float[Tensor, " D"], covariance_hat: Float[Tensor, "D D"],
) -> Float[Tensor, ""]:  # fmt: skip
    """|mu - mu_hat|^2 + tr(C + C_hat - 2 (C C_hat)^(1/2)) of two Gaussians; NaN where one is not finite.

    In one dimension it is (mu - mu_hat)^2 + (sigma - sigma_hat)^2:

    >>> mean, variance = torch.tensor([0.0]), torch.tensor([[1.0]])
    >>> frechet_distance(mean, variance, torch.tensor([3.0]), torch.tensor([[4.0]]))  # 3^2 + (1 - 2)^2
    tensor(10.)

    C C_hat is not symmetric, but has the eigenvalues of R C_hat R with R = C^(1/2), which is: the trace of its root is
    the sum of their roots. Eigenvalues that rounding makes negative, as for singular covariances, are set to 0.
    """
    distance = (mean - mean_hat).square().sum() + covariance.trace() + covariance_hat.trace()
    if not distance.isfinite():
        return distance * torch.nan
    values, vectors = torch.linalg.eigh(covariance)  # C = U diag(l) U^T
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ covariance_hat @ root
    roots = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt()
    return (distance - 2 * roots.sum()).clamp(min=0)


def network_hash(network: nn.Module) -> str:
    """SHA-256 of structure, weights and buffers, which include the preprocessing of the input."""
    digest = hashlib.sha256(repr(network).encode())
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def everyone(flag: bool) -> bool:
    """Whether `flag` is true on every rank."""
    if not torch.distributed.is_initialized():
        return flag
    flags: list[bool] = [False] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(flags, flag)
    return all(flags)


_NOTICED: set[str] = set()


def notice(name: str, images: int, num_features: int) -> None:
    """Warn, once per name, of a covariance without full rank."""
    if name not in _NOTICED:
        _NOTICED.add(name)
        _logger.warning(
            "%s of %d images in %d dimensions is too large: compare it only with values of as many images",
            name, images, num_features,
        )  # fmt: skip
