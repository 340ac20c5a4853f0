"""The csv files beside this -> the tables of README.md: python experiments/cross_reenactment/table.py"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/cross_reenactment/table.py")

import csv
import math
from pathlib import Path
from statistics import fmean, median

from talkinghead.reporting.paired import Claim, Orderings, Side
from talkinghead.reporting.summary import Method, Table
from talkinghead.reporting.tables import fill_block, write_tables
from talkinghead.storage import write_atomic

HERE = Path(__file__).parent
RESULTS = [HERE / "results.csv"]
DATA = "synthetic/cross"
MODES = ("raw", "relative", "absolute")
METHODS = {(v, mode): Method(f"{v}, {mode}", "ours", v, config=mode) for v in ("FF", "FT") for mode in MODES}
COMPARED = ("ssim", "pd_facenet_synthetic", "pd_mobilenetv2")
TABLES = (
    Table("pictures", DATA, tuple(METHODS.values()), (*COMPARED, "csim_dlib", "nme", "face_found")),
    Orderings(
        "orderings", DATA,
        [
            Claim(Side(METHODS[v, "absolute"], shots), Side(METHODS[v, "raw"], shots), COMPARED)
            for v in ("FF", "FT") for shots in (1, 8)
        ],
    ),
)  # fmt: skip
Rows = list[dict[str, str]]


def read(name: str) -> Rows:
    """The rows of a csv beside this file."""
    with (HERE / name).open() as file:
        return list(csv.DictReader(file))


def mean(rows: Rows, column: str) -> float:
    """Over the rows that have a number."""
    values = [value for row in rows if not math.isnan(value := float(row[column]))]
    return fmean(values) if values else math.nan


def landmark_table(rows: Rows, landmarks: str, truth: str) -> str:
    """T by T: mean and median over people, and how far the mean is below raw transfer."""
    lines = [
        "| T | landmarks | NME ↓ | median | against raw | NME, placed ↓ | median | against raw |",
        "|---" * 8 + "|",
    ]
    chosen = [row for row in rows if row["landmarks"] == landmarks and row["truth"].startswith(truth)]
    for shots in ("1", "8", "32"):
        for mode in MODES:
            of = lambda name: [row for row in chosen if (row["T"], row["mode"]) == (shots, name)]  # noqa: B023, E731
            cells = [shots, mode]
            for column in ("nme", "nme_placed"):
                value, raw = mean(of(mode), column), mean(of("raw"), column)
                below = "" if mode == "raw" else f"{100 * (value / raw - 1):+.0f} %"
                cells += [f"{value:.3f}", f"{median(float(row[column]) for row in of(mode)):.3f}", below]
            lines.append("| " + " | ".join(cells) + " |")
    people = len({row["clip"] for row in chosen})
    return "\n".join(lines) + f"\n\n{people} pairs of people, up to 32 frames of each.\n"


def bounds_table(rows: Rows) -> str:
    """What is between exact landmarks and the truth for reasons that no adaptation can mend."""
    lines = ["| the person's exact landmarks | NME | NME, placed |", "|---|---|---|"]
    for mode in dict.fromkeys(row["mode"] for row in rows if row["landmarks"] == "-"):
        of = [row for row in rows if row["mode"] == mode]
        lines.append(f"| {mode} | {mean(of, 'nme'):.3f} | {mean(of, 'nme_placed'):.3f} |")
    return "\n".join(lines) + "\n"


def jitter_table(rows: Rows) -> str:
    """By noise and strength."""
    lines = ["| noise | smooth | acceleration | error | blink kept | mouth kept |", "|---" * 6 + "|"]
    for noise, strength in dict.fromkeys((row["noise"], row["smooth"]) for row in rows):
        of = [row for row in rows if (row["noise"], row["smooth"]) == (noise, strength)]
        numbers = [f"{100 * mean(of, name):.2f} %" for name in ("acceleration", "error")]
        shares = [f"{100 * mean(of, name):.1f} %" for name in ("blink_kept", "mouth_kept")]
        lines.append("| " + " | ".join([f"{100 * float(noise):g} %", strength, *numbers, *shares]) + " |")
    return "\n".join(lines) + "\n"


def summary_table(landmarks: Rows, pictures: Rows) -> str:
    """For docs/adaptation.md: landmarks beside raw ones, each mode against its own truth, and what FT makes of them."""
    lines = ["| T | adapt | NME, placed ↓ | raw | SSIM of FT ↑ | raw | perceptual distance ↓ | raw |", "|---" * 8 + "|"]
    for shots in ("1", "8"):
        for mode, truth in (("relative", "its own"), ("absolute", "the driver")):
            cells = [shots, mode]
            for name in (mode, "raw"):
                known = {"landmarks": "exact", "T": shots, "mode": name}
                of = [r for r in landmarks if r["truth"].startswith(truth) and known.items() <= r.items()]
                cells.append(f"{mean(of, 'nme_placed'):.3f}")
            for metric in ("ssim", "pd_facenet_synthetic"):
                for name in (mode, "raw"):
                    known = {"variant": "FT", "T": shots, "config": name}
                    cells.append(f"{mean([r for r in pictures if known.items() <= r.items()], metric):.3f}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fill README.md, and the table of docs/adaptation.md."""
    write_tables(HERE, TABLES, RESULTS)
    landmarks, readme = read("landmarks.csv"), HERE / "README.md"
    text = readme.read_text()
    for name, body in {
        "absolute": landmark_table(landmarks, "exact", "the driver"),
        "relative": landmark_table(landmarks, "exact", "its own"),
        "absolute_dlib": landmark_table(landmarks, "dlib", "the driver"),
        "relative_dlib": landmark_table(landmarks, "dlib", "its own"),
        "bounds": bounds_table(landmarks),
        "jitter": jitter_table(read("jitter.csv")),
    }.items():
        text = fill_block(text, name, body)
    write_atomic(readme, text.encode())
    guide = HERE.parents[1] / "docs" / "adaptation.md"
    table = summary_table(landmarks, read("results.csv"))
    write_atomic(guide, fill_block(guide.read_text(), "adaptation", table).encode())


if __name__ == "__main__":
    main()
