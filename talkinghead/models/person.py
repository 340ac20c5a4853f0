"""A person on disk: G' with spectral norm folded, one safetensors file and one json file beside it.

`load_person` needs this package's models and safetensors, nothing else: no E, no P, no D, no Lightning, no Hydra.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load, save

from talkinghead.atomic import write_atomic
from talkinghead.models.fsth import PersonalGenerator, Preset

FORMAT = "talkinghead person 1"


class PersonModel(NamedTuple):
    """A person ready to be driven: G', and what was stored about it (crop, landmark style, checkpoint, commit, ...)."""

    generator: PersonalGenerator
    about: dict[str, Any]


def save_person(
    path: str | Path, generator: PersonalGenerator, about: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> Path:
    """Write `<path>.safetensors` and `<path>.json`; each appears whole or not at all, the json last.

    about   plain values; by convention: config, commit, checkpoint (sha256 of the parent), crop, landmarks
    dtype   of the stored weights: bfloat16 halves the file
    """
    weights_file, json_file = files(path)
    folded = generator.fold()
    state = {name: value.to(dtype).contiguous().cpu() for name, value in folded.state_dict().items()}
    content = save(state)
    card = {
        "format": FORMAT, "preset": folded.preset._asdict(), "sha256": hashlib.sha256(content).hexdigest(), **about,
    }  # fmt: skip
    text = json.dumps(card, indent=2).encode()
    write_atomic(weights_file, content)
    write_atomic(json_file, text)
    return weights_file


def load_person(path: str | Path, dtype: torch.dtype = torch.float32) -> PersonModel:
    """Read a person model, by the name of either file or of both without suffix; bfloat16 for speed.

    Raises FileNotFoundError, or ValueError when the two files are not of one person.
    """
    weights_file, json_file = files(path)
    for file in (weights_file, json_file):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: a person model is two files, {weights_file.name} and {json_file.name}")
    card, content = json.loads(json_file.read_text()), weights_file.read_bytes()
    if card.get("format") != FORMAT:
        raise ValueError(f"{json_file} is of format {card.get('format')!r}, not {FORMAT!r}: not a person model of mine")
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise ValueError(f"{weights_file} does not belong to {json_file.name} (sha256 differs): write the person again")
    generator = PersonalGenerator.of(Preset(**card["preset"]))
    generator.load_state_dict({name: value.to(dtype) for name, value in load(content).items()}, assign=True)
    return PersonModel(generator.fold(), {key: value for key, value in card.items() if key not in ("format", "sha256")})


def files(path: str | Path) -> tuple[Path, Path]:
    """Where the weights and the card of a person lie."""
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    return stem.parent / f"{stem.name}.safetensors", stem.parent / f"{stem.name}.json"
