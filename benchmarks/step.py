"""One meta-learning step: seconds, peak memory, and the share of each part. `python benchmarks/step.py --help`."""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("benchmarks/step.py")

import argparse
import itertools
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import pytorch_lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from talkinghead.learners.meta import MetaLearner
from talkinghead.losses import ContentLoss
from talkinghead.models.backbones import VGG, VGG16_BLOCKS, VGG16_LAYERS, VGG19_BLOCKS, VGG19_LAYERS
from talkinghead.models.fsth import Discriminator, Embedder, Generator
from talkinghead.models.memory_format import lay_out
from talkinghead.models.warp_guided import WarpGuidedGenerator
from talkinghead.types import Episode

LAYOUTS = (torch.channels_last, torch.contiguous_format)
PRESETS = {
    256: ((64, 128, 256, 512, 512, 512), (64, 128, 256, 512), (512, 256, 128, 64), 32, 64),
    128: ((64, 128, 256, 512, 512), (64, 128, 256), (256, 128, 64), 32, 64),
    64: ((32, 64, 128, 256), (32, 64, 192), (192, 96, 32), None, None),
}


def build(args: argparse.Namespace) -> MetaLearner:
    """The learner at one preset; the VGGs have random weights, which cost the same."""
    channels, down, up, attention, attention_up = PRESETS[args.size]
    vggs = {
        "vgg19": VGG(VGG19_BLOCKS, VGG19_LAYERS, "torchvision"),
        "vggface": VGG(VGG16_BLOCKS, VGG16_LAYERS, "torchvision"),
    }
    if args.generator == "warp_guided":
        generator: Generator | WarpGuidedGenerator = WarpGuidedGenerator(args.size, channels[-1])
    else:
        generator = Generator(args.size, channels[-1], down, 4, up, attention, attention_up)
    learner = MetaLearner(
        Embedder(args.size, channels, attention),
        generator,
        Discriminator(args.videos, args.size, channels, attention),
        ContentLoss(vggs, dict.fromkeys(vggs, 1.0)),
        {"cnt": 1, "adv": 1, "fm": 10, "mch": 10},
        num_discriminator_steps=args.discriminator_steps,
        accumulate=args.accumulate,
        checkpoint_embedder=args.checkpoint_embedder,
    )
    if args.compile:
        for network in (learner.embedder, learner.generator, learner.discriminator.V, learner.content):
            network.compile()
    return learner


def random_episode(args: argparse.Namespace) -> Episode:
    """Noise of the right shapes, channels last."""
    b, k, s = args.batch, args.shots, args.size
    shots, shots_landmarks = (torch.rand(b, k, 3, s, s) * 2 - 1 for _ in range(2))
    target, landmarks = ((torch.rand(b, 3, s, s) * 2 - 1).to(memory_format=torch.channels_last) for _ in range(2))
    index = torch.arange(b) % args.videos
    points = s * (0.25 + 0.5 * torch.rand(68, 2)) + torch.randn(b, k, 68, 2)
    return Episode(shots, shots_landmarks, target, landmarks, points, points[:, 0], index, ["noise"] * b)


class StepTimer(L.Callback):
    """Seconds of every training step, by a clock; with layouts, the networks lie in them in turn, a step each."""

    def __init__(self, clock: Callable[[], float], layouts: Sequence[torch.memory_format] = ()) -> None:
        self.seconds: list[float] = []
        self.clock, self.layouts = clock, layouts

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if self.layouts:
            layout = self.layouts[len(self.seconds) % len(self.layouts)]
            lay_out(pl_module, layout)
            lay_out(pl_module.content, layout)  # type: ignore[arg-type]
        synchronize()
        self.start = self.clock()

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        synchronize()
        self.seconds.append(self.clock() - self.start)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bring(learner: MetaLearner, device: torch.device) -> MetaLearner:
    """The learner with its content networks on a device: Lightning moves the learner alone, back to the CPU."""
    learner.content.to(device)
    return learner.to(device).train()


