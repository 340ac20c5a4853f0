"""Kept frames -> pictures.jpg: `python experiments/cross_reenactment/pictures.py OUTPUT data/synthetic`."""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/cross_reenactment/pictures.py")

import sys
from pathlib import Path

import cv2
import numpy as np

from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.evaluation.frame_choice import FrameChoice
from talkinghead.evaluation.tasks import CrossReenactment
from talkinghead.pixels import as_pictures
from talkinghead.provenance import OriginStatement, marked
from talkinghead.storage import write_atomic

HERE = Path(__file__).parent
MODES = ("raw", "relative", "absolute")
COLUMNS = ("source", "driver", *MODES, "truth")
SIDE, SHOTS = 112, 8


def draw(output: Path, data: Path) -> np.ndarray:
    """One row per person: the middle one of the frames."""
    module = EpisodeDataModule(
        data, size=64, num_shots=1, episodes_per_epoch=1, batch_size=1, num_workers=0, seed=0, source_hint=""
    )
    source = CrossReenactment(module, 64, FrameChoice())
    folder = output / "frames" / source.name
    rows = [np.concatenate([caption(name) for name in COLUMNS], 1)]
    for path in sorted((folder / "target").glob("*.png")):
        if not all(any(folder.glob(f"ours_FT_*_{mode}_*/T{SHOTS}/{path.name}")) for mode in MODES):
            continue  # not driven in all ways
        person = source.load(path.stem)
        number = len(person.driving.images) // 2
        shown = [
            as_pictures(images[[index]])[0, ..., ::-1]
            for images, index in ((person.shots.images, 0), (person.driving.images, number))
        ]
        strips = [newest(folder, f"ours_FT_*_{mode}_*/T{SHOTS}/{path.name}") for mode in MODES]
        shown += [frame_of(strip, number) for strip in [*strips, path]]
        rows.append(np.concatenate([cv2.resize(picture, (SIDE, SIDE)) for picture in shown], 1))
    return np.concatenate(rows)


def newest(folder: Path, pattern: str) -> Path:
    """The latest of the files."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime)


def frame_of(strip: Path, number: int) -> np.ndarray:
    """One of the frames, which lie below each other."""
    picture = cv2.imread(str(strip))
    if picture is None:
        raise FileNotFoundError(strip)
    side = picture.shape[1]
    return picture[number * side : (number + 1) * side]


def caption(text: str) -> np.ndarray:
    """Black on white, as wide as a frame."""
    cell = np.full((20, SIDE, 3), 255, np.uint8)
    return cv2.putText(cell, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)


if __name__ == "__main__":
    _, content = cv2.imencode(".jpg", draw(Path(sys.argv[1]), Path(sys.argv[2])), [cv2.IMWRITE_JPEG_QUALITY, 90])
    write_atomic(HERE / "pictures.jpg", marked(content.tobytes(), OriginStatement(composite=True)))
