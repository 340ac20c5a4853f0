"""Answers of a user study: one csv, a row per answer, whole at every moment, whoever else is answering."""

import csv
import io
from dataclasses import asdict
from pathlib import Path

from talkinghead import machine
from talkinghead.atomic import write_atomic
from talkinghead.metrics.results import Row
from talkinghead.studio.study import Triplet

COLUMNS = (
    "study", "participant", "triplet", "data", "method", "variant", "T", "person", "checkpoint", "config",
    "config_hash", "position", "answer", "correct", "seconds",
)  # fmt: skip


class Answers:
    """The rows of one `answers.csv`; `position` is where the fake was, `answer` where it was seen, both 1, 2 or 3."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[Row]:
        """All rows as text; none where there is no file yet."""
        if not self.path.is_file():
            return []
        rows = list(csv.DictReader(io.StringIO(self.path.read_text())))
        if rows and set(COLUMNS) - set(rows[0]):
            raise ValueError(f"{self.path} is no answers.csv of a study: it has no {set(COLUMNS) - set(rows[0])}")
        return rows

    def of(self, study: str, participant: str) -> dict[str, Row]:
        """A participant's rows by triplet."""
        mine = (row for row in self.rows() if (row["study"], row["participant"]) == (study, participant))
        return {row["triplet"]: row for row in mine}

    def add(self, study: str, participant: str, triplet: Triplet, answer: int, seconds: float) -> bool:
        """Write one answer under a lock; False where this participant has answered this triplet before."""
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
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows([*rows, given])
            write_atomic(self.path, text.getvalue().encode())
        return True
