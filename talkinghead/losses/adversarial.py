"""The game between G and D: hinge loss, realism and feature matching (arXiv 1905.08233, Sec. 3.2)."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def hinge(real: Float[Tensor, " B"], fake: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """L_DSC = max(0, 1 + D(x_hat, y, i)) + max(0, 1 - D(x, y, i)), mean over the batch; in [0, inf)."""
    return (F.relu(1 + fake) + F.relu(1 - real)).mean()


def adversarial(fake: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """-D(x_hat, y, i), the first term of L_ADV, mean over the batch."""
    return -fake.mean()


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Float[Tensor, ""]:
    """L_FM, second term of L_ADV: mean absolute difference of D's activations on x and x_hat, averaged over the layers.

    The mean over layers follows the authors' code; no gradient goes to `real`.
    """
    layers = [F.l1_loss(x_hat.float(), x.detach().float()) for x, x_hat in zip(real, fake, strict=True)]
    return sum(layers[1:], start=layers[0]) / len(layers)
