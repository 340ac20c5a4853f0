"""The package face-alignment with weight files that this project has found, instead of its own download."""

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from face_alignment import FaceAlignment, LandmarksType
from face_alignment.models import FAN
from face_alignment.utils import CENTER_Y_OFFSET, crop, flip, get_preds_fromhm
from jaxtyping import Float, UInt8
from torch import Tensor

from talkinghead import pretrained


def find_weights() -> tuple[Path, Path]:
    """The files of S3FD and 2D-FAN-4. FileNotFoundError says where to get them, and what to use instead."""
    return pretrained.find("s3fd"), pretrained.find("2dfan4")


def load_face_alignment(
    detector: Path, landmarks: Path, device: str, threshold: float, mirror: bool, bf16: bool = False
) -> FaceAlignment:
    """S3FD and FAN, loaded from the weight files `detector` and `landmarks`; device "auto" prefers a GPU.

    Args:
        mirror: average with the mirrored picture
        bf16: FAN in bfloat16
    """
    if device == "auto":
        device = own_gpu(torch.cuda.device_count()) if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)  # there is a process per CPU

    class LocalFaceAlignment(FaceAlignment):
        def _load_native(self, name: str, size: int, where: str, dtype: torch.dtype) -> torch.nn.Module:
            network = FAN(size)
            network.load_state_dict(torch.load(landmarks, map_location=where, weights_only=True))
            return network.to(where, dtype=dtype).eval()

    options = {"path_to_detector": str(detector), "filter_threshold": threshold}
    return LocalFaceAlignment(
        LandmarksType.TWO_D, device=device, dtype=torch.bfloat16 if bf16 else torch.float32, flip_input=mirror,
        compile=False, face_detector_kwargs=options,
    )  # fmt: skip


@torch.no_grad()
def landmarks_of(
    networks: FaceAlignment, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], boxes: Sequence[Float[np.ndarray, " 4"]]
) -> list[Float[np.ndarray, "68 2"]]:
    """Landmarks of one face in each picture, all in one batch; `get_landmarks_from_image` takes a picture at a time."""
    centres, scales = [], []
    for x0, y0, x1, y1 in boxes:
        centres.append(np.array([(x0 + x1) / 2, (y0 + y1) / 2 - CENTER_Y_OFFSET * (y1 - y0)]))
        scales.append((x1 - x0 + y1 - y0) / networks.face_detector.reference_scale)
    crops = np.stack([crop(*one).transpose(2, 0, 1) for one in zip(images, centres, scales, strict=True)])
    batch = torch.from_numpy(crops.astype(np.float32) / 255).to(networks.device, networks.dtype)
    heat_maps = last(networks.face_alignment_net(batch))
    if networks.flip_input:
        heat_maps = heat_maps + flip(last(networks.face_alignment_net(flip(batch))), is_label=True)
    found = heat_maps.float().cpu().numpy()
    points = [get_preds_fromhm(found[n : n + 1], centres[n], scales[n])[1] for n in range(len(boxes))]
    return [one.reshape(68, 2).astype(float) for one in points]


def last(stages: Tensor | Sequence[Tensor]) -> Tensor:
    """The heat maps of the last of FAN's stages."""
    return stages if isinstance(stages, Tensor) else stages[-1]


def own_gpu(count: int) -> str:
    """The GPU of this worker process, assigned round-robin over `count` GPUs; the first one in the main process."""
    number = next(iter(multiprocessing.current_process()._identity), 1)  # 1, 2, ... in the order they were started
    return f"cuda:{(number - 1) % count}"
