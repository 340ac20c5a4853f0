"""Building blocks of the networks (arXiv 1905.08233, Sec. 4): residual blocks, AdaIN, self-attention, spectral norm."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

IMAGE_CHANNELS = 3
POWER_ITERATIONS = 15  # as many as torch takes for a new layer

Gradients = TypeVar("Gradients")


def outside_autocast(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Decorates a `backward` to run outside autocast, also where `loss.backward()` is called under it."""

    @functools.wraps(backward)
    def call(ctx: Any, *gradients: Tensor) -> Gradients:
        with torch.autocast(gradients[0].device.type, enabled=False):
            return backward(ctx, *gradients)

    return call


class DivideByNorm(torch.autograd.Function):
    """W / sigma with sigma = u^T W v. The gradient, with u and v fixed, is written out, to keep fewer copies of W:

    dL/dW = (G - <G, W / sigma> u v^T) / sigma with G = dL/d(W / sigma) (arXiv 1802.05957, Sec. 2.1).
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, sigma: Float[Tensor, ""], u: Tensor, v: Tensor) -> Tensor:
        normal = weight / sigma
        ctx.save_for_backward(normal, sigma, u, v)
        return normal

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        normal, sigma, u, v = ctx.saved_tensors
        gradient = as_matrix(gradients[0])
        along = torch.dot(gradient.flatten(), as_matrix(normal).flatten())  # <G, W / sigma>
        to_weight = torch.addr(gradient, u * -along, v).div_(sigma)
        return to_weight.unflatten(1, (*normal.shape[2:], -1)).movedim(-1, 1), None, None, None


def as_matrix(weight: Tensor) -> Float[Tensor, "out fan_in"]:
    """The weight as a matrix, input channels last: a view for channels-last convolutions and linear layers."""
    return weight.movedim(1, -1).flatten(1)


class SpectralNorm(nn.Module):
    """Weight divided by its largest singular value (Miyato et al., arXiv 1802.05957, Alg. 1).

    One power iteration per use in training, none in evaluation; always in fp32, also under autocast, where torch's own
    version multiplies in bf16.

    >>> weight = torch.diag(torch.tensor([4.0, 1.0]))
    >>> SpectralNorm(weight)(weight)
    tensor([[1.0000, 0.0000],
            [0.0000, 0.2500]])
    """

    u: Tensor
    v: Tensor
    iterates = True  # in training; see `without_power_iterations`

    def __init__(self, weight: Tensor, num_warmup: int = POWER_ITERATIONS, eps: float = 1e-4) -> None:
        super().__init__()
        self.eps = eps
        for name, length in (("u", weight.shape[0]), ("v", weight[0].numel())):
            # Computing with meta tensors would load torch's compiler, which takes a second.
            start = torch.empty(length) if weight.is_meta else F.normalize(torch.randn(length), dim=0)
            self.register_buffer(name, start.to(weight.device))
        for _ in range(0 if weight.is_meta else num_warmup):
            self(weight.detach())

    def forward(self, weight: Tensor) -> Tensor:
        """The weight divided by sigma."""
        with torch.autocast(weight.device.type, enabled=False):
            return DivideByNorm.apply(weight, *self.singular(as_matrix(weight.detach()), weight.shape[1]))

    def singular(self, matrix: Float[Tensor, "out fan_in"], num_inputs: int) -> tuple[Tensor, Tensor, Tensor]:
        """The largest singular value and its vectors u and v, after a power iteration if in training."""
        # Copies: the next power iteration overwrites the buffers, which the backward pass of this use still needs.
        u, v = self.u.clone(), self.v.view(num_inputs, -1).T.flatten()  # v is stored in torch's order, inputs first
        if self.training and self.iterates:
            v = F.normalize(matrix.T @ u, dim=0, eps=self.eps)
            self.v.copy_(v.view(-1, num_inputs).T.flatten())
        product = matrix @ v
        if self.training and self.iterates:
            u = F.normalize(product, dim=0, eps=self.eps)
            self.u.copy_(u)
        return torch.dot(u, product), u, v


class RowNorm(nn.Module):
    """Rows of a large table divided by the table's largest singular value, which no gradient goes through.

    One power iteration per use in training, none in evaluation. Its buffers do not grow with the table.
    """

    v: Tensor
    sigma: Tensor
    iterates = True  # in training; see `without_power_iterations`

    def __init__(self, table: Float[Tensor, "R N"], num_warmup: int = POWER_ITERATIONS) -> None:
        super().__init__()
        self.register_buffer("v", F.normalize(torch.randn(table.shape[1]), dim=0).to(table.device))
        self.register_buffer("sigma", torch.ones((), device=table.device))
        for _ in range(num_warmup):
            self.iterate(table)

    @torch.no_grad()
    def iterate(self, table: Float[Tensor, "R N"]) -> None:
        """v <- table^T table v, sigma = |table v|."""
        self.v.copy_(F.normalize(table.T @ (table @ self.v), dim=0))
        self.sigma.copy_((table @ self.v).norm().clamp(min=1e-12))

    def forward(self, rows: Float[Tensor, "B N"], table: Float[Tensor, "R N"]) -> Float[Tensor, "B N"]:
        if self.training and self.iterates:
            with torch.autocast(table.device.type, enabled=False):
                self.iterate(table.detach())
        return rows / self.sigma.clone()  # a copy, because the next use overwrites the buffer before backward


@contextmanager
def without_power_iterations(*modules: nn.Module) -> Iterator[None]:
    """Inside the block, spectrally normalised weights keep their last values, also in training."""
    norms = [one for module in modules for one in module.modules() if isinstance(one, SpectralNorm | RowNorm)]
    before = [norm.iterates for norm in norms]
    for norm in norms:
        norm.iterates = False
    try:
        yield
    finally:
        for norm, iterates in zip(norms, before, strict=True):
            norm.iterates = iterates


@torch.no_grad()
def settle_spectral_norm(module: nn.Module) -> None:
    """Recompute spectral norm's singular vectors after weights were replaced, for example by averages."""
    for part in module.modules():
        parametrizations = part.parametrizations if parametrize.is_parametrized(part) else None
        if isinstance(parametrizations, nn.ModuleDict):
            training = part.training
            part.train()  # only then a use iterates
            for name in parametrizations:
                for _ in range(POWER_ITERATIONS):
                    getattr(part, name)  # one power iteration each
            part.train(training)


