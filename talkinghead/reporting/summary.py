"""From rows to numbers: means over people with intervals, and the paper's own (arXiv 1905.08233, Table 1).

Rows are those of the few-shot protocol: one per data set, method, variant, T, seed and clip (or video, or folder of
pictures), one column per metric. Means and intervals are over identities: values of several clips of one person, or of
several seeds, are averaged first. Metrics of a whole test set (fid) are in rows of clip `*`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from talkinghead.evaluation.results import ALL_CLIPS, name_clips
from talkinghead.reporting.intervals import mean_interval
from talkinghead.storage import Row


class Metric(NamedTuple):
    """How a metric is printed, and its bounds, at which intervals are cut."""

    title: str
    higher_is_better: bool
    digits: int = 3
    low: float = 0.0
    high: float = math.inf


METRICS = {
    "fid": Metric("FID", False, 1), "ssim": Metric("SSIM", True, 3, -1, 1), "psnr": Metric("PSNR (dB)", True, 1),
    "lpips": Metric("LPIPS", False), "csim": Metric("CSIM", True, 3, -1, 1),
    "csim_dlib": Metric("CSIM (dlib)", True, 3, -1, 1), "user": Metric("USER", False, 2, 0, 1),
    "lip_correlation": Metric("lip correlation", True, 2, -1, 1), "lip_gain": Metric("lip gain", True, 2, -math.inf),
    "lid_correlation": Metric("lid correlation", True, 2, -1, 1), "lid_gain": Metric("lid gain", True, 2, -math.inf),
    "flicker": Metric("flicker", False), "stillness": Metric("stillness", False, 4),
    "nme": Metric("NME", False), "face_found": Metric("face found", True, 2, 0, 1),
    "learning_s": Metric("learning (s)", False, 2), "ms_per_frame": Metric("ms per frame", False, 1),
}  # fmt: skip
TIMES = ("learning_s", "ms_per_frame")
SPLITS = ("parts", "given", "mixed")
FAMILIES = {"pd_": Metric("perceptual distance", False), "fd_": Metric("Frechet distance", False, 1)}  # + the network


def find_metric(name: str) -> Metric:
    """The metric with this log name. Raises ValueError if it is not declared in `METRICS`."""
    if name in METRICS:
        return METRICS[name]
    for prefix, family in FAMILIES.items():
        if name.startswith(prefix):
            return family._replace(title=f"{family.title} ({name.removeprefix(prefix)})")
    raise ValueError(f"no metric {name!r}: declare it in talkinghead/reporting/summary.py, beside {sorted(METRICS)}")


class Method(NamedTuple):
    """One line of a table at each T, and the rows that belong to it."""

    label: str
    method: str
    variant: str = "-"
    config: str | None = None  # the row's name in an ablation; None: any
    paper: str | None = None  # its name in paper.csv
    checkpoint: str | None = None  # None: any, as in the next two
    config_hash: str | None = None
    protocol: str | None = None

    def matches(self, row: Row) -> bool:
        """Whether a row belongs to this method."""
        names = ("method", "variant", "config", "checkpoint", "config_hash", "protocol")
        return all(getattr(self, name) in (None, row.get(name)) for name in names)


@dataclass(frozen=True)
class Table:
    """What to print: `methods` x T of one data set.

    Attributes:
        name: name of the block in README.md, and of the files
        data: value of the rows' column `data`
        methods: lines at each T, in this order
        metrics: columns, by log name; columns without numbers are left out
        paper_metrics: columns with the paper's numbers, by log name
        counts: whether to add columns with seeds and number of identities
    """

    name: str
    data: str
    methods: Sequence[Method]
    metrics: Sequence[str]
    paper_metrics: Sequence[str] = ()
    counts: bool = False


class Estimate(NamedTuple):
    """One number of a table, with its interval and what it was measured on."""

    mean: float
    interval: tuple[float, float] | None = None  # 95 %, over identities, or Wilson's over answers
    people: int = 0  # identities
    printed: str = ""  # the paper's number as it stands there
    verified: bool = True  # False: a number of the paper from memory
    answers: int = 0  # of the user study
    seeds: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()  # how shots and hold-out frames lie to each other


Column = tuple[str, str]  # "measured" or "paper", metric
Lines = dict[tuple[int, str], dict[Column, Estimate]]  # T, label -> column -> number


def measure(table: Table, rows: Iterable[Row]) -> Lines:
    """The numbers of a table, by (T, label). Raises ValueError if a method has several rows of one clip and seed."""
    rows = [row for row in rows if row["data"] == table.data]
    lines: Lines = {}
    for method in table.methods:
        chosen = [row for row in rows if method.matches(row)]
        for shots in sorted({shots_of(row) for row in chosen}):
            here = [row for row in chosen if shots_of(row) == shots]
            if twice := counted_twice(here):
                raise ValueError(f"{table.data}, {method.label}, T={shots}: several rows of {twice}; keep one of each")
            estimates = {("measured", name): estimate(here, name) for name in table.metrics}
            lines[shots, method.label] = {column: value for column, value in estimates.items() if value is not None}
    return lines


def counted_twice(rows: Iterable[Row]) -> list[str]:
    """The clips with more than one row of a seed."""
    people = [(row["clip"], row.get("seed", "-")) for row in rows if row["clip"] != ALL_CLIPS]
    return sorted({person for person, seed in people if people.count((person, seed)) > 1})


def estimate(rows: Iterable[Row], metric: str) -> Estimate | None:
    """The mean of one method at one T over identities; those without a number (nme without a face) are left out."""
    rows = list(rows)
    of_the_set = estimate_set(rows, metric)
    if of_the_set is not None:
        return of_the_set
    known = [row for row in rows if row["clip"] != ALL_CLIPS and not math.isnan(number_in(row, metric))]
    if not known:
        return None
    mean = mean_interval(list(by_identity(known, metric).values()))
    kind = find_metric(metric)
    bounds = (max(kind.low, mean.low), min(kind.high, mean.high)) if mean.units > 1 else None
    splits = () if metric in TIMES else tuple(sorted({split_of(row) for row in known} - {""}))
    return Estimate(mean.mean, bounds, mean.units, seeds=seeds_of(known), splits=splits)


def estimate_set(rows: Sequence[Row], metric: str) -> Estimate | None:
    """A metric of the whole set: the row of exactly these clips if there is one, else of the largest set.

    Its bounds, if any, are in the columns `<metric>_low` and `<metric>_high` (user).
    """
    sets = [row for row in rows if row["clip"] == ALL_CLIPS and not math.isnan(number_in(row, metric))]
    if not sets:
        return None
    chosen = {}
    for seed in seeds_of(sets):
        of_seed = [row for row in sets if row.get("seed", "-") == seed]
        people = [r["clip"] for r in rows if r["clip"] != ALL_CLIPS and r.get("seed", "-") == seed]
        fitting = [row for row in of_seed if row.get("clips") == name_clips(people)]
        largest = max(of_seed, key=lambda row: number_in(row, "num_targets") if row.get("num_targets") else 0)
        chosen[seed] = fitting[0] if fitting else largest
    low, high, answers = (next(iter(chosen.values())).get(f"{metric}_{name}") for name in ("low", "high", "answers"))
    bounds = (float(low), float(high)) if low and high else None
    mean = fmean(number_in(row, metric) for row in chosen.values())
    return Estimate(mean, bounds, answers=int(answers or 0), seeds=tuple(chosen))


def by_identity(rows: Iterable[Row], metric: str) -> dict[str, float]:
    """Identity -> mean over its clips and seeds; rows without a number are left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["clip"] != ALL_CLIPS and not math.isnan(value := number_in(row, metric)):
            values.setdefault(row.get("identity") or row["clip"], []).append(value)
    return {identity: fmean(numbers) for identity, numbers in sorted(values.items())}


