"""Making a study from an evaluation: `python -m talkinghead.study.build OUTPUT_OF_EVALUATE STUDY`."""

from talkinghead.processes import interruptible, program

if __name__ == "__main__":  # before the imports that take seconds
    program("talkinghead.study.build")

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from random import Random

import cv2
import numpy as np
from jaxtyping import UInt8

from talkinghead.evaluation.outputs import FrameStore, load_strip
from talkinghead.evaluation.results import ALL_CLIPS, ResultKey, Results
from talkinghead.pixels import as_pictures
from talkinghead.provenance.marking import OriginStatement, marked
from talkinghead.storage import Row, in_one_line
from talkinghead.study.study import ANSWERS_FILE, Study, Triplet, name_of, save_study
from talkinghead.study.user_score import condition_of, key_of

COPIES = ("nearest", "warped", "mean")  # methods that hand out real frames: there is no fake to find
SHOWN = 256  # pixels
QUALITY = 95  # JPEG, without chroma subsampling


def make_study(
    evaluation: Path, folder: Path, methods: Sequence[str] | None = None, shots: Sequence[int] | None = None,
    data: str | None = None, per_condition: int | None = None, seed: int = 0, videos: bool = False,
) -> Study:  # fmt: skip
    """Make a study from the output of evaluate.py with `keep_frames=true`, balanced over methods, T and position.

    Args:
        evaluation: output folder of evaluate.py, with results.csv and frames/
        folder: the study, which is created
        methods: `ours/FF`, `ours/FT`, `x2face` …; None: all but those that copy frames
        shots: T; None: all
        data: data set and split, as in the rows; None: there is only one
        per_condition: triplets of each method and T; None: one per clip
        videos: take the real frames from two other clips of the same person, whose name is the part of the column
            `clip` before the first `_`; False: all three frames are from one clip

    Raises:
        ValueError: there are no such outputs, they are of several settings, or the folder already has answers.
    """
    if (folder / ANSWERS_FILE).exists():
        raise ValueError(f"{folder} has answers already: make another study in another folder")
    kept = FrameStore(evaluation / "frames")
    conditions = find_conditions(Results(evaluation / "results.csv").rows(), kept, methods, shots, data)
    if not conditions:
        raise ValueError(
            f"{evaluation}: no outputs of methods={methods or 'all'} shots={shots or 'all'} data={data or 'any'}; "
            "run evaluate.py output=… with keep_frames=true and give its output folder"
        )
    triplets, pictures = [], {}
    for condition, people in conditions.items():
        clips = with_other_videos(people) if videos else people
        for triplet in make_triplets(condition, clips, per_condition or len(clips), seed, kept, videos):
            triplets.append(triplet)
            pictures[triplet.id] = draw_triplet(triplet, kept)
    triplets.sort(key=lambda triplet: triplet.id)  # an order that says nothing
    study = Study(name_of(folder, triplets, pictures), folder, tuple(triplets))
    save_study(study, pictures)
    return study


def find_conditions(
    rows: Sequence[Row], kept: FrameStore, methods: Sequence[str] | None, shots: Sequence[int] | None, data: str | None
) -> dict[ResultKey, list[str]]:
    """The clips with stored outputs, by method and T. Raises ValueError for several data sets or settings."""
    found: dict[ResultKey, list[str]] = {}
    for row in rows:
        key = key_of(row)
        label = key.method if key.variant == "-" else f"{key.method}/{key.variant}"
        wanted = key.method not in COPIES if methods is None else label in methods
        if not wanted or (shots and key.T not in shots) or data not in (None, key.data) or key.clip == ALL_CLIPS:
            continue
        if kept.has(key) and kept.target_path(key).is_file():
            found.setdefault(condition_of(key), []).append(key.clip)
    sets = {key.data for key in found}
    if len(sets) > 1:
        raise ValueError(f"outputs of {', '.join(sorted(sets))}: choose one with --data")
    settings: dict[tuple[str, str, int], ResultKey] = {}
    for key in found:
        other = settings.setdefault((key.method, key.variant, key.T), key)
        if other != key:
            raise ValueError(f"outputs of two settings, {other} and {key}: keep the rows of one in results.csv")
    return {key: sorted(people) for key, people in found.items()}


