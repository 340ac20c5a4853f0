"""From rows to numbers: means over people with intervals, and the paper's own (arXiv 1905.08233, Table 1).

Rows are those of the few-shot protocol: one per data set, method, variant, T and person, one column per metric. Metrics
of a whole test set (fid) stand in rows of person `*`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from talkinghead.metrics.intervals import bootstrap_mean
from talkinghead.metrics.results import EVERYBODY, Row


class Metric(NamedTuple):
    """How a metric is printed."""

    title: str
    higher_is_better: bool
    digits: int = 3


METRICS = {
    "fid": Metric("FID", False, 1), "ssim": Metric("SSIM", True), "psnr": Metric("PSNR (dB)", True, 1),
    "lpips": Metric("LPIPS", False), "csim": Metric("CSIM", True), "csim_dlib": Metric("CSIM (dlib)", True),
    "user": Metric("USER", False, 2), "nme": Metric("NME", False), "face_found": Metric("face found", True, 2),
    "learning_s": Metric("learning (s)", False, 2), "ms_per_frame": Metric("ms per frame", False, 1),
}  # fmt: skip
FAMILIES = {"pd_": Metric("perceptual distance", False), "fd_": Metric("Frechet distance", False, 1)}  # + the network


def find_metric(name: str) -> Metric:
    """How the metric of this log name is printed; ValueError for a name nobody declared."""
    if name in METRICS:
        return METRICS[name]
    for prefix, family in FAMILIES.items():
        if name.startswith(prefix):
            return family._replace(title=f"{family.title} ({name.removeprefix(prefix)})")
    raise ValueError(f"no metric {name!r}: declare it in talkinghead/metrics/summary.py, beside {sorted(METRICS)}")


class Method(NamedTuple):
    """One line of a table at each T; which rows it stands for."""

    label: str
    method: str
    variant: str = "-"
    config: str | None = None  # the row's name in an ablation; None: any
    paper: str | None = None  # its name in paper.csv


@dataclass(frozen=True)
class Table:
    """What to print: `methods` x T of one data set.

    name            of the block in README.md, and of the files
    data            column `data` of the rows
    metrics         columns, by log name; one without any number is left out
    paper_metrics   columns of the paper's numbers, by log name
    """

    name: str
    data: str
    methods: Sequence[Method]
    metrics: Sequence[str]
    paper_metrics: Sequence[str] = ()


class Estimate(NamedTuple):
    """A number to print."""

    mean: float
    interval: tuple[float, float] | None = None  # 95 %, bootstrap over people, or Wilson's over answers
    people: int = 0
    printed: str = ""  # the paper's number as it stands there
    verified: bool = True  # False: a number of the paper from memory
    answers: int = 0  # of the user study


Column = tuple[str, str]  # "measured" or "paper", metric
Lines = dict[tuple[int, str], dict[Column, Estimate]]  # T, label -> column -> number


def measure(table: Table, rows: Iterable[Row]) -> Lines:
    """Means over people with their intervals, or the value of the set; ValueError where a person was counted twice."""
    rows = [row for row in rows if row["data"] == table.data]
    lines: Lines = {}
    for method in table.methods:
        names = [("method", method.method), ("variant", method.variant), ("config", method.config)]
        chosen = [row for row in rows if all(value in (None, row.get(name)) for name, value in names)]
        for shots in sorted({int(row["T"]) for row in chosen}):
            here = [row for row in chosen if int(row["T"]) == shots]
            people = [row["person"] for row in here]
            if len(set(people)) < len(people):
                twice = sorted({person for person in people if people.count(person) > 1})
                raise ValueError(f"{table.data}, {method.label}, T={shots}: several rows of {twice}; keep one of each")
            estimates = {("measured", name): estimate(here, name) for name in table.metrics}
            lines[shots, method.label] = {column: value for column, value in estimates.items() if value is not None}
    return lines


def estimate(rows: Iterable[Row], metric: str) -> Estimate | None:
    """Of the rows of one method and T. A person without a number (nme where no face was found) does not count.

    A metric of the set may have its bounds in columns `<metric>_low` and `<metric>_high` (user).
    """
    rows = list(rows)
    values = {row["person"]: float(row.get(metric) or "nan") for row in rows}
    of_the_set = values.pop(EVERYBODY, math.nan)
    if not math.isnan(of_the_set):
        row = next(row for row in rows if row["person"] == EVERYBODY)
        low, high, answers = (row.get(f"{metric}_{name}") for name in ("low", "high", "answers"))
        bounds = (float(low), float(high)) if low and high else None
        return Estimate(of_the_set, bounds, answers=int(answers or 0))
    mean = bootstrap_mean(list(values.values()))
    if mean.people == 0:
        return None
    return Estimate(mean.mean, (mean.low, mean.high) if mean.people > 1 else None, mean.people)


def publish(table: Table, paper: Iterable[Row]) -> Lines:
    """The paper's numbers, from paper.csv; verified are those whose column `<metric>_verified` says yes."""
    lines: Lines = {}
    if not table.paper_metrics:
        return lines
    for row in paper:
        for method in (method for method in table.methods if method.paper == row["method"]):
            lines[int(row["T"]), method.label] = {
                ("paper", name): Estimate(
                    float(row[name]), printed=row[name], verified=row.get(f"{name}_verified") == "yes"
                )
                for name in table.paper_metrics
            }
    return lines


def merge(*parts: Lines) -> Lines:
    """One line for each T and label."""
    keys = {key for part in parts for key in part}
    return {key: {column: value for part in parts for column, value in part.get(key, {}).items()} for key in keys}
