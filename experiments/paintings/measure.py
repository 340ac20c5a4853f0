"""How far three clips of one painting differ in motion while the person stays the same.

python experiments/paintings/measure.py
    the painted synthetic head against the truth, into results.csv and README.md
python experiments/paintings/measure.py PICTURE FOLDER DRIVER...
    clips of another picture, FOLDER/<driver's name>.mp4: printed
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/paintings/measure.py")

import csv
import io
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
import torch
from jaxtyping import Float, UInt8
from paint import PAINTING, truth
from PIL import Image

from talkinghead.faces.crop import Framing, cut, to_crop
from talkinghead.faces.detectors import Dlib
from talkinghead.metrics.identity import DlibIdentity
from talkinghead.metrics.landmarks import DlibLandmarks
from talkinghead.metrics.perceptual import PerceptualDistance
from talkinghead.metrics.suite import ssim
from talkinghead.models.facenet import facenet_synthetic
from talkinghead.provenance import OriginStatement, marked
from talkinghead.provenance.marking import xmp_packet
from talkinghead.reenactment.inputs import SHIPPED
from talkinghead.reenactment.source import Portrait, as_frames, read_source
from talkinghead.reporting.tables import fill_block
from talkinghead.storage import write_atomic
from talkinghead.tools.render_examples import DRIVERS
from talkinghead.video.reader import Video

HERE = Path(__file__).parent
EVERY, SIZE, NETWORKS = 4, 256, 256  # measured frames; pixels of the clips and of the networks' pictures
Row = dict[str, str]


class Clip(NamedTuple):
    """Measured frames of a video: landmarks (pixels at `SIZE`; NaN where no face is found) and identity."""

    name: str
    frames: UInt8[np.ndarray, "F S S 3"]
    points: Float[np.ndarray, "F 68 2"]
    faces: Float[np.ndarray, "F 128"]


def look(name: str, frames: UInt8[np.ndarray, "F S S 3"]) -> Clip:
    """Find the face in each frame, and whose it is."""
    find, recognize = DlibLandmarks(SIZE), DlibIdentity()
    points = np.stack([np.full((68, 2), np.nan) if (p := find(f)) is None else p for f in frames])
    faces = np.full((len(frames), 128), np.nan)
    seen = ~np.isnan(points[:, 0, 0])
    if seen.any():
        faces[seen] = recognize(frames[seen], points[seen])
    return Clip(name, frames, points, faces)


def read(path: Path) -> UInt8[np.ndarray, "F S S 3"]:
    """Each `EVERY`-th frame of a video."""
    with Video(path) as video:
        frames = [image for _, image in video.read(range(0, video.num_frames, EVERY))]
    return np.stack([cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for frame in frames])


def signals(points: Float[np.ndarray, "F 68 2"]) -> dict[str, Float[np.ndarray, " F"]]:
    """What moves, in eye distances or radians: turn, nod, tilt of the head, opening of mouth and eyes."""
    eyes = points[:, 45] - points[:, 36]
    width = np.linalg.norm(eyes, axis=-1)
    along, down = eyes / width[:, None], np.stack([-eyes[:, 1], eyes[:, 0]], -1) / width[:, None]
    nose = points[:, 30] - points[:, [36, 45]].mean(1)

    def gap(*pairs: tuple[int, int]) -> Float[np.ndarray, " F"]:
        return np.mean([np.linalg.norm(points[:, a] - points[:, b], axis=-1) for a, b in pairs], 0) / width

    return {
        "turn": (nose * along).sum(-1) / width, "nod": (nose * down).sum(-1) / width,
        "tilt": np.arctan2(eyes[:, 1], eyes[:, 0]), "mouth": gap((61, 67), (62, 66), (63, 65)),
        "eyes": gap((37, 41), (38, 40), (43, 47), (44, 46)),
    }  # fmt: skip


def correlations(clip: Clip, driver: Clip) -> Row:
    """How well each signal of the clip goes along with the driver's."""
    both = ~np.isnan(clip.points[:, 0, 0]) & ~np.isnan(driver.points[:, 0, 0])
    ours, theirs = signals(clip.points[both]), signals(driver.points[both])
    return {name: f"{np.corrcoef(ours[name], theirs[name])[0, 1]:.3f}" for name in ours}


def similarity(a: Float[np.ndarray, "*F 128"], b: Float[np.ndarray, "*F 128"]) -> float:
    """Mean CSIM over the frames in which both have a face."""
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return float(np.nanmean(cosines))


def apart(a: Float[np.ndarray, "F 68 2"], b: Float[np.ndarray, "F 68 2"]) -> float:
    """Mean distance of the landmarks of frames shown at the same time, in eye distances."""
    eyes = np.linalg.norm(a[:, 45] - a[:, 36], axis=-1)
    return float(np.nanmean(np.linalg.norm(a - b, axis=-1).mean(1) / eyes))


def against(clip: Clip, true: Clip, distance: PerceptualDistance) -> Row:
    """Pictures and landmarks against those of the truth."""
    small = ([cv2.resize(f, (NETWORKS,) * 2, interpolation=cv2.INTER_AREA) for f in c.frames] for c in (clip, true))
    x_hat, x = (as_frames(np.stack(frames), true.points)[0] for frames in small)
    with torch.no_grad():
        values = {"ssim": ssim(x_hat, x), "pd_facenet_synthetic": distance(x_hat, x)}
    values["nme"] = torch.tensor(apart(true.points, clip.points))
    return {name: f"{value.mean():.3f}" for name, value in values.items()}


