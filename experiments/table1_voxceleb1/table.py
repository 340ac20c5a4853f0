"""results.csv -> the tables of README.md, LaTeX and plots: python experiments/table1_voxceleb1/table.py"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/table1_voxceleb1/table.py")

from pathlib import Path

from talkinghead.reporting.paired import Claim, Orderings, Side
from talkinghead.reporting.summary import Method, Table
from talkinghead.reporting.tables import write_tables

HERE = Path(__file__).parent
RESULTS = [  # of the synthetic data set, where ours is measured in the other folder, and beside it of VoxCeleb1
    HERE / "results.csv",
    HERE.parent / "table1_voxceleb2" / "results.csv",
    HERE / "voxceleb1.csv",
]
X2FACE, PIX2PIXHD = Method("X2Face", "x2face", paper="x2face"), Method("Pix2pixHD", "pix2pixhd", paper="pix2pixhd")
OURS, NEAREST, MEAN = (
    Method("ours", "ours", "FT", paper="ours"),
    Method("nearest frame", "nearest"),
    Method("mean frame", "mean"),
)
METHODS = (X2FACE, PIX2PIXHD, OURS, NEAREST, MEAN)
PAPER = ("fid", "ssim", "csim", "user")
PERCEPTUAL = ("pd_facenet_synthetic", "pd_mobilenetv2")
SYNTHETIC = ("ssim", *PERCEPTUAL, "fd_facenet_synthetic", "csim_dlib", "user", "nme", "face_found")
COMPARED = ("ssim", *PERCEPTUAL, "csim_dlib", "nme")
CLAIMS = tuple(
    Claim(Side(OURS, shots), Side(rival, shots), COMPARED)
    for rival in (X2FACE, PIX2PIXHD, NEAREST)
    for shots in (1, 8, 32)
)
TABLES = (
    Table("voxceleb1", "voxceleb1/test", METHODS, ("fid", "ssim", "csim", "user", "lpips", "nme", "face_found"), PAPER),
    Table("synthetic", "synthetic/test", METHODS, SYNTHETIC, PAPER),
    Orderings("orderings", "synthetic/test", CLAIMS),
)


if __name__ == "__main__":
    write_tables(HERE, TABLES, RESULTS)
