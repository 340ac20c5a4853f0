"""results.csv -> the tables of README.md, LaTeX and plots: python experiments/table1_voxceleb2/table.py"""

from pathlib import Path

from talkinghead.metrics.summary import Method, Table
from talkinghead.metrics.table import write_tables

HERE = Path(__file__).parent
RESULTS = [HERE / "results.csv"]
METHODS = (Method("ours, FF", "ours", "FF", paper="ours-ff"), Method("ours, FT", "ours", "FT", paper="ours-ft"))
PAPER = ("fid", "ssim", "csim", "user")
SYNTHETIC = ("ssim", "pd_facenet_synthetic", "pd_mobilenetv2", "fd_facenet_synthetic", "csim_dlib", "nme", "face_found")
TABLES = (
    Table("voxceleb2", "voxceleb2/test", METHODS, ("fid", "ssim", "csim", "lpips", "nme", "face_found"), PAPER),
    Table("synthetic", "synthetic/test", METHODS, SYNTHETIC, PAPER),
    Table("cross", "synthetic/cross", METHODS, SYNTHETIC),
)

if __name__ == "__main__":
    write_tables(HERE, TABLES, RESULTS)
