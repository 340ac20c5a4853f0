"""results.csv -> the tables of README.md, LaTeX and plots: python experiments/table1_voxceleb1/table.py"""

from pathlib import Path

from talkinghead.metrics.summary import Method, Table
from talkinghead.metrics.table import write_tables

HERE = Path(__file__).parent
RESULTS = [HERE / "results.csv", HERE.parent / "table1_voxceleb2" / "results.csv"]  # ours is measured there
METHODS = (
    Method("X2Face", "x2face", paper="x2face"),
    Method("Pix2pixHD", "pix2pixhd", paper="pix2pixhd"),
    Method("ours", "ours", "FT", paper="ours"),
    Method("nearest frame", "nearest"),
    Method("mean frame", "mean"),
)
PAPER = ("fid", "ssim", "csim", "user")
SYNTHETIC = ("ssim", "pd_facenet_synthetic", "pd_mobilenetv2", "fd_facenet_synthetic", "csim_dlib", "nme", "face_found")
TABLES = (
    Table("voxceleb1", "voxceleb1/test", METHODS, ("fid", "ssim", "csim", "lpips", "nme", "face_found"), PAPER),
    Table("synthetic", "synthetic/test", METHODS, SYNTHETIC, PAPER),
)

if __name__ == "__main__":
    write_tables(HERE, TABLES, RESULTS)
