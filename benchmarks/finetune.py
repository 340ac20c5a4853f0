"""Fine-tuning one person: seconds in all, and how much of that is not the steps themselves.

python benchmarks/finetune.py --model fsth_64 --shots 1 8 --epochs 40
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("benchmarks/finetune.py")

import argparse
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from talkinghead.learners.finetune import FineTuner
from talkinghead.precision import best_precision
from talkinghead.types import Frames

ROOT = Path(__file__).parents[1]


def build(model: str, epochs: int) -> FineTuner:
    """Random weights of a preset, with the content loss that needs no download."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("evaluate", [f"model={model}", "num_videos=1", "paths.root_dir=.", f"finetune.epochs={epochs}"])
    networks = {name: instantiate(cfg.model[name]) for name in cfg.method.ft.networks}
    return instantiate(cfg.method.ft.learner, **networks, **OmegaConf.to_container(cfg.finetune, resolve=True))


def noise(count: int, size: int) -> Frames:
    """Frames of the right shapes."""
    images, landmarks = (torch.rand(count, 3, size, size) * 2 - 1 for _ in range(2))
    return Frames(images, landmarks, torch.rand(count, 68, 2) * size)


def measure(tuner: FineTuner, shots: Frames) -> tuple[float, float]:
    """Seconds to learn a person, and of them the steps."""
    step, seconds = tuner.step, []

    def timed_step(*args):
        began = time.perf_counter()
        losses = step(*args)
        seconds.append(time.perf_counter() - began)
        return losses

    tuner.step = timed_step  # type: ignore[method-assign]
    began = time.perf_counter()
    tuner.learn(shots)
    total = time.perf_counter() - began
    tuner.step = step  # type: ignore[method-assign]
    return total, sum(seconds)


def main() -> None:
    """Parse and print one line per T."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="fsth_64")
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    tuner = build(args.model, args.epochs)
    size = tuner.generator.preset.image_size
    bf16 = best_precision("cpu") == "bf16-mixed"
    for shots in args.shots:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            total, steps = measure(tuner, noise(shots, size))
        print(f"{args.model}, T={shots}: {total:.1f} s, {total / steps:.2f} x its steps ({args.epochs} epochs)")


if __name__ == "__main__":
    main()
