"""Learning and drawing at the paper's size, with random weights and noise for frames: rows of results.csv.

python experiments/timing/measure.py --methods FF FT x2face pix2pixhd --shots 1 8 32
Every epoch of learning takes as long as any other, so two are timed: t(1) + (epochs - 1) * (t(2) - t(1)).
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/timing/measure.py")

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from talkinghead.evaluation.results import ResultKey, Results
from talkinghead.learners.checkpoints import git_commit
from talkinghead.learners.finetune import FeedForward, FineTuner
from talkinghead.losses import ContentLoss
from talkinghead.models.backbones import VGG, VGG16_BLOCKS, VGG16_LAYERS, VGG19_BLOCKS, VGG19_LAYERS
from talkinghead.precision import best_precision
from talkinghead.types import FewShotMethod, Frames

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NAMES = {"FF": ("ours", "FF"), "FT": ("ours", "FT"), "x2face": ("x2face", "-"), "pix2pixhd": ("pix2pixhd", "-")}


def configure(name: str, overrides: list[str]) -> DictConfig:
    """What a root verb would compose."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, [*overrides, "num_videos=1"])


def build_ours(variant: str, epochs: int) -> FewShotMethod:
    """E, G and D at 256 px; the VGGs of L_CNT have random weights, which cost the same."""
    cfg = configure("evaluate", ["model=fsth_256", "loss=v2"])
    parts = {name: instantiate(cfg.model[name]) for name in ("embedder", "generator", "discriminator")}
    if variant == "FF":
        return FeedForward(parts["embedder"], parts["generator"])
    vggs = {
        "vgg19": VGG(VGG19_BLOCKS, VGG19_LAYERS, "torchvision"),
        "vggface": VGG(VGG16_BLOCKS, VGG16_LAYERS, "torchvision"),
    }
    content = ContentLoss({name: vgg.freeze() for name, vgg in vggs.items()}, dict.fromkeys(vggs, 1.0))
    given = ("epochs", *parts, "content", "weights", "_target_")
    numbers: dict[str, Any] = {str(name): value for name, value in cfg.learner.items() if name not in given}
    return FineTuner(**parts, content=content, weights=dict(cfg.loss.weights), epochs=epochs, **numbers)


def build_baseline(name: str, epochs: int) -> FewShotMethod:
    """The published size of X2Face or Pix2pixHD."""
    cfg = configure("config", [f"experiment={name}_voxceleb"])
    if name == "x2face":
        return instantiate(cfg.learner, metrics=None)
    vgg = ContentLoss({"vgg19": VGG(VGG19_BLOCKS, VGG19_LAYERS, "torchvision").freeze()}, {"vgg19": 1.0})
    return instantiate(cfg.learner, metrics=None, content=vgg, finetune_epochs=epochs)


def build(label: str, epochs: int) -> FewShotMethod:
    """A method with random weights that learns for so many epochs."""
    torch.manual_seed(0)
    return build_ours(label, epochs) if label in ("FF", "FT") else build_baseline(label, epochs)


def noise(count: int, size: int = 256) -> Frames:
    """Frames of the right shapes."""
    images, landmarks = (torch.rand(count, 3, size, size) * 2 - 1 for _ in range(2))
    return Frames(images, landmarks, torch.rand(count, 68, 2) * size)


def seconds(call: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and how long it took."""
    began = time.perf_counter()
    value = call()
    return value, time.perf_counter() - began


def measure(label: str, shots: int, num_frames: int, epochs: int) -> dict[str, float]:
    """Seconds to learn from T frames, milliseconds to draw one."""
    frames, driving = noise(shots), noise(num_frames)
    methods = [build(label, number) for number in (1, 2)]
    with torch.autocast("cpu", torch.bfloat16, enabled=best_precision("cpu") == "bf16-mixed", cache_enabled=False):
        methods[0].learn(noise(1))  # warm up
        times = [seconds(lambda method=method: method.learn(frames)) for method in methods]
        reenact, one = times[0]
        reenact(noise(1))
        learning_s = one if label in ("FF", "x2face") else one + (epochs - 1) * (times[1][1] - one)
        return {"learning_s": learning_s, "ms_per_frame": 1000 * seconds(lambda: reenact(driving))[1] / num_frames}


def main() -> None:
    """Parse, measure, add rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--frames", type=int, default=8, help="to draw")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    args = parser.parse_args()
    results = Results(args.results)
    for label in args.methods:
        for shots in args.shots:
            values = measure(label, shots, args.frames, args.epochs)
            key = ResultKey("random/256", *NAMES[label], shots, "noise", config=f"{torch.get_num_threads()} threads")
            results.add(key, {"num_targets": args.frames, **values, "commit": git_commit(ROOT)})
            print(label, shots, {name: round(value, 1) for name, value in values.items()}, flush=True)


if __name__ == "__main__":
    main()
