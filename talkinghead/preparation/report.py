"""What was kept and what was dropped, by reason: report.json, report.csv and a table on the terminal."""

import csv
import io
import json
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from talkinghead.data.shards import DatasetInfo
from talkinghead.names import as_cell, as_line
from talkinghead.preparation.clip import Drop
from talkinghead.storage import write_atomic
from talkinghead.terminal import print_table

REPORTS = ("report.json", "report.csv")


def write_report(output: Path, info: DatasetInfo, drops: list[tuple[str, Drop]]) -> None:
    """report.json has the counts, report.csv one line per dropped clip."""
    write_atomic(output / "report.json", json.dumps(summary(info, drops), indent=1).encode())
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["split", "clip", "reason", "detail"])
    rows.writerows([split, *map(as_cell, (drop.clip, drop.reason, drop.detail))] for split, drop in drops)
    write_atomic(output / "report.csv", text.getvalue().encode(errors="backslashreplace"))


def summary(info: DatasetInfo, drops: list[tuple[str, Drop]]) -> dict:
    """Kept clips and frames, and dropped clips by reason, for each split."""
    splits = {}
    for name, split in info.splits.items():
        reasons = Counter(drop.reason for where, drop in drops if where == name)
        splits[name] = {
            "kept": split.clips,
            "frames": split.frames,
            "identities": split.identities,
            "dropped": dict(sorted(reasons.items())),
        }
    return splits


def print_report(output: Path, console: Console, title: str) -> None:
    """Show report.json as a table."""
    splits = json.loads((output / "report.json").read_text())
    reasons = sorted({reason for split in splits.values() for reason in split["dropped"]})
    table = Table("split", "people", "clips kept", "frames", *reasons, title=title)
    for name, split in splits.items():
        dropped = [str(split["dropped"].get(reason, 0)) for reason in reasons]
        table.add_row(name, str(split["identities"]), str(split["kept"]), str(split["frames"]), *dropped)
    print_table(table, keys=1, console=console)


def tell(drops: list[tuple[str, Drop]]) -> str:
    """The reasons as a sentence, the first example of each included."""
    first: dict[str, Drop] = {}
    for _, drop in drops:
        first.setdefault(drop.reason, drop)
    count = Counter(drop.reason for _, drop in drops)
    return "; ".join(f"{n} {reason} (such as {as_line(first[reason].clip)})" for reason, n in count.most_common())
