"""The package face-alignment with weight files that this project has found, instead of its own download."""

import multiprocessing
from pathlib import Path

import torch
from face_alignment import FaceAlignment, LandmarksType
from face_alignment.models import FAN

from talkinghead import pretrained


def find_weights() -> tuple[Path, Path]:
    """The files of S3FD and 2D-FAN-4. FileNotFoundError says where to get them, and what to use instead."""
    return pretrained.find("s3fd"), pretrained.find("2dfan4")


def load_face_alignment(detector: Path, landmarks: Path, device: str, threshold: float, flip: bool) -> FaceAlignment:
    """S3FD and FAN, loaded from the weight files `detector` and `landmarks`; device "auto" prefers a GPU."""
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
        LandmarksType.TWO_D, device=device, flip_input=flip, compile=False, face_detector_kwargs=options
    )


def own_gpu(count: int) -> str:
    """The GPU of this worker process, assigned round-robin over `count` GPUs; the first one in the main process."""
    number = next(iter(multiprocessing.current_process()._identity), 1)  # 1, 2, ... in the order they were started
    return f"cuda:{(number - 1) % count}"
