"""The user study (arXiv 1905.08233, Sec. 4, column USER): three pictures of one person, one of them synthesised: which?

A study is a folder: `triplets.json`, which says where the fakes are, and `pictures/<id>.jpg`, the three pictures of a
triplet side by side in one file, so that neither format, size nor name of a file tells the fake.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from talkinghead.evaluation.results import ResultKey
from talkinghead.names import as_path_part
from talkinghead.storage import write_atomic
from talkinghead.study.user_score import condition_of

TRIPLETS_FILE = "triplets.json"
ANSWERS_FILE = "answers.csv"


@dataclass(frozen=True)
class Triplet:
    """Three hold-out frames of one person, one of them replaced by a method's output.

    Attributes:
        id: name of the picture; does not reveal the fake
        key: the row of the evaluation that the fake belongs to
        clips: the clip of each frame (column `clip`), in the order shown
        frames: the number of each frame among the clip's hold-out frames
        position: place of the fake: 1, 2 or 3
    """

    id: str
    key: ResultKey
    clips: tuple[str, ...]
    frames: tuple[int, ...]
    position: int


@dataclass(frozen=True)
class Study:
    """The triplets of a study; `name` is stored with each answer, and depends on all triplets and pictures."""

    name: str
    folder: Path
    triplets: tuple[Triplet, ...]

    def picture(self, triplet: Triplet) -> Path:
        """Path of the JPEG with the three square pictures side by side."""
        return self.folder / "pictures" / f"{as_path_part(str(triplet.id))}.jpg"

    def choose(self, participant: str, count: int) -> list[Triplet]:
        """The triplets of a participant, in order: each condition equally often, each person as rarely as possible.

        It depends only on the participant, so one who comes back continues.
        """
        random = Random(repr((self.name, participant)))
        conditions: dict[ResultKey, list[Triplet]] = {}
        for triplet in random.sample(self.triplets, len(self.triplets)):
            conditions.setdefault(condition_of(triplet.key), []).append(triplet)
        chosen: list[Triplet] = []
        seen = Counter[str]()
        while len(chosen) < min(count, len(self.triplets)):
            for mine in filter(None, random.sample(list(conditions.values()), len(conditions))):
                best = min(mine, key=lambda triplet: seen[triplet.key.clip])
                mine.remove(best)
                seen[best.key.clip] += 1
                chosen.append(best)
        return random.sample(chosen[:count], min(count, len(chosen)))


def save_study(study: Study, pictures: Mapping[str, bytes]) -> None:
    """Write the pictures, then the list of triplets: a folder with a list is complete."""
    for triplet in study.triplets:
        write_atomic(study.picture(triplet), pictures[triplet.id])
    content = {"name": study.name, "triplets": [asdict(triplet) for triplet in study.triplets]}
    write_atomic(study.folder / TRIPLETS_FILE, (json.dumps(content, indent=1) + "\n").encode(), mode=0o600)


def load_study(folder: Path | str) -> Study:
    """Read a study's folder. Raises ValueError or FileNotFoundError that say what to do."""
    path = Path(folder) / TRIPLETS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is no study: it has no {TRIPLETS_FILE}. Make one from an evaluation: "
            f"python -m talkinghead.study.build OUTPUT_OF_EVALUATE {folder}"
        )
    try:
        content = json.loads(path.read_text())
        triplets = tuple(
            Triplet(one["id"], ResultKey(**one["key"]), tuple(one["clips"]), tuple(one["frames"]), one["position"])
            for one in content["triplets"]
        )
        study = Study(content["name"], Path(folder), triplets)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not what save_study writes ({error!r}): make the study again") from error
    if wrong := find_mistake(study):
        raise ValueError(f"{path} is not what save_study writes ({wrong}): make the study again")
    missing = [triplet.id for triplet in triplets if not study.picture(triplet).is_file()]
    if missing or not triplets:
        raise ValueError(f"{folder}: {len(missing)} of {len(triplets)} pictures are missing: make the study again")
    return study


def find_mistake(study: Study) -> str | None:
    """What is wrong with a list of triplets from a file; None: nothing."""
    for triplet in study.triplets:
        words = [study.name, triplet.id, *triplet.clips, *(v for k, v in asdict(triplet.key).items() if k != "T")]
        numbers = [triplet.key.T, *triplet.frames, triplet.position]
        if not all(isinstance(word, str) for word in words) or not all(type(number) is int for number in numbers):
            return "words or numbers are of another kind"
        if triplet.position not in (1, 2, 3) or len(triplet.clips) != 3 or len(triplet.frames) != 3:
            return "a triplet is not three pictures"
    ids = {triplet.id for triplet in study.triplets}
    return "two triplets of one id" if len(ids) < len(study.triplets) else None


def name_of(folder: Path, triplets: Sequence[Triplet], pictures: Mapping[str, bytes]) -> str:
    """`<folder>-<8 hexadecimal digits>`, a hash of all triplets and pictures."""
    content = [(repr(triplet), hashlib.sha256(pictures[triplet.id]).hexdigest()) for triplet in triplets]
    return f"{folder.resolve().name}-{hashlib.sha256(repr(content).encode()).hexdigest()[:8]}"
