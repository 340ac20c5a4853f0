"""What went wrong, in words that a visitor of the page understands."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from talkinghead.studio.uploads import Refused

_logger = logging.getLogger(__name__)

SENTENCES = (  # what the pipeline says -> what the page says; {name} is the visitor's file
    (
        r"no face found",
        "No face was found in {name}. Use one in which a single face looks into the camera, at head and shoulders.",
    ),
    (r"faces? found, face=", "There are fewer faces in {name} than you asked for."),
    (
        r"the face is (\d+) pixels wide, at least (\d+)",
        "The face in {name} is too small: {0} pixels wide, {1} are needed. Cut it closer, or take a larger one.",
    ),
    (r"its landmarks are not", "The face in {name} is too blurred, or too far turned away, to be followed."),
    (r"cannot be read as a picture", "{name} cannot be read as a picture. It may be damaged; save it again as JPEG."),
    (r"cannot be read as a video", "{name} cannot be read as a video. It may be damaged; save it again as MP4."),
    (r"the video has no frames", "{name} is a video without pictures."),
    (
        r"the face was not seen in (\d+) of (\d+)",
        "The driver's face was not seen in {0} of {1} frames; the motion in between is a guess.",
    ),
)  # fmt: skip
UNEXPECTED = (
    "Something went wrong that should not have. It is not your fault, and nothing was kept. "
    "Whoever runs this studio finds the details in the terminal."
)
OUT_OF_MEMORY = "The computer has run out of memory. Try a shorter or smaller video, or fewer pictures."


def explain(error: BaseException, names: Mapping[Path, str]) -> str:
    """One or two sentences. What was not foreseen is logged with all details, and told as that.

    Args:
        names: the visitor's names of the files in the error's text
    """
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        _logger.warning("out of memory", exc_info=error)
        return OUT_OF_MEMORY
    sentence = translate(str(error), names)
    if sentence is None:
        _logger.error("unexpected", exc_info=error)
        return UNEXPECTED
    return sentence


def translate(text: str, names: Mapping[Path, str]) -> str | None:
    """A line of the pipeline for visitors; None where there is no sentence for it."""
    name = next((known for path, known in names.items() if str(path) in text), "the file")
    for pattern, sentence in SENTENCES:
        if found := re.search(pattern, text):
            told = sentence.format(*found.groups(), name=name)
            return told[0].upper() + told[1:]
    return None