def number_in(row: Row, name: str) -> float:
    """The number in a cell; NaN if it is empty. Raises ValueError for text."""
    text = row.get(name) or "nan"
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"row of {row['clip']}, T={row['T']}: {name} is {text[:20]!r}, not a number") from None


def shots_of(row: Row) -> int:
    """T, the number of shots of a row. Raises ValueError if it is not a number."""
    text = row["T"]
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise ValueError(f"row of {row.get('clip', row.get('method'))}: T is {text[:20]!r}, not a number of shots")
    return int(text)


def seeds_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """The seeds of the rows, sorted; `-` for rows without one."""
    seeds = {row.get("seed") or "-" for row in rows}
    return tuple(sorted(seeds, key=lambda seed: (len(seed), seed)))


def split_of(row: Row) -> str:
    """How shots and hold-out frames were split: one of `SPLITS`; `mixed` for old rows, empty for cross-reenactment."""
    if row["data"].endswith("/cross"):
        return ""
    return next((split for split in SPLITS if split in row.get("protocol", "").split("_")), "mixed")


def publish(table: Table, paper: Iterable[Row]) -> Lines:
    """The paper's numbers from paper.csv; a number is verified if its column `<metric>_verified` is `yes`."""
    lines: Lines = {}
    if not table.paper_metrics:
        return lines
    for row in paper:
        for method in (method for method in table.methods if method.paper == row["method"]):
            lines[shots_of(row), method.label] = {
                ("paper", name): Estimate(
                    float(row[name]), printed=row[name], verified=row.get(f"{name}_verified") == "yes"
                )
                for name in table.paper_metrics
            }
    return lines


def merge(*parts: Lines) -> Lines:
    """Merge several sets of numbers, by (T, label)."""
    keys = {key for part in parts for key in part}
    return {key: {column: value for part in parts for column, value in part.get(key, {}).items()} for key in keys}