def make_triplets(
    condition: ResultKey, clips: Sequence[str], count: int, seed: int, kept: FrameStore, videos: bool
) -> list[Triplet]:
    """The triplets of one method and T; each clip and each position of the fake occur equally often."""
    random = Random(repr((seed, condition)))
    order = islice(cycle(random.sample(clips, len(clips))), count)
    positions = [1, 2, 3] * (count // 3) + random.sample([1, 2, 3], count % 3)
    random.shuffle(positions)
    totals = {clip: len(load_strip(kept.target_path(replace(condition, clip=clip)))) for clip in clips}
    triplets = []
    for number, (clip, position) in enumerate(zip(order, positions, strict=True)):
        if videos:
            shown = random.sample([other for other in clips if other != clip and name_in(other) == name_in(clip)], 2)
            shown.insert(position - 1, clip)
            frames = [random.randrange(totals[one]) for one in shown]
        else:
            shown, frames = [clip] * 3, spread(totals[clip], clip, random)
        name = hashlib.sha256(repr((seed, condition, clip, number)).encode()).hexdigest()[:12]
        triplets.append(Triplet(name, replace(condition, clip=clip), tuple(shown), tuple(frames), position))
    return triplets


def spread(total: int, clip: str, random: Random) -> list[int]:
    """One frame from each third of the hold-out frames, in random order, so that they are far apart in time."""
    if total < 3:
        raise ValueError(f"{clip} has {total} hold-out frames, a triplet needs 3: raise frame_choice.num_targets")
    bounds = [total * part // 3 for part in range(4)]
    return random.sample([random.randrange(*bounds[part : part + 2]) for part in range(3)], 3)


def name_in(clip: str) -> str:
    """The person in a clip: `id10270` of `id10270_5r0dWxy17C8_00001`."""
    return clip.partition("_")[0]


def with_other_videos(clips: Sequence[str]) -> list[str]:
    """The clips of people with at least three clips. Raises ValueError if there are none."""
    count = Counter(name_in(clip) for clip in clips)
    found = [clip for clip in clips if count[name_in(clip)] >= 3]
    if not found:
        raise ValueError(f"nobody has three clips, {clips[0]} for one: evaluate more clips, or leave out --videos")
    return found


def draw_triplet(triplet: Triplet, kept: FrameStore) -> bytes:
    """The three pictures as one JPEG, which states that it contains generated pixels, but not where."""
    fake = kept.load(triplet.key)
    real = {clip: load_strip(kept.target_path(replace(triplet.key, clip=clip))) for clip in triplet.clips}
    if real[triplet.key.clip].shape != fake.shape:
        raise ValueError(f"{kept.path(triplet.key)}: {len(fake)} outputs, not as many as hold-out frames")
    shown = zip(triplet.clips, triplet.frames, strict=True)
    chosen = [fake[n] if place == triplet.position else real[c][n] for place, (c, n) in enumerate(shown, start=1)]
    pixels = [enlarge(as_pictures(one)) for one in chosen]
    return marked(encode(np.concatenate(pixels, axis=1)), OriginStatement(composite=True))


def enlarge(picture: UInt8[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "L L 3"]:
    """Enlarge real and fake pictures alike to at least `SHOWN` pixels, so that the browser does not resize them."""
    factor = -(-SHOWN // len(picture))
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def encode(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """RGB pixels as JPEG, without chroma subsampling."""
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, content = cv2.imencode(
        ".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY, *sampling]
    )
    return content.tobytes()


def main() -> None:
    """Make a study from the arguments on the command line, and print its name."""
    parser = argparse.ArgumentParser(prog="python -m talkinghead.study.build", description=__doc__)
    parser.add_argument("evaluation", type=Path, help="output folder of evaluate.py, with results.csv and frames/")
    parser.add_argument("study", type=Path, help="folder to write")
    parser.add_argument("--methods", nargs="+", help="ours/FF ours/FT x2face ...; default: all but copied frames")
    parser.add_argument("--shots", nargs="+", type=int, help="T; default: all")
    parser.add_argument("--data", help="data set and split, as in results.csv; default: there is but one")
    parser.add_argument("--per-condition", type=int, help="triplets of each method and T; default: one of each clip")
    parser.add_argument("--videos", action="store_true", help="real frames of two other clips of the same person")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    try:
        study = make_study(
            chosen.evaluation,
            chosen.study,
            chosen.methods,
            chosen.shots,
            chosen.data,
            chosen.per_condition,
            chosen.seed,
            chosen.videos,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"talkinghead.study.build: {in_one_line(error)}")
    print(f"{study.folder}: study {study.name}, {len(study.triplets)} triplets")


if __name__ == "__main__":
    with interruptible("talkinghead.study.build"):
        main()
