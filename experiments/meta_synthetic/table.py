"""From a finished run to its results and previews here, and the tables of the READMEs.

python experiments/meta_synthetic/table.py outputs/meta_synthetic_warp/<time>     take a run of that experiment over
python experiments/meta_synthetic/table.py                                        build the tables again
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/meta_synthetic/table.py")

import csv
import io
import re
import sys
from pathlib import Path

import cv2
import torch
import yaml

from talkinghead.provenance import OriginStatement, marked
from talkinghead.storage import write_atomic

HERE = Path(__file__).parent
FILES = {"meta_synthetic": ("results.csv", "previews.jpg"), "meta_synthetic_warp": ("warp.csv", "warp.jpg")}
READMES = (HERE / "README.md", HERE.parents[1] / "README.md")
BLOCK = r"(<!-- table: {} -->\n).*?(<!-- end of table -->)"
METRICS = {"nme": "NME ↓", "face_found": "face found ↑", "ssim": "SSIM ↑", "psnr": "PSNR (dB) ↑", "lpips": "LPIPS ↓"}
METHODS = {"model": ("ours", "FF"), "nearest": ("nearest frame", "-")}


def take_run(run: Path) -> None:
    """Last validation of a run -> a csv here; its preview grid -> a jpg."""
    rows = list(csv.DictReader((run / "validation.csv").open()))
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    checkpoint = torch.load(run / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)
    overrides = yaml.safe_load((run / ".hydra/overrides.yaml").read_text())
    experiment = next(one.removeprefix("experiment=") for one in overrides if one.startswith("experiment="))
    table, pictures = (HERE / name for name in FILES[experiment])
    results = []
    for row in last:
        method, variant = METHODS[row["method"]]
        metrics = {name: row[name] for name in METRICS if name in row}
        results.append({
            "data": "synthetic", "method": method, "variant": variant, "T": row["T"], "clip": "*", **metrics,
            "step": row["step"], "config": " ".join(overrides), "commit": checkpoint["config"]["git_commit"],
        })  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, list(results[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(results)
    write_atomic(table, text.getvalue().encode())
    _, picture = cv2.imencode(".jpg", cv2.imread(str(run / "previews/latest.png")), [cv2.IMWRITE_JPEG_QUALITY, 92])
    write_atomic(pictures, marked(picture.tobytes(), OriginStatement(composite=True)))


def build_table(path: Path) -> str:
    """Markdown, the better of the two methods in bold."""
    rows = list(csv.DictReader(path.open()))
    metrics = [name for name in METRICS if name in rows[0]]
    lines = ["| T | method | " + " | ".join(METRICS[m] for m in metrics) + " |", "|---" * (len(metrics) + 2) + "|"]
    for row in rows:
        rivals = [r for r in rows if r["T"] == row["T"]]
        cells = []
        for name in metrics:
            best = (max if METRICS[name].endswith("↑") else min)(float(r[name]) for r in rivals)
            value = f"{float(row[name]):.3f}" if name != "psnr" else f"{float(row[name]):.1f}"
            cells.append(f"**{value}**" if float(row[name]) == best else value)
        lines.append(f"| {row['T']} | {row['method']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Take a run over if one is named, then write the tables."""
    if len(sys.argv) > 1:
        take_run(Path(sys.argv[1]))
    for experiment, (name, _) in FILES.items():
        table, block = build_table(HERE / name), re.compile(BLOCK.format(experiment), re.DOTALL)
        for path in READMES:
            text = block.sub(lambda found, table=table: found[1] + table + found[2], path.read_text())
            write_atomic(path, text.encode())
        print(table)


if __name__ == "__main__":
    main()
