"""Error messages in words that a visitor of the page understands."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from talkinghead.storage import in_one_line
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
    (
        r"there is no such (file|picture|video)|No such file",
        "{name} is not here any more: files are kept for a limited time. Drop it once more.",
    ),
    (
        r"may show another person than",
        "{name} may show another person than the other portraits. If so, leave it out: they are blended into one.",
    ),
    (
        r"not checked whether all pictures show one person",
        "It was not checked whether all portraits show one person. Pictures of different people are blended into one.",
    ),
    (r"shows another person than", "{name} shows another person than the other portraits. Use pictures of one person."),
    (
        r"not finite|fine-tuning failed",
        "The learning has failed with these portraits. Try fewer steps, or other pictures of the person.",
    ),
    (r"the disk is full|No space left", "The disk of the computer that runs this studio is full. Try again later."),
    (r"the picture is damaged|pixels of kind", "{name} is damaged, or of an unusual kind. Save it again as JPEG."),
    (r"the file is empty", "{name} is empty."),
    (r"animated picture", "{name} is an animated picture of a kind that is not read. Save it as MP4 or GIF."),
    (r"HEIC", "{name} is a HEIC picture. Telephones can save pictures as JPEG."),
    (r"the picture has (\S+) million pixels", "{name} has {0} million pixels. Make it smaller."),
    (r"cannot be read as a picture", "{name} cannot be read as a picture. It may be damaged; save it again as JPEG."),
    (r"cannot be read as a video", "{name} cannot be read as a video. It may be damaged; save it again as MP4."),
    (r"only (\d+) of (\d+) frames are in", "Only {0} of {1} frames are in {name}. Was it half downloaded?"),
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
    """One or two sentences about an error. An unforeseen one is logged with its traceback.

    Args:
        names: the visitor's name of each file that the error may mention
    """
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        _logger.warning("out of memory", exc_info=error)
        return OUT_OF_MEMORY
    sentence = translate(in_one_line(error), names)
    if sentence is None:
        _logger.error("unexpected", exc_info=error)
        return UNEXPECTED
    return sentence


def translate(text: str, names: Mapping[Path, str]) -> str | None:
    """The sentence for a line of the pipeline, in which files have the visitor's names; None if there is none."""
    name = next((known for path, known in names.items() if str(path) in text), "the file")
    for pattern, sentence in SENTENCES:
        if found := re.search(pattern, text):
            told = sentence.format(*(group or "" for group in found.groups()), name=name)
            return told.replace("the file", "The file", 1) if told.startswith("the file") else told
    return None
