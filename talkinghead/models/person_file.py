"""A person on disk: G' with spectral norm folded, one safetensors file and one json file beside it.

`load_person` needs only `talkinghead.models` and safetensors: no E, P or D, no Lightning, no Hydra.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from talkinghead.models import fsth, warp_guided
from talkinghead.models.fsth import PersonalGenerator
from talkinghead.models.trusted import plain_numbers
from talkinghead.models.warp_guided import PersonalWarpGuidedGenerator
from talkinghead.storage import write_atomic

FORMAT = "talkinghead person 1"
KINDS = {"fsth": fsth.Preset, "warp_guided": warp_guided.Preset}  # files without a kind are of the first
AnyGenerator = PersonalGenerator | PersonalWarpGuidedGenerator


class PersonModel(NamedTuple):
    """A person ready to be driven: G', and its description (crop, landmark style, checkpoint, commit, …)."""

    generator: AnyGenerator
    about: dict[str, Any]


def save_person(
    path: str | Path, generator: AnyGenerator, about: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> Path:
    """Write `<path>.safetensors`, then `<path>.json`, each atomically.

    Args:
        about: plain values; by convention: config, commit, checkpoint (sha256 of the parent), crop, landmarks
        dtype: of the stored weights; bfloat16 halves the file
    """
    weights_file, json_file = files(path)
    folded = generator.fold()
    state = {name: value.to(dtype).contiguous().cpu() for name, value in folded.state_dict().items()}
    content = save(state)
    card = {
        "format": FORMAT, "kind": "fsth" if isinstance(folded, PersonalGenerator) else "warp_guided",
        "preset": folded.preset._asdict(), "sha256": hashlib.sha256(content).hexdigest(), **about,
    }  # fmt: skip
    text = json.dumps(card, indent=2).encode()
    write_atomic(weights_file, content)
    write_atomic(json_file, text)
    return weights_file


def load_person(path: str | Path, dtype: torch.dtype = torch.float32) -> PersonModel:
    """Read a person model by the name of either file, or without suffix; `dtype=torch.bfloat16` is faster.

    Raises:
        FileNotFoundError: where a file is missing.
        ValueError: where the two files do not belong together.
    """
    weights_file, json_file = files(path)
    for file in (weights_file, json_file):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: a person model is two files, {weights_file.name} and {json_file.name}")
    try:
        card, content = json.loads(json_file.read_text()), weights_file.read_bytes()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{json_file} is not a person model: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        card = card if isinstance(card, dict) else {}
        raise ValueError(f"{json_file} is of format {card.get('format')!r}, not {FORMAT!r}: not a person model of mine")
    if hashlib.sha256(content).hexdigest() != card.get("sha256"):
        raise ValueError(f"{weights_file} does not belong to {json_file.name} (sha256 differs): write the person again")
    try:
        generator = built(card.get("kind", "fsth"), card.get("preset"), load(content), dtype)
    except (SafetensorError, RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"{json_file} does not describe {weights_file.name} ({reason}): write the person again"
        ) from None
    check_about(card, json_file)
    about = {key: value for key, value in card.items() if key not in ("format", "kind", "sha256")}
    return PersonModel(generator.fold(), about)


def check_about(card: Mapping[str, Any], where: Path) -> None:
    """Raise ValueError where the crop is not two numbers, or the source points are not 68 finite pairs."""
    crop, points = card.get("crop"), card.get("source_points")
    if crop is not None and not (
        isinstance(crop, dict) and crop.keys() <= {"margin", "down"} and all(map(is_number, crop.values()))
    ):
        raise ValueError(f"{where}: crop is not `margin` and `down`, two numbers: write the person again")
    if points is not None and not (
        isinstance(points, list) and len(points) == 68
        and all(isinstance(p, list) and len(p) == 2 and all(map(is_number, p)) for p in points)
    ):  # fmt: skip
        raise ValueError(f"{where}: source_points are not 68 points of two numbers: write the person again")


def is_number(value: Any) -> bool:
    """Whether a value from the file is a finite number of a size that pixels can have."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e5  # NaN is not


def built(kind: str, preset: Any, state: Mapping[str, Tensor], dtype: torch.dtype) -> AnyGenerator:
    """Build a generator and load its weights; ValueError, TypeError, KeyError or RuntimeError if they do not fit."""
    sizes = KINDS[kind](**plain_numbers(preset, "preset"))
    levels = len(sizes.down_channels if isinstance(sizes, fsth.Preset) else sizes.channels)
    if type(sizes.image_size) is not int or sizes.image_size < 1 or sizes.image_size % 2**levels:
        raise ValueError(f"preset.image_size is {sizes.image_size}, of {levels} levels")
    for name, value in state.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise ValueError(f"{name} is {value.dtype}" if not value.is_floating_point() else f"{name} is not finite")
        if name in ("shots", "points") and not len(value):
            raise ValueError(f"{name} is empty")
        if name == "shots" and value.shape[1:] != (3, sizes.image_size, sizes.image_size):
            raise ValueError(f"shots are of size {[*value.shape[1:]]}, preset.image_size is {sizes.image_size}")
    generator: AnyGenerator
    if isinstance(sizes, fsth.Preset):
        generator = PersonalGenerator.of(sizes)
    else:
        generator = PersonalWarpGuidedGenerator(len(state["shots"]), **sizes._asdict())
    generator.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
    return generator


def files(path: str | Path) -> tuple[Path, Path]:
    """Paths of the weights and of the description of a person."""
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    return stem.parent / f"{stem.name}.safetensors", stem.parent / f"{stem.name}.json"
