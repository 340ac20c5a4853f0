"""A checkpoint made small enough to ship: the networks alone, averaged, in half precision.

`python -m talkinghead.learners.export RUN/checkpoints/last.ckpt SMALL.ckpt`
animate.py and evaluate.py take the file as they take any checkpoint: E, G, D and the config that builds them. Left out
are optimizers, random states, the data section of the config, and W, of which one row stays: it has the mean norm of
all rows, to which fine-tuning scales the embedding.
"""

from talkinghead.processes import interruptible, program

if __name__ == "__main__":  # before the imports that take seconds
    program("talkinghead.learners.export")

import argparse
import copy
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from talkinghead.models.trusted import inside, read_checkpoint, section_of, trusted, weights_of
from talkinghead.storage import in_one_line, write_atomic

NETWORKS = ("embedder", "generator", "discriminator")
W = "discriminator.W.weight"
PARTS = {"state_dict", "config"}  # of a small checkpoint, and nothing else


def shrink(path: Path, target: Path, loss: Mapping[str, Any] | None = None) -> int:
    """Write the small checkpoint; returns its bytes.

    Args:
        loss: section `loss` of its config, for those who fine-tune with it; None: that of `path`

    Raises:
        FileNotFoundError: where there is no `path`.
        ValueError: where `path` is not a checkpoint, or `target` exists and is not a small one.
    """
    if target.exists() and path.exists() and target.samefile(path):
        raise ValueError(f"{target} is the checkpoint itself, with all that training needs to go on: give another name")
    keep_others(target)
    checkpoint, config = read_checkpoint(path), inside(str(path))
    config = config if loss is None else {**config, "loss": loss}
    missing = [name for name in NETWORKS if name not in config["model"]]
    if missing:
        raise ValueError(f"{path} is no checkpoint of ours: its model has no {', '.join(missing)}")
    for name in ("model", "loss"):
        section_of(str(path), name)  # what would not be loaded is not passed on
    if loss is not None:
        trusted(loss, "loss")
    weights = weights_of(checkpoint, str(path))
    state = {name: half(name, value) for name, value in weights.items() if name.split(".")[0] in NETWORKS}
    content = io.BytesIO()
    torch.save({"state_dict": state, "config": without_videos(config)}, content)
    write_atomic(target, content.getvalue())
    return len(content.getvalue())


def keep_others(target: Path) -> None:
    """Raises ValueError where anything but a small checkpoint would be overwritten."""
    if target.is_dir():
        raise ValueError(f"{target} is a folder: give the file another name")
    if not target.exists():
        return
    try:
        found = read_checkpoint(target, mmap=True).keys()
    except (ValueError, OSError):
        raise ValueError(f"{target} is there and was not made by this command: give another name") from None
    if found != PARTS:
        raise ValueError(f"{target} is there and is a checkpoint that training can go on with: give another name")


def half(name: str, value: torch.Tensor) -> torch.Tensor:
    """Floating point values in half precision; W as one row of the mean norm."""
    if name == W:
        value = torch.full_like(value[:1], float(value.norm(dim=1).mean()) / value.shape[1] ** 0.5)
    return value.half().clone() if value.is_floating_point() else value.clone()


def without_videos(config: dict[str, Any]) -> dict[str, Any]:
    """The sections that build networks and loss, without the data and the folders of this machine."""
    model = copy.deepcopy(config["model"])
    model["discriminator"]["num_videos"] = 1
    return {"model": model, "loss": anywhere(config["loss"]), "git_commit": config.get("git_commit", "unknown")}


def anywhere(section: Any) -> Any:
    """A section of the config in which pretrained networks are looked for in the usual places."""
    if isinstance(section, dict):
        return {key: None if key == "path" else anywhere(value) for key, value in section.items()}
    return section


def main(arguments: list[str]) -> None:
    """Read two paths from the command line, and write the small checkpoint."""
    parser = argparse.ArgumentParser(
        prog="python -m talkinghead.learners.export", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("checkpoint", type=Path, help="RUN/checkpoints/last.ckpt of train.py")
    parser.add_argument("small", type=Path, help="the file to write")
    given = parser.parse_args(arguments)
    try:
        size = shrink(given.checkpoint, given.small)
    except (ValueError, OSError) as error:
        sys.exit(f"portable: {in_one_line(error)}")
    print(f"{given.small}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    with interruptible("talkinghead.learners.export"):
        main(sys.argv[1:])
