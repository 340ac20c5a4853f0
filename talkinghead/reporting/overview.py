"""Tables of any result rows, laid out by the columns in them: the end of a run or sweep, and the contents of a csv."""

from collections.abc import Iterable, Sequence

from talkinghead.evaluation.results import HEAD, TAIL
from talkinghead.reporting.summary import (
    METRICS,
    TIMES,
    Estimate,
    Lines,
    Method,
    Table,
    counted_twice,
    find_metric,
    measure,
)
from talkinghead.storage import Row

Overview = list[tuple[Table, Lines]]  # one for each data set
SETTINGS = ("protocol", "checkpoint", "config_hash")  # told apart only where rows differ in nothing else
COLUMNS = ("data", "T", "method", "seeds", "identities", "metric", "mean", "low", "high")


def build_overview(rows: Sequence[Row]) -> Overview:
    """A table per data set, of methods by T: means over identities with intervals, and the seeds they are from."""
    found = []
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == data]
        table = Table(data, data, find_methods(mine), find_names(mine), counts=True)
        found.append((table, measure(table, mine)))
    return found


def find_methods(rows: Sequence[Row]) -> list[Method]:
    """The methods in the rows, each with a unique label."""
    found = []
    for method, variant in dict.fromkeys((row["method"], row["variant"]) for row in rows):
        mine = [row for row in rows if (row["method"], row["variant"]) == (method, variant)]
        short = method if variant == "-" else variant
        fields = needed(mine)
        for values in dict.fromkeys(tuple(row.get(name, "-") for name in fields) for row in mine):
            label = ", ".join([short, *values])
            found.append(Method(label, method, variant, **dict(zip(fields, values, strict=True))))
    return found


def needed(rows: Sequence[Row]) -> list[str]:
    """The columns needed to distinguish rows of one method: its config, and as few settings as possible."""
    fields = ["config"] if len({row.get("config") for row in rows}) > 1 else []
    for name in SETTINGS:
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            groups.setdefault((row["T"], *(row.get(field, "-") for field in fields)), []).append(row)
        if any(counted_twice(group) for group in groups.values()) and len({row.get(name) for row in rows}) > 1:
            fields.append(name)
    return fields


def find_names(rows: Iterable[Row]) -> list[str]:
    """The declared metrics that any row has: in the order of `METRICS`, then families, then times."""
    there = dict.fromkeys(name for row in rows for name, text in row.items() if text and name not in (*HEAD, *TAIL))
    known = [name for name in METRICS if name in there and name not in TIMES]
    families = [name for name in there if name not in METRICS and is_declared(name)]
    return known + families + [name for name in TIMES if any(row.get(name) for row in rows)]


def explain_missing(rows: Sequence[Row]) -> str:
    """A line that names the metrics that no table shows because they are not declared; empty if there are none."""
    there = dict.fromkeys(name for row in rows for name, text in row.items() if text and name not in (*HEAD, *TAIL))
    bounds = ("_low", "_high", "_answers")
    missing = [name for name in there if not name.endswith(bounds) and not is_declared(name)]
    return f"not in the table: {', '.join(missing)}: declare them in reporting/summary.py" if missing else ""


def is_declared(name: str) -> bool:
    try:
        find_metric(name)
    except ValueError:
        return False
    return True


def flatten(overview: Overview) -> list[Row]:
    """A row per data set, T, method and metric, as plotting programs take it."""
    return [
        print_row(table.data, shots, label, name, value)
        for table, lines in overview
        for (shots, label), line in sorted(lines.items())
        for (_, name), value in line.items()
    ]


def print_row(data: str, shots: int, label: str, metric: str, value: Estimate) -> Row:
    """One number as a row with the columns `COLUMNS`, six significant digits."""
    low, high = value.interval or ("", "")
    numbers = [f"{one:.6g}" if one != "" else "" for one in (value.mean, low, high)]
    seeds = " ".join(value.seeds)
    texts = [data, str(shots), label, seeds, str(value.people or ""), metric, *numbers]
    return dict(zip(COLUMNS, texts, strict=True))
