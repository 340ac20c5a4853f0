"""The answers of a user study: one csv, a row per answer, replaced atomically; several people can answer at once."""

from dataclasses import asdict
from pathlib import Path

from talkinghead import machine
from talkinghead.evaluation.results import RENAMED, as_text
from talkinghead.storage import Row, read_csv, write_csv
from talkinghead.study.study import Triplet

COLUMNS = (
    "study", "participant", "triplet", "data", "method", "variant", "T", "clip", "checkpoint", "config",
    "config_hash", "seed", "protocol", "position", "answer", "correct", "seconds",
)  # fmt: skip
NEWER = {"seed": "-", "protocol": "-"}  # columns that older files do not have


class Answers:
    """The rows of one `answers.csv`; `position` is the place of the fake, `answer` the choice, both 1, 2 or 3."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[Row]:
        """All rows as text; none if there is no file yet."""
        required = [name for name in COLUMNS if name not in NEWER]
        return [{**NEWER, **row} for row in read_csv(self.path, required, RENAMED)]

    def of(self, study: str, participant: str) -> dict[str, Row]:
        """The rows of one participant, by triplet."""
        mine = (row for row in self.rows() if (row["study"], row["participant"]) == (study, participant))
        return {row["triplet"]: row for row in mine}

    def add(self, study: str, participant: str, triplet: Triplet, answer: int, seconds: float) -> bool:
        """Write one answer under a lock; False if this participant has already answered this triplet."""
        if answer not in (1, 2, 3):
            raise ValueError(f"answer {answer}: the pictures are 1, 2 and 3")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_name(f".{self.path.name}.lock"), "w") as lock:
            machine.lock(lock)
            rows = self.rows()
            if any((r["study"], r["participant"], r["triplet"]) == (study, participant, triplet.id) for r in rows):
                return False
            given = {
                "study": study, "participant": participant, "triplet": triplet.id, **asdict(triplet.key),
                "position": triplet.position, "answer": answer, "correct": int(answer == triplet.position),
                "seconds": f"{seconds:.2f}",
            }  # fmt: skip
            del given["clips"]  # of sets only
            write_csv(self.path, COLUMNS, [*rows, as_text(given)])
        return True
