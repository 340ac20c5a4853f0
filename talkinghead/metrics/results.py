"""Result rows: one csv that several processes add to, and that is whole at every moment.

A row is known by its key; writing it again replaces it. A column that a row has no value for is empty, a value that
could not be measured (no face found) is `nan`.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from talkinghead import machine
from talkinghead.atomic import write_atomic

HEAD = ("data", "method", "variant", "T", "person", "num_targets")
TAIL = ("learning_s", "ms_per_frame", "checkpoint", "config", "config_hash", "commit")
EVERYBODY = "*"  # in the column person: a metric of the whole set, fid for one

Row = dict[str, str]


@dataclass(frozen=True)
class ResultKey:
    """What a row is about.

    method, variant   `ours` with `FF` or `FT`, other methods with `-`
    T                 number of shots
    checkpoint        first 12 digits of the file's sha256, `-` for a method without one
    config            name of the experiment's row, `default` or an ablation; `config_hash` tells settings apart
    """

    data: str
    method: str
    variant: str
    T: int
    person: str
    checkpoint: str = "-"
    config: str = "default"
    config_hash: str = "-"


class Results:
    """The rows of one `results.csv`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def rows(self) -> list[Row]:
        """All rows as text; none where there is no file yet."""
        if not self.path.is_file():
            return []
        return list(csv.DictReader(io.StringIO(self.path.read_text())))

    def find(self, key: ResultKey) -> Row | None:
        """The row of a key."""
        return next((row for row in self.of(key) if row["person"] == key.person), None)

    def of(self, key: ResultKey) -> list[Row]:
        """The rows of all people that agree with the key in everything else."""
        wanted = {name: value for name, value in as_text(asdict(key)).items() if name != "person"}
        return [row for row in self.rows() if same(row, wanted)]

    def add(self, key: ResultKey, values: Mapping[str, object]) -> None:
        """Write one row, under a lock: other processes wait, and a kill leaves the file as it was before or after."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = {**as_text(asdict(key)), **as_text(values)}
        with open(self.path.with_name(f".{self.path.name}.lock"), "w") as lock:
            machine.lock(lock)
            rows = self.rows()
            place = next((n for n, row in enumerate(rows) if same(row, as_text(asdict(key)))), len(rows))
            self._write([*rows[:place], new, *rows[place + 1 :]])

    def _write(self, rows: list[Row]) -> None:
        metrics = dict.fromkeys(name for row in rows for name in row if name not in (*HEAD, *TAIL))
        text = io.StringIO()
        writer = csv.DictWriter(text, [*HEAD, *metrics, *TAIL], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.path, text.getvalue().encode())


def same(row: Row, wanted: Row) -> bool:
    """Whether a row has these entries."""
    return all(row.get(name) == value for name, value in wanted.items())


def as_text(values: Mapping[str, object]) -> Row:
    """Numbers with six digits."""
    return {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in values.items()}