def normalized(layer: nn.Conv2d | nn.Linear, spectral_norm: bool) -> nn.Module:
    """The layer itself, with its weight parametrised by `SpectralNorm` if asked."""
    if spectral_norm:
        parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight), unsafe=True)  # no trial run
    return layer


def conv(in_channels: int, out_channels: int, kernel: int, spectral_norm: bool) -> nn.Module:
    """A convolution that keeps the picture size, its weight in channels-last order."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    return normalized(layer.to(memory_format=torch.channels_last), spectral_norm)


class NormalizeInstances(torch.autograd.Function):
    """scale * (x - mean) / std + shift per image and channel, statistics in fp32, with the gradient written out.

    Autograd would store three tensors of the size of x; this stores x alone.

    For n = (x - mean) / std and the gradient g of the output: to x scale / std * (g - mean(g) - n mean(g n)), to the
    scale sum(g n), to the shift sum(g).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "B C H W"], scale: Float[Tensor, "#B C 1 1"], shift: Float[Tensor, "#B C 1 1"],
        eps: float,
    ) -> Float[Tensor, "B C H W"]:  # fmt: skip
        wide = at_least_fp32(x)
        mean = wide.mean((2, 3), keepdim=True)
        centred = wide - mean
        inverse_std = torch.rsqrt(centred.square().mean((2, 3), keepdim=True) + eps)
        ctx.save_for_backward(x, mean, inverse_std, scale)
        return torch.addcmul(shift, centred, scale * inverse_std).to(x.dtype)

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, mean, inverse_std, scale = ctx.saved_tensors
        gradient = at_least_fp32(gradients[0])
        normalized_x = (at_least_fp32(x) - mean).mul_(inverse_std)
        mean_g = gradient.mean((2, 3), keepdim=True)
        mean_gx = (gradient * normalized_x).mean((2, 3), keepdim=True)
        to_x = torch.addcmul(gradient - mean_g, normalized_x, mean_gx, value=-1).mul_(scale * inverse_std)
        positions = x.shape[2] * x.shape[3]
        # A layer's own affine has one row for the whole batch, AdaIN one per picture: sum_to_size covers both.
        to_scale, to_shift = ((part * positions).sum_to_size(scale.shape) for part in (mean_gx, mean_g))
        return to_x.to(x.dtype), to_scale, to_shift, None


