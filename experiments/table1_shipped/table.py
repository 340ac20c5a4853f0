"""results.csv -> the tables of README.md: python experiments/table1_shipped/table.py"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/table1_shipped/table.py")

from pathlib import Path

from talkinghead.reporting.paired import Claim, Orderings, Side
from talkinghead.reporting.summary import Method, Table
from talkinghead.reporting.tables import write_tables

HERE = Path(__file__).parent
RESULTS = [HERE / "results.csv", HERE / "baselines.csv", HERE / "starts.csv"]
FF, FT = Method("ours, FF", "ours", "FF"), Method("ours, FT", "ours", "FT", "default")
X2FACE, PIX2PIXHD = Method("X2Face", "x2face"), Method("Pix2pixHD", "pix2pixhd")
WARPED, NEAREST, MEAN = Method("warped", "warped"), Method("nearest frame", "nearest"), Method("mean frame", "mean")
METRICS = (
    "ssim", "pd_facenet_synthetic", "fd_facenet_synthetic", "csim_dlib", "nme", "lip_correlation", "lip_gain",
    "face_found", "learning_s",
)  # fmt: skip
COMPARED = ("ssim", "pd_facenet_synthetic", "csim_dlib", "nme", "lip_correlation")
CLAIMS = (
    Claim(Side(FT, 8), Side(FT, 1), COMPARED),
    *(
        Claim(Side(FT, shots), Side(rival, shots), COMPARED)
        for rival in (FF, X2FACE, PIX2PIXHD, WARPED, NEAREST)
        for shots in (1, 8)
    ),
)
STARTS = (  # of fine-tuning, at T = 1
    FT._replace(label="w' scaled, psi' = P e_hat (default)"),
    Method("w' = w0", "ours", "FT", "w0_start"),
    Method("w' random, of the scaled norm", "ours", "FT", "random_w"),
    Method("w' = w0 + e_hat (the paper's letter)", "ours", "FT", "embedding_start"),
    Method("psi' random", "ours", "FT", "random_psi"),
)
START_CLAIMS = tuple(Claim(Side(STARTS[0], 1), Side(rival, 1), COMPARED) for rival in STARTS[1:])
TABLES = (
    Table("synthetic", "synthetic/test", (FF, FT, X2FACE, PIX2PIXHD, WARPED, NEAREST, MEAN), METRICS),
    Orderings("orderings", "synthetic/test", CLAIMS),
    Table("starts", "synthetic/test", STARTS, COMPARED),
    Orderings("start_orderings", "synthetic/test", START_CLAIMS),
)

if __name__ == "__main__":
    write_tables(HERE, TABLES, RESULTS)
