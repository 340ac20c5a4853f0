"""What the content loss says about distortions, and what FaceNet knows about people it never saw.

python benchmarks/perceptual.py [--data DIR] [--facenet FILE] [--vgg16 FILE] [--mobilenet_v2 FILE]
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("benchmarks/perceptual.py")

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from talkinghead.data.labelled_frames import Faces, LabelledFrames
from talkinghead.learners.facenet import correlation, to_images, verification_auc
from talkinghead.losses import activation_distance
from talkinghead.models.backbones import Backbone, LaplacianPyramid, RandomFeatures, mobilenet_v2, vgg16
from talkinghead.models.facenet import Face, FaceNet, facenet_synthetic, load_facenet

SIZE = 64
HEADS = Path(__file__).parents[1] / "tests" / "synthetic_heads"


def distortions(faces: Faces) -> tuple[Tensor, dict[str, Tensor]]:
    """The first frame of each video, and what may go wrong with it."""
    frames = to_images(faces).unflatten(0, (len(faces.videos.unique()), -1))
    points = faces.landmarks.unflatten(0, frames.shape[:2])
    moved = (points[:, 1:] - points[:, :1]).norm(dim=-1).mean(dim=-1)
    every = torch.arange(len(frames))
    x = frames[:, 0]
    rows = {f"blur, sigma {sigma} px": blurred(x, sigma) for sigma in (0.5, 1, 2, 4)}
    rows |= {f"shift, {n} px": F.pad(x, (n, 0, 0, 0), mode="replicate")[..., : x.shape[-1]] for n in (1, 2, 4, 8)}
    rows |= {f"colour, +{value}": x + value for value in (0.1, 0.3)}
    rows["nearest pose of the video"] = frames[every, moved.argmin(dim=1) + 1]
    rows["furthest pose of the video"] = frames[every, moved.argmax(dim=1) + 1]
    rows["another person"] = x.roll(2, 0)
    return x, rows


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur."""
    images = [cv2.GaussianBlur(image.permute(1, 2, 0).numpy(), (0, 0), sigma) for image in x]
    return torch.from_numpy(np.stack(images)).movedim(-1, 1)


@torch.no_grad()
def print_knowledge(network: FaceNet, faces: Faces, action_names: list[str]) -> None:
    """Verification, landmarks and the actions read best."""
    face = Face(*(torch.cat(parts) for parts in zip(*map(network, to_images(faces).split(64)), strict=True)))
    eyes = (faces.landmarks[:, 36] - faces.landmarks[:, 45]).norm(dim=-1).clamp_min(1e-3)
    error = (face.landmarks - faces.landmarks).norm(dim=-1).mean(dim=1) / eyes
    auc = verification_auc(face.embedding, faces.identities, faces.videos)
    print(f"{len(faces.identities.unique())} people, {len(faces.images)} frames")
    print(
        f"same person in two rooms: AUC {auc:.3f}; landmark error / inter-ocular distance, median: {error.median():.3f}"
    )
    for name in ("jawOpen", "mouthSmileLeft", "eyeBlinkLeft", "eyeLookInLeft"):
        column = slice(action_names.index(name), action_names.index(name) + 1)
        print(f"correlation of {name}: {correlation(face.actions[:, column], faces.actions[:, column]):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=str(HEADS), help="synthetic data set with a split `val`")
    for name in ("facenet", "vgg16", "mobilenet_v2"):
        parser.add_argument(f"--{name}")
    options = parser.parse_args()
    data = LabelledFrames(options.data, "val", SIZE)
    print_knowledge(load_facenet(options.facenet), data.faces, data.action_names)
    backbones: dict[str, Backbone] = {
        "facenet_synthetic": facenet_synthetic(options.facenet),
        "laplacian": LaplacianPyramid(),
        "random": RandomFeatures(),
    }
    if options.vgg16:
        backbones["vgg16"] = vgg16("caffe_folded", options.vgg16)
    if options.mobilenet_v2:
        backbones["mobilenet_v2"] = mobilenet_v2(options.mobilenet_v2)
    x, rows = distortions(data.faces)
    print("| distortion |" + "".join(f" {name} |" for name in backbones) + "\n|---|" + "---|" * len(backbones))
    with torch.no_grad():
        for row, x_hat in rows.items():
            print(f"| {row} |" + "".join(f" {activation_distance(b, x, x_hat):.3g} |" for b in backbones.values()))


if __name__ == "__main__":
    main()