class NormalizeInstancesOnCPU(torch.autograd.Function):
    """`NormalizeInstances` by torch's batch norm, one image at a time: the same function, five times as fast on CPUs.

    On GPUs one formula for the whole batch is faster than many small kernels.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "B C H W"], scale: Float[Tensor, "#B C 1 1"], shift: Float[Tensor, "#B C 1 1"],
        eps: float,
    ) -> Float[Tensor, "B C H W"]:  # fmt: skip
        scales, shifts = (part.flatten(1).expand(len(x), -1) for part in (scale, shift))
        # Over a batch of one picture, batch norm is instance norm.
        parts = [
            torch.native_batch_norm(image, one_scale, one_shift, None, None, True, 0.0, eps)
            for image, one_scale, one_shift in zip(x.split(1), scales, shifts, strict=True)
        ]
        normalized_x, means, inverse_stds = zip(*parts, strict=True)
        ctx.save_for_backward(x, scale, *means, *inverse_stds)
        ctx.eps = eps
        return torch.cat(normalized_x)

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, scale, *statistics = ctx.saved_tensors
        means, inverse_stds = statistics[: len(x)], statistics[len(x) :]
        images = zip(gradients[0].split(1), x.split(1), scale.flatten(1).expand(len(x), -1), strict=True)
        parts = [
            torch.ops.aten.native_batch_norm_backward(*image, None, None, mean, inverse_std, True, ctx.eps, [True] * 3)
            for image, mean, inverse_std in zip(images, means, inverse_stds, strict=True)
        ]
        to_x, *rows = zip(*parts, strict=True)
        to_scale, to_shift = (torch.stack(row)[:, :, None, None].sum_to_size(scale.shape) for row in rows)
        return torch.cat(to_x), to_scale, to_shift, None


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precision to fp32; fp32 and fp64 are returned unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class InstanceNorm(nn.Module):
    """Zero mean and unit variance per image and channel; then a scale and a shift.

    With `affine` they are parameters of the layer; without, `scale_shift` passes them, two values per channel: AdaIN
    (Huang and Belongie, arXiv 1703.06868). The paper gives no eps; the authors' code has 1e-4. Scales are stored as
    differences from 1, so zeros mean plain instance norm.

    >>> adain, x = InstanceNorm(3, affine=False), torch.randn(1, 3, 8, 8)
    >>> h = adain(x, torch.tensor([[1.0, 0, 0, 0, 0, 5]]))  # scales 1 + (1, 0, 0), shifts (0, 0, 5)
    >>> h.std((2, 3), correction=0).round(decimals=2), h.mean((2, 3)).round(decimals=2).abs()
    (tensor([[2., 1., 1.]]), tensor([[0., 0., 5.]]))
    """

    def __init__(self, channels: int, affine: bool, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.scale_shift = nn.Parameter(torch.zeros(1, 2 * channels)) if affine else None

    def forward(self, x: Float[Tensor, "B C H W"], scale_shift: Float[Tensor, "#B S"] | None = None) -> Tensor:
        given = self.scale_shift if scale_shift is None else scale_shift
        if given is None:
            raise ValueError("an instance norm without an affine of its own needs scale_shift: one row per picture")
        scale, shift = at_least_fp32(given)[:, :, None, None].chunk(2, dim=1)
        normalize = NormalizeInstancesOnCPU if x.device.type == "cpu" else NormalizeInstances
        return normalize.apply(x, 1 + scale, shift, self.eps)


class DownBlock(nn.Module):
    """Pre-activation residual block: relu-conv3-relu-conv3-avgpool, skip conv1-avgpool.

    Args:
        instance_norm: a norm with its own affine before each ReLU (the generator's encoder)
        first: the input is an image, so there is no norm and no ReLU in front
        downsample: halve the size; without it and with equal channels the skip is the identity
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, spectral_norm: bool, instance_norm: bool = False,
        first: bool = False, downsample: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.first, self.downsample = first, downsample
        norms = instance_norm and not first, instance_norm
        self.norm1 = InstanceNorm(in_channels, affine=True) if norms[0] else nn.Identity()
        self.norm2 = InstanceNorm(out_channels, affine=True) if norms[1] else nn.Identity()
        self.conv1 = conv(in_channels, out_channels, 3, spectral_norm)
        self.conv2 = conv(out_channels, out_channels, 3, spectral_norm)
        plain = in_channels == out_channels and not downsample
        self.skip = nn.Identity() if plain else conv(in_channels, out_channels, 1, spectral_norm)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        h = x if self.first else F.relu(self.norm1(x))
        h = self.conv2(F.relu(self.norm2(self.conv1(h))))
        if not self.downsample:
            return h + self.skip(x)
        return F.avg_pool2d(h, 2) + self.skip(F.avg_pool2d(x, 2))  # 1 x 1 and pooling commute; this order is cheaper


class AdaptiveBlock(nn.Module):
    """Residual block of the generator: (AdaIN-relu-[up]-conv3) (AdaIN-relu-conv3), skip [up]-conv1."""

    def __init__(self, in_channels: int, out_channels: int, *, spectral_norm: bool, upsample: bool = False) -> None:
        super().__init__()
        self.upsample = upsample
        self.norm1 = InstanceNorm(in_channels, affine=False)
        self.norm2 = InstanceNorm(out_channels, affine=False)
        self.conv1 = conv(in_channels, out_channels, 3, spectral_norm)
        self.conv2 = conv(out_channels, out_channels, 3, spectral_norm)
        plain = in_channels == out_channels and not upsample
        self.skip = nn.Identity() if plain else conv(in_channels, out_channels, 1, spectral_norm)

    def forward(self, x: Float[Tensor, "B C H W"], psi: Sequence[Float[Tensor, "B _"]]) -> Float[Tensor, "B D h w"]:
        """`psi`: scales and shifts of norm1 and of norm2, two values per channel."""
        h = F.relu(self.norm1(x, psi[0]))
        h = self.conv1(F.interpolate(h, scale_factor=2.0, mode="nearest") if self.upsample else h)
        h = self.conv2(F.relu(self.norm2(h, psi[1])))
        skip = self.skip(x)  # a 1 x 1 convolution and upsampling commute; this order is cheaper
        return h + (F.interpolate(skip, scale_factor=2.0, mode="nearest") if self.upsample else skip)


class SelfAttention(nn.Module):
    """Self-attention over all positions (SAGAN, arXiv 1805.08318, Sec. 3; keys pooled as in BigGAN).

    `gamma` starts at 0, so a new layer is the identity.
    """

    def __init__(self, channels: int, spectral_norm: bool) -> None:
        super().__init__()
        self.query = conv(channels, channels // 8, 1, spectral_norm)
        self.key = conv(channels, channels // 8, 1, spectral_norm)
        self.value = conv(channels, channels // 2, 1, spectral_norm)
        self.out = conv(channels // 2, channels, 1, spectral_norm)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        query = self.query(x).flatten(2).transpose(1, 2)  # [B, P, C/8], a row for each of P = H * W positions
        key = F.max_pool2d(self.key(x), 2).flatten(2).transpose(1, 2)
        value = F.max_pool2d(self.value(x), 2).flatten(2).transpose(1, 2)  # [B, P/4, C/2]
        one_head = (query[:, None], key[:, None], value[:, None])  # the fast kernels want four dimensions
        attended = F.scaled_dot_product_attention(*one_head, scale=1.0)[:, 0]  # SAGAN has no 1 / sqrt(C/8)
        attended = attended.transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.gamma * self.out(attended)


FAR = 1e6  # half sides of a picture; PyTorch's own reflection fails on the largest numbers


def resample(
    x: Float[Tensor, "B C H W"], grid: Float[Tensor, "#B h w 2"], padding_mode: str = "border",
    align_corners: bool = False,
) -> Float[Tensor, "B C h w"]:  # fmt: skip
    """`F.grid_sample`, bilinear; NaN where the grid is not finite.

    On CPUs, PyTorch 2.11's backward pass reads beyond the picture for NaN, and ends the process with a segmentation
    fault, where `callbacks.guard` should report a collapsed training.
    """
    safe = grid.nan_to_num(nan=0.0).clamp(-FAR, FAR)
    moved = F.grid_sample(x, safe, padding_mode=padding_mode, align_corners=align_corners)
    return moved + (0 * grid.detach()).sum(-1)[:, None]  # 0 or NaN