def time_parts(learner: MetaLearner, episode: Episode, precision: str) -> dict[str, float]:
    """Median seconds of each part of a step on its own, forward and backward."""
    episode = Episode(*(f.to(learner.device) if isinstance(f, Tensor) else f for f in episode))
    x, y, i = episode.target, episode.target_landmarks, episode.video_index
    e_hat, shown = learner.embed(episode)[1].detach().requires_grad_(), learner.generator.condition(episode)
    x_hat = learner.generator(shown, e_hat).detach().requires_grad_()
    d_steps = learner.num_discriminator_steps
    discriminator = learner.discriminator

    def embed() -> Tensor:
        return learner.embed(episode)[1].sum()

    def discriminate() -> Tensor:
        return discriminator(x, y, i).score.sum() + discriminator(x_hat.detach(), y, i).score.sum()

    def judge() -> Tensor:
        with torch.no_grad():
            discriminator(x, y, i)
        return discriminator(x_hat, y, i).score.sum()

    parts: dict[str, tuple[float, Callable[[], Tensor], bool]] = {
        "E, forward and backward": (1, embed, True),
        "G, forward and backward": (1, lambda: learner.generator(shown, e_hat).sum(), True),
        f"D's {d_steps} updates": (d_steps, discriminate, True),
        "D for E and G (L_ADV)": (1, judge, False),
        "content loss": (1, lambda: learner.content(x, x_hat), True),
    }
    return {name: times * median_seconds(part, precision, learner, own) for name, (times, part, own) in parts.items()}


def median_seconds(part: Callable[[], Tensor], precision: str, learner: MetaLearner, own_gradients: bool) -> float:
    """Median of three after a warm-up."""
    learner.discriminator.requires_grad_(own_gradients)
    seconds = []
    for _ in range(4):
        synchronize()
        start = time.perf_counter()
        with torch.autocast(learner.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = part()
        loss.backward()
        synchronize()
        seconds.append(time.perf_counter() - start)
    learner.discriminator.requires_grad_(True)
    return statistics.median(seconds[1:])


def step_timer(args: argparse.Namespace) -> StepTimer:
    """As the arguments say."""
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    return StepTimer(clock, LAYOUTS if args.layouts else ())


def print_layouts(seconds: Sequence[float]) -> None:
    """Median seconds of each layout, their ratio, and what the project takes here."""
    last, contiguous = (statistics.median(seconds[2 + n :: 2]) for n in range(2))
    print(f"  channels last {last:.3f} s/step, contiguous {contiguous:.3f}, ratio {last / contiguous:.2f}")


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256, choices=sorted(PRESETS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--videos", type=int, default=1000, help="rows of W")
    parser.add_argument("--discriminator-steps", type=int, default=2)
    parser.add_argument("--precision", default="bf16-mixed", choices=["bf16-mixed", "32-true"])
    parser.add_argument("--generator", default="fsth", choices=["fsth", "warp_guided"])
    parser.add_argument("--accumulate", type=int, default=1, help="parts that the batch passes in")
    parser.add_argument("--checkpoint-embedder", action="store_true", help="E's activations are computed again")
    parser.add_argument("--compile", action="store_true", help="torch.compile of E, G, V and the content networks")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: of this process, all threads")
    parser.add_argument("--layouts", action="store_true", help="channels last and contiguous in turn, side by side")
    parser.add_argument("--no-parts", action="store_true", help="do not time the parts")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    L.seed_everything(0, verbose=False)
    learner, episode, timer = build(args), random_episode(args), step_timer(args)
    trainer = L.Trainer(
        max_steps=args.steps, precision=args.precision, callbacks=[timer], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(learner, DataLoader(list(itertools.repeat(episode, args.steps)), batch_size=None))
    warm = timer.seconds[2:] or timer.seconds
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.generator}, {args.size} px, batch {args.batch}, K = {args.shots}, {args.videos} videos, ", end="")
    print(f"{args.precision}, {'compiled' if args.compile else 'eager'}, {device}")
    print(f"  median {statistics.median(warm):.3f} s/step, min {min(warm):.3f}, max {max(warm):.3f}, ", end="")
    print(f"{len(warm)} steps; the first took {timer.seconds[0]:.1f} s")
    if args.layouts:
        print_layouts(timer.seconds)
        return
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB resident", end="")
    print(f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU" if torch.cuda.is_available() else "")
    if not args.no_parts:
        parts = time_parts(bring(learner, trainer.strategy.root_device), episode, args.precision)
        for name, seconds in parts.items():
            print(f"  {seconds / sum(parts.values()):6.1%}  {seconds:7.3f} s  {name}")


if __name__ == "__main__":
    main()
