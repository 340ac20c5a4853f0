"""Whether the recognisers tell people apart, what the metrics say about distortions, and what they cost.

python benchmarks/metrics.py --data DIR [--split test] [--size 64] [--arcface FILE] [--mobilenet_v2 FILE] [--vgg16 FILE]
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("benchmarks/metrics.py")

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from talkinghead.data.episodes import decode
from talkinghead.data.reader import ShardPool, load_info
from talkinghead.metrics.features import PooledFeatures
from talkinghead.metrics.frechet import FrechetDistance
from talkinghead.metrics.identity import IdentitySimilarity, find_arcface, find_dlib_identity
from talkinghead.metrics.landmarks import find_detector
from talkinghead.metrics.perceptual import PerceptualDistance
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.backbones import mobilenet_v2, vgg16
from talkinghead.models.facenet import facenet_synthetic


class Picture(NamedTuple):
    """A frame of someone; `clip` tells that person's clips apart."""

    person: str
    clip: str
    image: np.ndarray  # uint8 [size, size, 3]
    points: np.ndarray  # float32 [68, 2]


def read(path: str, split: str, size: int) -> Iterator[Picture]:
    """Two frames of each clip, one fifth from its start and its end."""
    pool = ShardPool(path, load_info(path).splits[split].shards)
    for clip in map(pool.clip, range(len(pool))):
        landmarks = clip.landmarks()
        usable = np.flatnonzero(np.isfinite(landmarks).all(axis=(1, 2)))
        for n in (usable[len(usable) // 5], usable[len(usable) * 4 // 5]):
            image, scale = decode(clip, clip.index.frames[n], size)
            points = (landmarks[n] + 0.5) * scale - 0.5
            yield Picture(str(clip.meta()["identity"]), clip.key, image, points.astype(np.float32))


def print_separation(name: str, similarity: IdentitySimilarity, pictures: list[Picture]) -> None:
    """Cosines of two pictures of one person and of two people, each aligned by its own landmarks."""
    embeddings = similarity.recognizer(np.stack([p.image for p in pictures]), np.stack([p.points for p in pictures]))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    groups: dict[str, list[float]] = {"same clip": [], "another clip of the person": [], "another person": []}
    for (n, a), (m, b) in itertools.combinations(enumerate(pictures), 2):
        kind = "same clip" if a.clip == b.clip else "another clip of the person"
        groups[kind if a.person == b.person else "another person"].append(float(embeddings[n] @ embeddings[m]))
    for kind, values in groups.items():
        if values:
            low, high = np.percentile(values, [5, 95])
            print(
                f"{name}, {kind}: mean {np.mean(values):.3f}, 5 to 95 %: {low:.3f} to {high:.3f} ({len(values)} pairs)"
            )
    same, other = (
        np.array(groups["same clip"] + groups["another clip of the person"]),
        np.array(groups["another person"]),
    )
    print(f"{name}: AUC {(same[:, None] > other).mean():.4f}")


def print_distortions(metrics: ImageMetrics, pictures: list[Picture]) -> None:
    """Every metric of the first frame of each clip against what may go wrong with it."""
    first, second = pictures[::2], pictures[1::2]
    x, points = as_images(first), torch.from_numpy(np.stack([p.points for p in first]))
    apart = len(first) // 2  # clips follow each other by person
    rows = {
        "the same": x,
        "blur, sigma 0.5 px": blurred(x, 0.5),
        "blur, sigma 1 px": blurred(x, 1),
        "blur, sigma 2 px": blurred(x, 2),
        "shift, 2 px": x.roll(2, dims=-1),
        "noise, 0.1": x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
        "another frame of the clip": as_images(second),
        "another person": x.roll(apart, dims=0),
    }
    values = {row: metrics.average(metrics.measure(x_hat, x, points)) for row, x_hat in rows.items()}
    names = list(values["the same"])
    print("| |" + "".join(f" {name} |" for name in names) + "\n|---|" + "---|" * len(names))
    for row, measured in values.items():
        print(f"| {row} |" + "".join(f" {measured[name]:.3g} |" for name in names))


def print_costs(parts: dict[str, Callable[[], object]], num_images: int) -> None:
    """CPU time per image of each part."""
    for name, part in parts.items():
        began = time.process_time()
        part()
        print(f"{name}: {1000 * (time.process_time() - began) / num_images:.1f} ms per image")


def as_images(pictures: list[Picture]) -> Tensor:
    return torch.from_numpy(np.stack([p.image for p in pictures])).permute(0, 3, 1, 2).float() / 127.5 - 1


def blurred(x: Tensor, sigma: float) -> Tensor:
    images = [cv2.GaussianBlur(image.permute(1, 2, 0).numpy(), (0, 0), sigma) for image in x]
    return torch.from_numpy(np.stack(images)).movedim(-1, 1)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="prepared data set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--size", type=int, default=64)
    for name in ("arcface", "mobilenet_v2", "vgg16"):
        parser.add_argument(f"--{name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = list(read(options.data, options.split, options.size))
    print(f"{len({p.person for p in pictures})} people, {len(pictures)} pictures of {options.size} px")
    similarities = {"csim": find_arcface(options.arcface), "csim_dlib": find_dlib_identity()}
    for name, similarity in similarities.items():
        if similarity is not None:
            print_separation(name, similarity, pictures)
    backbones = {"facenet_synthetic": facenet_synthetic()}
    if options.mobilenet_v2:
        backbones["mobilenetv2"] = mobilenet_v2(options.mobilenet_v2)
    if options.vgg16:
        backbones["vgg16"] = vgg16("caffe_folded", options.vgg16)
    distances = {f"pd_{name}": PerceptualDistance(backbone) for name, backbone in backbones.items()}
    metrics = ImageMetrics(find_detector(), distances, similarities=similarities)
    print_distortions(metrics, pictures)
    x, points = as_images(pictures[:8]), torch.from_numpy(np.stack([p.points for p in pictures[:8]]))
    parts: dict[str, Callable[[], object]] = {"ssim and psnr": lambda: ImageMetrics().measure(x, x, points)}
    parts |= {name: lambda d=distance: d(x, x) for name, distance in distances.items()}
    faces = np.stack([p.image for p in pictures[:8]]), points.numpy()
    parts |= {name: lambda s=s: s.recognizer(*faces) for name, s in metrics.similarities.items()}
    if metrics.detector is not None:
        parts["nme"] = lambda: ImageMetrics(metrics.detector).measure(x, x, points)
    for name, backbone in backbones.items():
        frechet = FrechetDistance(f"fd_{name}", PooledFeatures(backbone))
        parts[f"fd_{name}"] = lambda f=frechet: f.update_fake(x)
    print_costs(parts, len(x))


if __name__ == "__main__":
    main()
