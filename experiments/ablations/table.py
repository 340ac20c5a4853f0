"""results.csv -> the tables of README.md, LaTeX and plots: python experiments/ablations/table.py"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/ablations/table.py")

from pathlib import Path

from talkinghead.reporting.paired import Claim, Orderings, Side
from talkinghead.reporting.summary import Method, Table
from talkinghead.reporting.tables import write_tables

HERE = Path(__file__).parent
# Of the synthetic data set, beside it of VoxCeleb2, and of the rows about the warp-guided generator.
RESULTS = [HERE / "results.csv", HERE / "voxceleb2.csv", HERE / "warp.csv"]
META = {
    "default": "default",
    "no_mch": "without L_MCH",
    "no_fm": "without L_FM",
    "no_vggface": "without VGGFace",
    "no_facenet": "without FaceNet",
    "w_detached": "W detached in L_MCH",
    "one_d_step": "one D step",
    "two_d_steps": "two D steps",
}
FINE_TUNING = {"random_psi": "random psi'"}
WARP = {
    "warp": "warp-guided, as it is",
    "no_correction": "without the correction of the flow",
    "no_unwarped_shot": "without the unwarped shot",
    "no_adversarial": "without L_ADV and L_FM",
    "no_embedding": "without e_hat",
}
METRICS = ("ssim", "pd_facenet_synthetic", "pd_mobilenetv2", "csim_dlib", "nme", "face_found")
PAPER_METRICS = ("fid", "ssim", "csim", "lpips", "nme", "face_found")


def methods(variant: str, rows: dict[str, str]) -> tuple[Method, ...]:
    """One line for each row of the experiment."""
    return tuple(Method(label, "ours", variant, config) for config, label in rows.items())


WARP_METRICS = ("ssim", "pd_facenet_synthetic", "csim_dlib", "nme", "lip_correlation", "lip_gain", "face_found")
WARP_METHODS = (*methods("FF", WARP), Method("warped, nothing learned", "warped"))
WARP_CLAIMS = [
    Claim(Side(WARP_METHODS[0], shots), Side(rival, shots), WARP_METRICS[:5])
    for rival in WARP_METHODS[1:]
    for shots in (1, 8)
]
TABLES = (
    Table("voxceleb2", "voxceleb2/test", methods("FT", META | FINE_TUNING), PAPER_METRICS),
    Table("synthetic_ft", "synthetic/test", methods("FT", META | FINE_TUNING), METRICS),
    Table("synthetic_ff", "synthetic/test", methods("FF", META), METRICS),
    Table("warp", "synthetic/test", WARP_METHODS, WARP_METRICS),
    Orderings("warp_orderings", "synthetic/test", WARP_CLAIMS),
)

if __name__ == "__main__":
    write_tables(HERE, TABLES, RESULTS)
