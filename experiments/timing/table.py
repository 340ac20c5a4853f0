"""results.csv -> the tables of README.md, LaTeX and plots: python experiments/timing/table.py"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/timing/table.py")

from pathlib import Path

from talkinghead.reporting.summary import Method, Table
from talkinghead.reporting.tables import write_tables

HERE = Path(__file__).parent
RESULTS = [HERE.parent / folder / "results.csv" for folder in ("table1_voxceleb1", "table1_voxceleb2", "timing")]
METHODS = (
    Method("ours, FF", "ours", "FF"),
    Method("ours, FT", "ours", "FT"),
    Method("X2Face", "x2face"),
    Method("Pix2pixHD", "pix2pixhd"),
)
METRICS = ("learning_s", "ms_per_frame")
TABLES = (
    Table("paper_size", "random/256", METHODS, METRICS),
    Table("synthetic", "synthetic/test", METHODS, METRICS),
)

if __name__ == "__main__":
    write_tables(HERE, TABLES, RESULTS)
