"""L_CNT: how far apart two images are for pretrained networks (arXiv 1905.08233, Sec. 3.2)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ContentLoss(nn.Module):
    """L_CNT(x, x_hat) = sum over networks n of weight_n * sum over layers l of mean |phi_nl(x) - phi_nl(x_hat)|.

    backbones   name -> frozen network, which maps images in [-1, 1] to a list of activations
    weights     name -> weight; networks of weight 0 are not computed
    """

    def __init__(self, backbones: Mapping[str, nn.Module], weights: Mapping[str, float | int]) -> None:
        super().__init__()
        if set(backbones) != set(weights):
            raise ValueError(
                f"content loss: backbones {sorted(backbones)} and weights {sorted(weights)} must have the same names"
            )
        self.weights = {name: float(weight) for name, weight in weights.items() if weight != 0}
        self.backbones = nn.ModuleDict({name: backbones[name] for name in self.weights}).requires_grad_(False)

    def forward(self, x: Float[Tensor, "B 3 H W"], x_hat: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
        """x: real, no gradient; x_hat: fake. Both in [-1, 1]."""
        loss = torch.zeros((), device=x.device)
        for name, weight in self.weights.items():
            loss = loss + weight * activation_distance(self.backbones[name], x, x_hat)
        return loss


def activation_distance(
    backbone: nn.Module, x: Float[Tensor, "B 3 H W"], x_hat: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, ""]:
    """Sum over a network's layers of the mean absolute difference of activations; no gradient to x."""
    with torch.no_grad():
        real = backbone(x)
    fake = backbone(x_hat)
    distances = [(a - b).abs().mean(dtype=torch.float32) for a, b in zip(real, fake, strict=True)]
    return torch.stack(distances).sum()
