"""results.csv -> the tables of README.md, LaTeX and plots: python experiments/table1_voxceleb2/table.py"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/table1_voxceleb2/table.py")

from pathlib import Path

from talkinghead.reporting.paired import Claim, Orderings, Side
from talkinghead.reporting.summary import Method, Table
from talkinghead.reporting.tables import write_tables

HERE = Path(__file__).parent
RESULTS = [HERE / "results.csv", HERE / "voxceleb2.csv"]  # of the synthetic data set, and beside it of VoxCeleb2
FF, FT = Method("ours, FF", "ours", "FF", paper="ours-ff"), Method("ours, FT", "ours", "FT", paper="ours-ft")
METHODS = (FF, FT)
PAPER = ("fid", "ssim", "csim", "user")
PERCEPTUAL = ("pd_facenet_synthetic", "pd_mobilenetv2")
SYNTHETIC = ("ssim", *PERCEPTUAL, "fd_facenet_synthetic", "csim_dlib", "user", "nme", "face_found")
COMPARED = ("ssim", *PERCEPTUAL, "csim_dlib")
CLAIMS = (
    Claim(Side(FT, 8), Side(FT, 1), COMPARED),
    Claim(Side(FT, 32), Side(FT, 8), COMPARED),
    *(Claim(Side(FT, shots), Side(FF, shots), COMPARED) for shots in (1, 8, 32)),
)
TABLES = (
    Table("voxceleb2", "voxceleb2/test", METHODS, ("fid", "ssim", "csim", "user", "lpips", "nme", "face_found"), PAPER),
    Table("synthetic", "synthetic/test", METHODS, SYNTHETIC, PAPER),
    Orderings("orderings", "synthetic/test", CLAIMS),
    Table("cross", "synthetic/cross", METHODS, SYNTHETIC),
)

if __name__ == "__main__":
    write_tables(HERE, TABLES, RESULTS)
