"""A studio with tiny untrained networks, in which green squares are faces."""

from pathlib import Path
from typing import Any

import cv2
import torch
from hydra.utils import instantiate
from torch import nn

from talkinghead.faces.crop import Framing
from talkinghead.learners.finetune import FeedForward, FineTuner
from talkinghead.reenactment.pipeline import Settings
from talkinghead.studio.animate_page import Examples
from talkinghead.studio.animator import Animator
from talkinghead.studio.uploads import Limits
from tests.cli.test_animate import LOSS, MODEL, SIZE
from tests.helpers.preparation_videos import GreenFace, green_frame, write_clip

ENDLESS = 50  # steps that take longer than any test has patience: it has to be stopped
LIMITS = Limits(megabytes=2, seconds=5, pictures=3, megapixels=2, steps=ENDLESS)


def make_networks() -> Any:
    """E, G and D, untrained."""
    torch.manual_seed(0)
    parts = nn.ModuleDict({name: instantiate(MODEL[name]) for name in ("embedder", "generator", "discriminator")})
    nn.init.normal_(parts["discriminator"].W.weight)
    return parts


def make_animator(limits: Limits = LIMITS, parts: Any = None) -> Animator:
    """FF and FT, with a preview after every step."""
    parts = parts or make_networks()
    networks = (parts["embedder"], parts["generator"], parts["discriminator"])
    content = instantiate(LOSS["content"])

    def method(steps: int) -> Any:
        if steps == 0:
            return FeedForward(*networks[:2])
        steps = 10**4 if steps == ENDLESS else steps
        return FineTuner(*networks, content, LOSS["weights"], epochs=steps, max_steps=steps, lr_generator=2e-3)

    return Animator(method, SIZE, GreenFace(), Framing(1.8), Settings(precision="fp32"), limits, every=0.0)


def write_examples(folder: Path) -> Examples:
    """Two portraits and a driver, all green."""
    portraits = {name: folder / f"{name}.png" for name in ("ann", "bob")}
    for number, path in enumerate(portraits.values()):
        cv2.imwrite(str(path), green_frame(120, 160, 50 + 10 * number, 30, 60)[..., ::-1])
    write_clip(folder / "calm.mp4", 12)
    return Examples(portraits, {"calm": folder / "calm.mp4"})
