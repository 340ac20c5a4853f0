"""Embedding match (arXiv 1905.08233, Sec. 3.2)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def matching(e_hat: Float[Tensor, "B N"], w: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
    """L_MCH = |e_hat_i - W_i|, mean over the N components and the batch.

    The mean over components keeps its scale when N changes; the paper's norm is N times as large.
    """
    return F.l1_loss(e_hat, w)
