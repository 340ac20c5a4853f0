"""Which precision the device computes fastest in: bf16 where it has bf16 units."""

import torch

from talkinghead.models.quick import fast_dtype


def best_accelerator() -> str:
    """`gpu` where there is CUDA, else `cpu`; never Apple's MPS, which lacks sparse gradients (W) and fp64 (metrics)."""
    return "gpu" if torch.cuda.is_available() else "cpu"


def best_precision(accelerator: str = "auto") -> str:
    """`bf16-mixed` on a GPU or CPU with bf16 units (Ampere and later; AVX512-BF16, AMX), else `32-true`."""
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if fast_dtype("cuda" if on_gpu else "cpu") == torch.bfloat16 else "32-true"
