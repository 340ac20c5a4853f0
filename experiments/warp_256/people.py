"""The people that warp_256 is trained on: `python people.py SHEET.jpg [FIRST [SIDE [COUNT]]]`.

Training frames of COUNT people from number FIRST, SIDE pixels wide; with `--augmented` as an episode shows them.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from talkinghead.data.augmentation import Augmentation
from talkinghead.provenance import OriginStatement, marked
from talkinghead.storage import write_atomic
from talkinghead.synthetic.dataset import ClipPlan, RenderPlan, render_clip

FRAMES, COLUMNS = 3, 8


def main(path: Path, first: int = 0, side: int = 160, count: int = 64, augmented: bool = False) -> None:
    """The people are those of data=synthetic_256."""
    plan = RenderPlan(image_size=256, supersampling=2, fps=1.6, seed=0, quality=95, device="cpu", looks=3)
    cells = []
    for person in range(first, first + count):
        clip = render_clip(ClipPlan("train", person, person, 0, person, FRAMES), plan)
        frame = simplejpeg.decode_jpeg(clip.frames[person % FRAMES])
        frame = Augmentation().images(frame[None], (0, 0, person))[0] if augmented else frame
        cells.append(cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) if side != 256 else frame)
    rows = [np.hstack(cells[n : n + COLUMNS]) for n in range(0, count, COLUMNS)]
    content = simplejpeg.encode_jpeg(np.ascontiguousarray(np.vstack(rows)), quality=85, colorspace="RGB")
    write_atomic(path, marked(content, OriginStatement(learned=False)))


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if word != "--augmented"]
    main(Path(given[0]), *map(int, given[1:]), augmented="--augmented" in sys.argv)
