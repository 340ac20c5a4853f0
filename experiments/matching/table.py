"""results.csv and log.csv -> the tables of README.md; with folders of runs, first log.csv from what they logged.

python experiments/matching/table.py [outputs/matching/*-*]
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/matching/table.py")

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from talkinghead.reporting.paired import Claim, Orderings, Side
from talkinghead.reporting.summary import Method, Table
from talkinghead.reporting.tables import fill_block, write_tables
from talkinghead.storage import read_csv, write_atomic, write_csv

HERE = Path(__file__).parent
RESULTS = [HERE / "results.csv"]
LOG, README = HERE / "log.csv", HERE / "README.md"
ROWS = {
    "default": "as in the paper", "w_meets_e": "all three",
    "gain": "gain after P", "lr_w": "W 25 times as fast", "first_visit": "W_i from e_hat_i",
}  # fmt: skip
METHODS = tuple(Method(label, "ours", "FF", row) for row, label in ROWS.items())
METRICS = ("ssim", "pd_facenet_synthetic", "csim_dlib", "nme", "lip_correlation", "face_found")
CLAIMS = tuple(Claim(Side(method, 8), Side(METHODS[0], 8), METRICS[:-1]) for method in METHODS[1:])
TABLES = (
    Table("feed_forward", "synthetic/test", METHODS, METRICS),
    Orderings("orderings", "synthetic/test", CLAIMS),
)
LOGGED = ("embedding/e_hat", "embedding/w", "embedding/cosine", "embedding/dead", "score/real", "score/fake")
LAST = 10  # logged steps whose mean is taken: every tenth step is logged


def collect(runs: Sequence[Path]) -> None:
    """log.csv: means over the last steps of each run, a folder `<row>-<seed>`."""
    found = []
    for run in runs:
        steps = [row for row in read_csv(run / "metrics" / "metrics.csv") if row.get(LOGGED[0])][-LAST:]
        row, _, seed = run.name.rpartition("-")
        found.append({"row": row, "seed": seed, **{n: f"{fmean(float(s[n]) for s in steps):.3f}" for n in LOGGED}})
    write_csv(LOG, ("row", "seed", *LOGGED), sorted(found, key=lambda one: (list(ROWS).index(one["row"]), one["seed"])))


def log_table() -> str:
    """log.csv as Markdown."""
    lines = [
        "| row | seed | norm of e_hat | of W_i | cosine of the two | components of e_hat always 0 | D(real), D(fake) |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in read_csv(LOG):
        values = [float(one[name]) for name in LOGGED]
        lines.append(
            f"| {ROWS[one['row']]} | {one['seed']} | {values[0]:.1f} | {values[1]:.1f} | {values[2]:.2f} "
            f"| {100 * values[3]:.0f} % | {values[4]:.1f}, {values[5]:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:]:
        collect([Path(run) for run in sys.argv[1:]])
    write_tables(HERE, TABLES, RESULTS)
    write_atomic(README, fill_block(README.read_text(), "log", log_table()).encode())
