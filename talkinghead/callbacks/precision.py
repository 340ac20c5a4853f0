"""Which precision the device computes fastest in: bf16 where it has bf16 units."""

import torch


def best_precision(accelerator: str = "auto") -> str:
    """`bf16-mixed` on a GPU or CPU with bf16 units (Ampere and later; AVX512-BF16, AMX), else `32-true`."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    has_units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if has_units else "32-true"
