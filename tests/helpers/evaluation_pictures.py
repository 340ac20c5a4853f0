"""What evaluate.py leaves behind, made in no time: rows and kept pictures in which real and fake can be told apart."""

from collections.abc import Sequence
from pathlib import Path

import torch

from talkinghead.evaluation.outputs import FrameStore
from talkinghead.evaluation.results import ALL_CLIPS, ResultKey, Results

REAL, FAKE = -0.6, 0.6  # grey levels


def write_evaluation(
    root: Path, people: int = 4, shots: tuple[int, ...] = (1, 8), side: int = 16, names: Sequence[str] = ()
) -> Path:
    """Methods ours/FF, ours/FT and nearest on `people` persons, or those named, with 12 hold-out frames each."""
    kept, results = FrameStore(root / "frames"), Results(root / "results.csv")
    methods = [("ours", "FF", "0123456789ab"), ("ours", "FT", "0123456789ab"), ("nearest", "-", "-")]
    for person in names or [f"person{n}" for n in range(people)]:
        kept.save_target(ResultKey("tiny/test", "-", "-", 1, person), torch.full((12, 3, side, side), REAL))
        for method, variant, checkpoint in methods:
            for T in shots:
                key = ResultKey("tiny/test", method, variant, T, person, checkpoint)
                kept.save(key, torch.full((12, 3, side, side), FAKE))
                results.add(key, {"num_targets": 12, "ssim": 0.5, "learning_s": 1.0, "commit": "c0ffee"})
    for method, variant, checkpoint in methods:
        key = ResultKey("tiny/test", method, variant, shots[0], ALL_CLIPS, checkpoint)
        results.add(key, {"num_targets": 12 * people, "fid": 30.0, "commit": "c0ffee"})
    return root
