"""Result rows: one csv that several processes add to, and that is whole at every moment.

A row is known by its key; writing it again replaces it. A column that a row has no value for is empty, a value that
could not be measured (no face found) is `nan`.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from talkinghead import machine
from talkinghead.storage import Row, read_csv, write_csv

HEAD = ("data", "method", "variant", "T", "seed", "clip", "identity", "num_targets")
TAIL = ("learning_s", "ms_per_frame", "checkpoint", "config", "config_hash", "protocol", "clips", "commit")
REQUIRED = ("data", "method", "variant", "T", "clip")
ALL_CLIPS = "*"  # in the column clip: a metric of a whole set, fid for one; the column clips says of which
OLD = {"seed": "-", "protocol": "-", "clips": "-"}  # of rows written before there were these columns
RENAMED = {"person": "clip", "people": "clips"}  # columns of older files


@dataclass(frozen=True)
class ResultKey:
    """What a row is about.

    method, variant   `ours` with `FF` or `FT`, other methods with `-`
    T                 number of shots
    clip              the unit of the protocol: key of a clip, name of a video or of a folder of pictures
    checkpoint        first 12 digits of the file's sha256, `-` for a method without one
    config            name of the experiment's row, `default` or an ablation; `config_hash` tells settings apart
    seed              of the choice of frames and of learning, `-` where it is not known
    protocol          unit, split, order of shots, most shots, hold-out frames: `clip_parts_random_32_32`
    clips             of a row of clip `*`: how many and which, as `name_clips` has it; `-` elsewhere
    """

    data: str
    method: str
    variant: str
    T: int
    clip: str
    checkpoint: str = "-"
    config: str = "default"
    config_hash: str = "-"
    seed: str = "-"
    protocol: str = "-"
    clips: str = "-"


class Results:
    """The rows of one `results.csv`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def rows(self) -> list[Row]:
        """All rows as text; none where there is no file yet. Raises ValueError where it is something else."""
        rows = read_csv(self.path, REQUIRED, RENAMED)
        for number, row in enumerate(rows):
            if not row["T"].isascii() or not row["T"].isdigit():
                raise ValueError(f"{self.path}, row {number + 1}: T is {row['T'][:20]!r}, not a number of shots")
        return [{**OLD, **row} for row in rows]

    def find(self, key: ResultKey) -> Row | None:
        """The row of a key."""
        return next((row for row in self.of(key) if row["clip"] == key.clip), None)

    def of(self, key: ResultKey) -> list[Row]:
        """The rows of all clips that agree with the key in everything else."""
        wanted = {name: value for name, value in as_text(asdict(key)).items() if name != "clip"}
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
        write_csv(self.path, [*HEAD, *metrics, *TAIL], rows)


def name_clips(keys: Iterable[str]) -> str:
    """`8-3f2a1c`: how many clips a set has, and six digits of which.

    >>> name_clips(["b", "a"]) == name_clips(["a", "b"])
    True
    """
    clips = sorted(set(keys))
    return f"{len(clips)}-{hashlib.sha256(repr(clips).encode()).hexdigest()[:6]}"


def same(row: Row, wanted: Row) -> bool:
    """Whether a row has these entries."""
    return all(row.get(name) == value for name, value in wanted.items())


def as_text(values: Mapping[str, object]) -> Row:
    """Values as cells of the csv; floating point numbers with six digits.

    >>> as_text({"T": 8, "ssim": 0.123456789, "nme": float("nan")})
    {'T': '8', 'ssim': '0.123457', 'nme': 'nan'}
    """
    return {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in values.items()}
