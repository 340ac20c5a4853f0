"""results.csv -> the table of README.md; with the folder that run.sh left, first results.csv.

python experiments/robustness/table.py [outputs/robustness]
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/robustness/table.py")

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from talkinghead.reporting.tables import fill_block
from talkinghead.storage import Row, read_csv, write_atomic, write_csv

HERE = Path(__file__).parent
RESULTS, README = HERE / "results.csv", HERE / "README.md"
COLUMNS = ("generator", "run", "exit", "steps", "cnt_first", "cnt_last", "ssim", "ssim_nearest", "evidence", "said")
GENERATORS = {"fsth": "the paper's", "warp": "warp-guided"}
GROUPS = {
    "seed": "the recipe, ten seeds", "rates10-": "rates x 10, two seeds", "rates100": "rates x 100",
    "rates10000": "rates x 10,000",
    "nan": "a tenth of the clips without landmarks", "huge": "a tenth with landmarks far outside",
    "noise": "a tenth with pictures of noise",
}  # fmt: skip


def collect(outputs: Path) -> None:
    """results.csv: how each run ended, and what it had learned by then."""
    found = [look_at(status) for status in sorted(outputs.glob("*.status"))]
    write_csv(RESULTS, COLUMNS, found)


def look_at(status: Path) -> Row:
    """One run by its files."""
    run = status.with_suffix("")
    generator, _, name = run.name.partition("-")
    log = [row for row in rows_of(run / "metrics" / "metrics.csv") if row.get("loss/cnt")]
    last = {row["method"]: row for row in rows_of(run / "validation.csv")}
    told = [line for line in run.with_suffix(".log").read_text().splitlines() if line.startswith("train.py: ")]
    said = told[-1] if told else ""
    return {
        "generator": generator, "run": name, "exit": status.read_text().strip(),
        "steps": str(1 + int(log[-1]["step"])) if log else "0",
        "cnt_first": f"{float(log[0]['loss/cnt']):.4g}" if log else "",
        "cnt_last": f"{fmean(float(row['loss/cnt']) for row in log[-3:]):.4g}" if log else "",
        "ssim": last["model"]["ssim"] if "model" in last else "",
        "ssim_nearest": last["nearest"]["ssim"] if "nearest" in last else "",
        "evidence": str(len(list(run.rglob("collapse-*.pt")))),
        "said": said.removeprefix("train.py: ").replace(str(run.parent), "...").split(". ")[0][:200],
    }  # fmt: skip


def rows_of(path: Path) -> list[Row]:
    """The rows of a csv, or none."""
    return list(read_csv(path)) if path.is_file() else []


def build_table() -> str:
    """Markdown: one line for each group of runs."""
    columns = (
        "runs",
        "generator",
        "ended well",
        "L_CNT at first, at last",
        "SSIM on new people",
        "stopped, batch saved",
    )
    lines = [f"| {' | '.join(columns)} | what it said |", "|---|---|---|---|---|---|---|"]
    rows = list(read_csv(RESULTS))
    for prefix, label in GROUPS.items():
        for generator, name in GENERATORS.items():
            group = [row for row in rows if row["generator"] == generator and of_group(row["run"], prefix)]
            if group:
                lines.append(f"| {label} | {name} | {summary(group)} |")
    return "\n".join(lines) + "\n"


def of_group(run: str, prefix: str) -> bool:
    """Whether a run is one of a group: by its name, or by its name up to the seed."""
    return run == prefix or (prefix.endswith(("seed", "-")) and run.startswith(prefix))


def summary(group: Sequence[Row]) -> str:
    """The cells of a line."""
    well = [row for row in group if row["exit"] == "0"]
    first, last, ssim = (spread([row[key] for row in well]) for key in ("cnt_first", "cnt_last", "ssim"))
    stopped = [row for row in group if row["exit"] != "0"]
    saved = sum(row["evidence"] != "0" for row in stopped)
    said = next((row["said"] for row in stopped), "")
    learned = f"{first}, {last}" if well else ""
    return f"{len(well)} of {len(group)} | {learned} | {ssim} | {len(stopped)}, {saved} | {said}"


def spread(values: Sequence[str]) -> str:
    """Smallest to largest."""
    numbers = sorted(float(value) for value in values if value)
    if not numbers:
        return ""
    digits = 2 if numbers[-1] < 10 else 0
    low, high = f"{numbers[0]:.{digits}f}", f"{numbers[-1]:.{digits}f}"
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    if sys.argv[1:]:
        collect(Path(sys.argv[1]))
    write_atomic(README, fill_block(README.read_text(), "robustness", build_table()).encode())
