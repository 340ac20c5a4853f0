"""Memory of a meta-learning step by calculation: weights, gradients, Adam, and what each part keeps for backward.

python benchmarks/memory.py --batch 8 --shots 8                  # no GPU: only shapes are computed (FakeTensorMode)
python benchmarks/memory.py --networks warp_256 --videos 145569  # a preset of conf/model, with a row of W per video
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("benchmarks/memory.py")

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from step import build, random_episode
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from talkinghead.learners.meta import MetaLearner
from talkinghead.types import Episode

GIB = 2**30
CONF = Path(__file__).parents[1] / "conf"
PAPERS = ("fsth", "warp_guided")  # a generator with the paper's E and D, as benchmarks/step.py times them
MODE = FakeTensorMode()  # one for all: the guide keeps its table of head points


class Attention(torch.autograd.Function):
    """Attention as a GPU's fused kernel keeps it: query, key, value and result, not the matrix of weights."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = value.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, result)
        return result


def fused(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
    """In place of `scaled_dot_product_attention`, which autocast casts."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    return Attention.apply(query.to(dtype), key.to(dtype), value.to(dtype))


def faked(module: nn.Module) -> None:
    """Give a module parameters and buffers that have shapes and no numbers; `Module.to` cannot swap fakes in."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = nn.Parameter(MODE.from_tensor(value.detach()), value.requires_grad)
        part._buffers = {name: None if one is None else MODE.from_tensor(one) for name, one in part._buffers.items()}


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes."""
    return sum(one.numel() * one.element_size() for one in tensors)


def kept_by(part: Callable[[], Any], known: Iterable[Tensor]) -> int:
    """Bytes that the forward pass of a part keeps for backward, without those of `known` tensors."""
    kept: dict[int, torch.UntypedStorage] = {}  # the storages themselves, else a freed one's place is taken again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = part()
    for one in known:
        kept.pop(one.untyped_storage()._cdata, None)
    del result
    return sum(storage.nbytes() for storage in kept.values())


def activations(learner: MetaLearner, episode: Episode, bf16: bool) -> dict[str, int]:
    """Bytes that each part keeps."""
    x, y, i = episode.target, episode.target_landmarks, episode.video_index
    discriminator = learner.discriminator
    known = [*learner.parameters(), *learner.buffers(), *learner.content.parameters(), *vars_of(episode)]

    def kept(part: Callable[[], Any], frozen: nn.Module | None = None, *more: Tensor) -> int:
        if frozen is not None:
            frozen.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = kept_by(part, [*known, *more])
        if frozen is not None:
            frozen.requires_grad_(True)
        return found

    e_hat = learner.embed(episode)[1].detach().requires_grad_()
    shown = learner.generator.condition(episode)
    x_hat = torch.zeros_like(x).requires_grad_()
    return {
        "E": kept(lambda: learner.embed(episode)),
        "G": kept(lambda: learner.generator(shown, e_hat), None, e_hat),  # with its input, which lives as long
        "D, its own update": kept(lambda: discriminator.compare(x, x_hat.detach(), y, i)),
        "D, for E and G": kept(lambda: discriminator(x_hat, y, i), discriminator, x_hat),
        "L_CNT": kept(lambda: learner.content(x, x_hat), None, x_hat),
    }


def vars_of(episode: Episode) -> list[Tensor]:
    """The tensors of an episode."""
    return [field for field in episode if isinstance(field, Tensor)]


def networks(args: argparse.Namespace) -> MetaLearner:
    """The learner with the paper's E and D, or with the networks of a preset."""
    learner = build(args)
    if args.networks not in PAPERS:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            model = compose("config", [f"model={args.networks}", f"num_videos={args.videos}"]).model
        for name in ("embedder", "generator", "discriminator"):
            setattr(learner, name, instantiate(model[name]))
    return learner.train()


def calculate(args: argparse.Namespace, bf16: bool) -> dict[str, float]:
    """The rows of the table for these networks and one precision: millions of parameters, then GiB."""
    learner = networks(args)
    faked(learner)
    faked(learner.content)
    with MODE:
        episode = random_episode(args)
        parts = activations(learner, episode, bf16)
        rows = size_of([learner.discriminator.W.weight])
        weights = {
            "E": size_of(learner.embedder.parameters()), "G": size_of(learner.generator.parameters()),
            "D": size_of(learner.discriminator.parameters()) - rows,
        }  # fmt: skip
        other = size_of(learner.content.parameters()) + size_of(vars_of(episode))
    trained = sum(weights.values())
    fixed = 4 * trained + 3 * rows + other
    always = fixed + parts["E"] + parts["G"]  # one pass of E and G serves all updates
    sizes = {
        "weights of E, G, D": trained, "their gradients": trained, "Adam: two means of each": 2 * trained,
        "W and its two means": 3 * rows, "networks of L_CNT, batch": other,
        **{f"kept for backward by {name}": size for name, size in parts.items()},
        "sum in D's update": always + parts["D, its own update"],
        "sum in the update of E and G": always + parts["D, for E and G"] + parts["L_CNT"],
    }  # fmt: skip
    counts = {f"parameters of {name}, M": size / 4e6 for name, size in weights.items()}
    return counts | {name: size / GIB for name, size in sizes.items()}


def main() -> None:
    """Parse, calculate, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--videos", type=int, default=1000, help="rows of W; VoxCeleb2: 145569")
    parser.add_argument("--networks", nargs="+", default=PAPERS, help=f"{', '.join(PAPERS)}, or presets of conf/model")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    chosen = parser.parse_args()
    functional.scaled_dot_product_attention = fused  # type: ignore[assignment]
    rest = {"compile": False, "discriminator_steps": 2, "accumulate": 1, "checkpoint_embedder": False}
    columns = {}
    for name in chosen.networks:
        generator = name if name in PAPERS else PAPERS[0]
        args = argparse.Namespace(**{**vars(chosen), **rest, "networks": name, "generator": generator})
        columns |= {f"{name}, {precision}": calculate(args, precision == "bf16") for precision in chosen.precision}
    print(f"| GiB at {chosen.size} px, batch {chosen.batch}, K = {chosen.shots} | {' | '.join(columns)} |")
    print("|---" * (1 + len(columns)) + "|")
    for row in next(iter(columns.values())):
        digits = 1 if row.startswith("parameters") else 2
        print(f"| {row} | {' | '.join(f'{column[row]:.{digits}f}' for column in columns.values())} |")


if __name__ == "__main__":
    main()
