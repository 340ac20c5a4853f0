"""Numbers of fine-tuning that were measured best for each kind of generator (experiments/finetune_options)."""

from typing import NamedTuple

from torch import nn

from talkinghead.models.warp_guided import WarpGuidedGenerator


class Measured(NamedTuple):
    """What `FineTuner` uses for each number that is None; `steps`: the default of `animate.py` and the studio.

    Attributes:
        epochs: passes over the shots
        max_steps: upper bound of the steps; None: the epochs alone decide
        batch_size: shots per step
        lr_generator: of all weights of G' but psi'
        lr_psi: of psi'
        lr_w: of w' and b
        motion: weight of L_motion
    """

    steps: int
    epochs: int
    max_steps: int | None
    batch_size: int
    lr_generator: float
    lr_psi: float
    lr_w: float
    motion: float


PAPERS = Measured(40, 40, None, 8, 5e-5, 5e-3, 5e-3, 100.0)
WARP_GUIDED = Measured(16, 16, 16, 1, 5e-5, 5e-3, 5e-3, 0.0)


def measured(generator: nn.Module) -> Measured:
    """The numbers for this kind of generator: warp-guided, or the paper's."""
    return WARP_GUIDED if isinstance(generator, WarpGuidedGenerator) else PAPERS
