"""Kept frames of evaluate.py -> pictures.jpg: what each method makes of the same hold-out frames.

python experiments/table1_voxceleb1/pictures.py outputs/table1_voxceleb1 outputs/table1_voxceleb2
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/table1_voxceleb1/pictures.py")

import sys
from pathlib import Path

import cv2
import numpy as np

from talkinghead.provenance import OriginStatement, marked
from talkinghead.storage import write_atomic

HERE = Path(__file__).parent
DATA = "synthetic/test"
COLUMNS = {
    "target": [("target", None)],
    "FF": [("ours_FF", 8)],
    "FT": [("ours_FT", 1), ("ours_FT", 8), ("ours_FT", 32)],
    "X2Face": [("x2face", 1), ("x2face", 8), ("x2face", 32)],
    "Pix2pixHD": [("pix2pixhd", 1), ("pix2pixhd", 8), ("pix2pixhd", 32)],
    "nearest": [("nearest", 1), ("nearest", 8), ("nearest", 32)],
}
NUM_PEOPLE, NUM_FRAMES, SIDE = 5, 2, 96  # SIDE: pixels of a printed frame


def find_strip(outputs: list[Path], method: str, shots: int | None, person: str) -> np.ndarray:
    """The frames of a person as one strip. Raises FileNotFoundError where no output has it."""
    folder = f"{method}*/T{shots}" if shots else f"{method}*"
    for output in outputs:
        for path in sorted((output / "frames" / DATA).glob(f"{folder}/{person}.png")):
            return cv2.imread(str(path))
    raise FileNotFoundError(f"none of {[str(o) for o in outputs]} has frames of {person} by {method}, T={shots}")


def draw(outputs: list[Path]) -> np.ndarray:
    """People below each other, methods and shot counts beside each other."""
    people = sorted(path.stem for path in (outputs[0] / "frames" / DATA).glob("target*/*.png"))[:NUM_PEOPLE]
    columns = []
    for title, entries in COLUMNS.items():
        for method, shots in entries:
            cells = [caption(f"{title} {shots}" if shots and len(entries) > 1 else title)]
            for person in people:
                strip = find_strip(outputs, method, shots, person)
                side = strip.shape[1]
                last = len(strip) // side - 1
                for frame in np.linspace(0, last, NUM_FRAMES + 2).round().astype(int)[1:-1]:
                    cells.append(cv2.resize(strip[frame * side : (frame + 1) * side], (SIDE, SIDE)))
            columns.append(np.concatenate(cells))
    return np.concatenate(columns, axis=1)


def caption(text: str) -> np.ndarray:
    """Black on white, as wide as a frame."""
    cell = np.full((18, SIDE, 3), 255, np.uint8)
    return cv2.putText(cell, text, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)


if __name__ == "__main__":
    _, content = cv2.imencode(".jpg", draw([Path(name) for name in sys.argv[1:]]), [cv2.IMWRITE_JPEG_QUALITY, 90])
    write_atomic(HERE / "pictures.jpg", marked(content.tobytes(), OriginStatement(composite=True)))
