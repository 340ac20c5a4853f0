"""The tables of experiments/: Markdown and LaTeX, the best value at each T in bold, the paper's numbers beside ours.

`python -m talkinghead.reporting.tables results.csv …` prints tables of any result rows.
"""

from talkinghead.processes import interruptible, program

if __name__ == "__main__":  # before the imports that take seconds
    program("talkinghead.reporting.tables")

import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from talkinghead.evaluation.results import Results
from talkinghead.names import as_lines
from talkinghead.reporting.overview import build_overview, explain_missing
from talkinghead.reporting.paired import Orderings, build_orderings
from talkinghead.reporting.plots import draw
from talkinghead.reporting.summary import (
    Column,
    Estimate,
    Lines,
    Table,
    find_metric,
    measure,
    merge,
    publish,
)
from talkinghead.storage import Row, in_one_line, read_csv, write_atomic


def find_best(lines: Lines, shots: int, column: Column) -> float | None:
    """The best number of a column at this T, rounded as printed; None if the column has only one."""
    metric = find_metric(column[1])
    means = [line[column].mean for (number, _), line in lines.items() if number == shots and column in line]
    return round((max if metric.higher_is_better else min)(means), metric.digits) if len(means) > 1 else None


class Style(NamedTuple):
    """How a markup language writes bold numbers, intervals and signs."""

    bold: str
    interval: str
    unverified: str
    missing: str
    up: str
    down: str


COUNTS = ("T", "method", "seeds", "identities")
SPLIT_NOTES = {
    "mixed": "Hold-out frames lie between the shots in time (frame_choice.split=mixed).",
    "parts": "Shots are from the first part, hold-out frames from the last (frame_choice.split=parts).",
    "given": "Shots and hold-out frames are as the folders have them.",
}
MARKDOWN = Style("**{}**", " ({} to {})", "†", "", "↑", "↓")
LATEX = Style(r"\textbf{{{}}}", r" {{\scriptsize ({} to {})}}", r"$^\dagger$", "", r"$\uparrow$", r"$\downarrow$")


def build_cells(table: Table, lines: Lines, style: Style) -> list[list[str]]:
    """Header and rows as text: T, method, then the columns with numbers; sorted by T, methods in the table's order."""
    wanted = [("measured", name) for name in table.metrics] + [("paper", name) for name in table.paper_metrics]
    columns = [column for column in wanted if any(column in line for line in lines.values())]
    header = list(COUNTS if table.counts else COUNTS[:2])
    for source, name in columns:
        metric = find_metric(name)
        prefix = "paper: " if source == "paper" else ""
        header.append(f"{prefix}{metric.title} {style.up if metric.higher_is_better else style.down}")
    cells = [header]
    for shots in sorted({number for number, _ in lines}):
        best = {column: find_best(lines, shots, column) for column in columns}
        for label in (method.label for method in table.methods if (shots, method.label) in lines):
            line = lines[shots, label]
            texts = [print_cell(line.get(column), column, best[column], style) for column in columns]
            cells.append([str(shots), label, *(print_counts(line) if table.counts else []), *texts])
    return cells


def print_counts(line: dict[Column, Estimate]) -> list[str]:
    """The seeds of a line, and its number of identities, as cells."""
    seeds = sorted({seed for value in line.values() for seed in value.seeds}, key=lambda seed: (len(seed), seed))
    return [", ".join(seeds), str(max((value.people for value in line.values()), default=0))]


def print_cell(value: Estimate | None, column: Column, best: float | None, style: Style) -> str:
    """A number as a cell: `**0.712** (0.690 to 0.731)`, `43.0†`; `best` is set in bold."""
    if value is None:
        return style.missing
    digits = find_metric(column[1]).digits
    text = value.printed or f"{value.mean:.{digits}f}"
    if round(value.mean, digits) == best:
        text = style.bold.format(text)
    if value.interval is not None:
        text += style.interval.format(*(f"{bound:.{digits}f}" for bound in value.interval))
    return text if value.verified else text + style.unverified


def explain(lines: Lines) -> str:
    """What the signs in a table mean: a sentence for each that occurs."""
    values = [value for line in lines.values() for value in line.values()]
    counts = {value.people for value in values if value.interval is not None and value.people}
    answers = {value.answers for value in values if value.answers}
    text = []
    if counts:
        number = str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        text.append(f"In brackets: 95 % interval of the mean over {number} identities.")
    if answers:
        number = str(max(answers)) if len(answers) == 1 else f"{min(answers)} to {max(answers)}"
        text.append(
            f"USER: share of fakes found, 0.33 by chance; in brackets Wilson's 95 % interval of {number} answers."
        )
    text += [SPLIT_NOTES[split] for split in sorted({split for value in values for split in value.splits})]
    if not all(value.verified for value in values):
        text.append("†: the paper's number from memory, not verified.")
    return " ".join(text)