def measure(source: Portrait, clips: Sequence[Clip], drivers: Sequence[Clip], truths: Sequence[Clip]) -> list[Row]:
    """A row per clip, then a row per pair of clips."""
    still = look("source", cut(source.image, source.crop, SIZE)[None])
    distance = PerceptualDistance(facenet_synthetic())
    rows = []
    for n, (clip, driver) in enumerate(zip(clips, drivers, strict=True)):
        row = {"kind": "clip", "driver": clip.name, "frames": str(len(clip.frames))}
        row["face_found"] = f"{(~np.isnan(clip.points[:, 0, 0])).mean():.3f}"
        row["csim_source"] = f"{similarity(clip.faces, still.faces):.3f}"
        row["csim_driver"] = f"{similarity(clip.faces, driver.faces):.3f}"
        row |= correlations(clip, driver)
        if truths:
            row |= correlations(clip, truths[n]) | against(clip, truths[n], distance)
            row["csim_truth"] = f"{similarity(truths[n].faces, still.faces):.3f}"
        rows.append(row)
    for a, b in combinations(range(len(clips)), 2):
        frames = min(len(clips[a].frames), len(clips[b].frames))
        row = {"kind": "pair", "driver": clips[a].name, "other": clips[b].name, "frames": str(frames)}
        for name, those in (("", clips), ("_truth", truths or drivers)):
            row[f"motion{name}"] = f"{apart(those[a].points[:frames], those[b].points[:frames]):.3f}"
        row["csim_pair"] = f"{similarity(clips[a].faces[:frames], clips[b].faces[:frames]):.3f}"
        rows.append(row)
    return rows


def write_sheet(source: Portrait, clips: Sequence[Clip], drivers: Sequence[Clip], truths: Sequence[Clip]) -> None:
    """sheet.jpg: per driver a row of moments of the driver, of the clip and of the truth; the painting on the left."""
    side, moments = 112, np.linspace(0, len(clips[0].frames) - 1, 9).round().astype(int)
    picture = cv2.resize(cut(source.image, source.crop, SIZE), (side, side), interpolation=cv2.INTER_AREA)
    blank = np.full_like(picture, 255)
    rows = []
    for group in zip(drivers, clips, truths, strict=True):
        for n, clip in enumerate(group):
            tiles = [cv2.resize(clip.frames[m], (side, side), interpolation=cv2.INTER_AREA) for m in moments]
            rows.append(np.concatenate([picture if n == 1 else blank, *tiles], axis=1))
        rows.append(np.full((6, rows[0].shape[1], 3), 255, np.uint8))
    content = simplejpeg.encode_jpeg(np.ascontiguousarray(np.concatenate(rows[:-1])), quality=88, colorspace="RGB")
    write_atomic(HERE / "sheet.jpg", marked(content, OriginStatement(composite=True)))


def write_moving(source: Portrait, clips: Sequence[Clip], drivers: Sequence[Clip]) -> None:
    """moving.webp: the drivers above, the painting and its clips below, in real time."""
    side = 150
    picture = cv2.resize(cut(source.image, source.crop, SIZE), (side, side), interpolation=cv2.INTER_AREA)
    blank, frames = np.full_like(picture, 255), []
    for moment in range(min(len(clip.frames) for clip in clips)):
        tiles = [
            [cv2.resize(one.frames[moment], (side, side), interpolation=cv2.INTER_AREA) for one in row]
            for row in (drivers, clips)
        ]
        frames.append(Image.fromarray(np.vstack([np.hstack([blank, *tiles[0]]), np.hstack([picture, *tiles[1]])])))
    content = io.BytesIO()
    frames[0].save(
        content, "WEBP", save_all=True, append_images=frames[1:], duration=1000 * EVERY // 25, loop=0, quality=75,
        xmp=xmp_packet(OriginStatement(composite=True)),
    )  # fmt: skip
    write_atomic(HERE / "moving.webp", content.getvalue())


def as_markdown(rows: Sequence[Row]) -> str:
    """Rows of one kind as a table."""
    names = [name for name in rows[0] if name != "kind"]
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def as_csv(rows: Sequence[Row]) -> bytes:
    """All rows, empty cells where a column is not of their kind."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def main(arguments: list[str]) -> None:
    """Measure the clips of `animate.sh` or, with arguments PICTURE FOLDER DRIVERS…, of other pictures and drivers."""
    picture, folder = (Path(a) for a in arguments[:2]) if arguments else (PAINTING, HERE)
    paths = [Path(a) for a in arguments[2:]] or [SHIPPED.parent / "drivers" / f"{name}.mp4" for name in DRIVERS]
    source = read_source([picture], Dlib(), Framing(1.8, 0.0))[0]
    clips = [look(path.stem, read(folder / f"{path.stem}.mp4")) for path in paths]
    drivers = [look(path.stem, read(path)[: len(clip.frames)]) for path, clip in zip(paths, clips, strict=True)]
    truths = []
    for clip in clips if not arguments else []:
        true = truth(clip.name, EVERY)
        frames = np.stack([cut(frame, source.crop, SIZE) for frame in true.frames])
        truths.append(look(clip.name, frames)._replace(points=to_crop(true.landmarks, source.crop, SIZE)))
    rows = measure(source, clips, drivers, truths)
    kinds = {
        kind: as_markdown([r for r in rows if r["kind"] == kind]) for kind in dict.fromkeys(r["kind"] for r in rows)
    }
    print("\n".join(kinds.values()))
    if not arguments:
        write_sheet(source, clips, drivers, truths)
        write_moving(source, clips, drivers)
        write_atomic(HERE / "results.csv", as_csv(rows))
        text = (HERE / "README.md").read_text()
        for kind, body in kinds.items():
            text = fill_block(text, kind, body)
        write_atomic(HERE / "README.md", text.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
