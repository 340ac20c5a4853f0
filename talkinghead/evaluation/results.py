"""Result rows in one csv, to which several processes may add, and which is complete at every moment.

A row is identified by its key; writing it again replaces it. Columns without a value are empty; a value that could not
be measured, as where no face is found, is `nan`.
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
ALL_CLIPS = "*"  # in column `clip`: metrics of a whole set, as fid; column `clips` says which
OLD = {"seed": "-", "protocol": "-", "clips": "-"}  # defaults for files without these columns
RENAMED = {"person": "clip", "people": "clips"}  # columns of older files


@dataclass(frozen=True)
class ResultKey:
    """Identifies a row.

    Attributes:
        data: data set and split: `voxceleb1/test`
        method: `ours`, or the name of another method
        variant: `FF` or `FT` of ours; `-` of others
        T: number of shots
        clip: the unit of the protocol: key of a clip, name of a video or of a folder of pictures
        checkpoint: first 12 digits of the file's sha256; `-` for a method without one
        config: name of the experiment's row: `default` or an ablation
        config_hash: distinguishes settings of method and protocol
        seed: of the choice of frames and of learning; `-` where it is unknown
        protocol: unit, split, order of shots, largest T, hold-out frames: `clip_parts_random_32_32`
        clips: in rows of clip `*`: how many and which, by `name_clips`; `-` elsewhere
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
    """Reads and adds rows of one `results.csv`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def rows(self) -> list[Row]:
        """All rows as text; none where there is no file yet. Raises ValueError where it is not a csv of results."""
        rows = read_csv(self.path, REQUIRED, RENAMED)
        for number, row in enumerate(rows):
            if not row["T"].isascii() or not row["T"].isdigit():
                raise ValueError(f"{self.path}, row {number + 1}: T is {row['T'][:20]!r}, not a number of shots")
        return [{**OLD, **row} for row in rows]

    def find(self, key: ResultKey) -> Row | None:
        """The row with this key, or None."""
        return next((row for row in self.of(key) if row["clip"] == key.clip), None)

    def of(self, key: ResultKey) -> list[Row]:
        """The rows that match the key in everything but the clip."""
        wanted = {name: value for name, value in as_text(asdict(key)).items() if name != "clip"}
        return [row for row in self.rows() if same(row, wanted)]

    def add(self, key: ResultKey, values: Mapping[str, object]) -> None:
        """Write one row atomically, under a lock for which other processes wait."""
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