def build_markdown(table: Table, lines: Lines) -> str:
    """A Markdown table with the best value at each T in bold, and a note that explains its signs."""
    if not lines:
        return "*Not run yet.*\n"
    header, *body = build_cells(table, lines, MARKDOWN)
    rows = [header, ["---"] * len(header), *body]
    text = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    note = explain(lines)
    return text + (f"\n{note}\n" if note else "")


def build_latex(table: Table, lines: Lines) -> str:
    """The same table as a `tabular` for booktabs, with a rule between shot counts."""
    header, *body = build_cells(table, lines, LATEX)
    escaped = [[text.replace("%", r"\%").replace("_", r"\_") for text in row] for row in (header, *body)]
    text = rf"\begin{{tabular}}{{rl{'r' * (len(header) - 2)}}}" + "\n\\toprule\n" + " & ".join(escaped[0]) + " \\\\\n"
    for before, row in pairwise(escaped):
        text += ("\\midrule\n" if row[0] != before[0] else "") + " & ".join(row) + " \\\\\n"
    note = explain(lines).replace("%", r"\%").replace("†", r"$^\dagger$")
    return text + "\\bottomrule\n\\end{tabular}\n" + (f"% {note}\n" if note else "")


def fill_block(text: str, name: str, body: str) -> str:
    """Put a generated table between its markers. Raises ValueError if the markers are missing."""
    block = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end of table -->)", re.DOTALL)
    if not block.search(text):
        raise ValueError(f"no block '<!-- table: {name} -->' ... '<!-- end of table -->' to put the table in")
    return block.sub(lambda found: found[1] + body + found[2], text)


def keep_numbers(text: str, table: Table, lines: Lines) -> None:
    """Raise ValueError if a block has measured numbers and would lose them."""
    block = re.search(rf"<!-- table: {re.escape(table.name)} -->\n(\|.*)\n", text)
    before = [cell.strip() for cell in block[1].split("|")[1:-1]] if block else []
    measured = [cell for cell in before if cell not in COUNTS and not cell.startswith("paper: ")]
    if measured and not any(source == "measured" for line in lines.values() for source, _ in line):
        raise ValueError(
            f"the table {table.name} has {measured[0]} of {table.data}, but no csv has rows of it any more: results of "
            "another data set go beside results.csv, not over it"
        )


def summarize(folder: Path, table: Table, rows: Sequence[Row]) -> Lines:
    """The numbers of one table, with those of the folder's paper.csv if there is one."""
    return merge(publish(table, read_csv(folder / "paper.csv", ("method", "T"))), measure(table, rows))


def read_rows(results: Sequence[Path]) -> list[Row]:
    """The rows of several results.csv; missing files are skipped."""
    return [row for path in results for row in Results(path).rows()]


def build_readme(folder: Path, blocks: Sequence[Table | Orderings], results: Sequence[Path]) -> str:
    """The text of an experiment's README.md with its tables filled in."""
    text, rows = (folder / "README.md").read_text(), read_rows(results)
    for block in blocks:
        if isinstance(block, Orderings):
            text = fill_block(text, block.name, build_orderings(block, rows))
        else:
            lines = summarize(folder, block, rows)
            keep_numbers(text, block, lines)
            text = fill_block(text, block.name, build_markdown(block, lines))
    return text


def write_tables(folder: Path, blocks: Sequence[Table | Orderings], results: Sequence[Path]) -> None:
    """Write an experiment's README.md, and `<name>.tex` and `<name>.png` of each table with numbers."""
    rows, readme = read_rows(results), build_readme(folder, blocks, results)
    for table in (block for block in blocks if isinstance(block, Table)):
        lines = summarize(folder, table, rows)
        if lines:
            write_atomic(folder / f"{table.name}.tex", build_latex(table, lines).encode())
        if (figure := draw(table, lines)) is not None:
            figure.savefig(folder / f"{table.name}.png", dpi=110, metadata={"Software": None})
    write_atomic(folder / "README.md", readme.encode())


def main(files: Sequence[str]) -> None:
    """Print the tables of these results.csv as Markdown."""
    if not files or files[0] in ("-h", "--help"):
        sys.exit("usage: python -m talkinghead.reporting.tables results.csv [more.csv …]")
    try:
        missing = [name for name in files if not Path(name).exists()]
        if missing:
            raise FileNotFoundError(f"there is no {missing[0]}")
        rows = read_rows([Path(name) for name in files])
        overview = build_overview(rows)
    except (ValueError, OSError) as error:
        sys.exit(f"talkinghead.reporting.tables: {in_one_line(error)}")
    if not overview:
        sys.exit(f"talkinghead.reporting.tables: no rows in {', '.join(files)}")
    for table, lines in overview:
        print(as_lines(f"## {table.data}\n\n{build_markdown(table, lines)}"))
    if note := explain_missing(rows):
        print(as_lines(note))


if __name__ == "__main__":
    with interruptible("talkinghead.reporting.tables", "nothing was changed"):
        main(sys.argv[1:])
