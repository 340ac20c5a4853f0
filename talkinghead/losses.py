"""The losses (arXiv 1905.08233, Sec. 3.2): L_CNT, the adversarial losses of G and D, and L_MCH."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ContentLoss(nn.Module):
    """L_CNT(x, x_hat) = sum over networks n of weight_n * sum over layers l of mean |phi_nl(x) - phi_nl(x_hat)|.

    Args:
        backbones: name -> frozen network, which maps images in [-1, 1] to a list of activations
        weights: name -> weight; networks of weight 0 are not computed

    >>> class Pixels(nn.Module):
    ...     def forward(self, image):
    ...         return [image, image[..., ::2, ::2]]  # two "layers"
    >>> content = ContentLoss({"pixels": Pixels()}, {"pixels": 10})
    >>> x, x_hat = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5)
    >>> content(x, x_hat)  # 10 * (0.5 + 0.5)
    tensor(10.)
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


def hinge(real: Float[Tensor, " B"], fake: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """L_DSC = max(0, 1 + D(x_hat, y, i)) + max(0, 1 - D(x, y, i)), mean over the batch; in [0, inf).

    A picture classified correctly with a margin of 1 gives no gradient: here the first pair adds 0, the second 2 + 0.5.

    >>> hinge(real=torch.tensor([1.5, 0.5]), fake=torch.tensor([-3.0, 1.0]))
    tensor(1.2500)
    """
    return (F.relu(1 + fake) + F.relu(1 - real)).mean()


def adversarial(fake: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """-D(x_hat, y, i), the first term of L_ADV, mean over the batch; unbounded.

    >>> adversarial(torch.tensor([-3.0, 1.0]))
    tensor(1.)
    """
    return -fake.mean()


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Float[Tensor, ""]:
    """L_FM, second term of L_ADV: mean absolute difference of D's activations on x and x_hat, averaged over the layers.

    The mean over layers follows the authors' code; no gradient goes to `real`.

    >>> real = [torch.zeros(1, 8, 4, 4), torch.zeros(1, 16, 2, 2)]
    >>> fake = [torch.ones(1, 8, 4, 4), torch.zeros(1, 16, 2, 2)]
    >>> feature_matching(real, fake)
    tensor(0.5000)
    """
    layers = [F.l1_loss(x_hat.float(), x.detach().float()) for x, x_hat in zip(real, fake, strict=True)]
    return sum(layers[1:], start=layers[0]) / len(layers)


def matching(e_hat: Float[Tensor, "B N"], w: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
    """L_MCH = |e_hat_i - W_i|, mean over the N components and the batch.

    The mean over components keeps its scale when N changes; the paper's norm is N times as large.

    >>> matching(e_hat=torch.zeros(2, 512), w=torch.full((2, 512), 0.1))
    tensor(0.1000)
    """
    return F.l1_loss(e_hat, w)
