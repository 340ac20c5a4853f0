"""The device's fastest precision: bf16 if it has bf16 units."""

import torch


def fast_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 if the GPU or CPU has units for it (Ampere and later; AVX512-BF16, AMX), else float32."""
    if torch.device(device).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def best_accelerator() -> str:
    """`gpu` if CUDA is available, else `cpu`; never MPS, which lacks sparse gradients (W) and fp64 (metrics)."""
    return "gpu" if torch.cuda.is_available() else "cpu"


def best_precision(accelerator: str = "auto") -> str:
    """`bf16-mixed` on a GPU or CPU with bf16 units (Ampere and later; AVX512-BF16, AMX), else `32-true`."""
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if fast_dtype("cuda" if on_gpu else "cpu") == torch.bfloat16 else "32-true"
