"""Few-shot adversarial talking heads (arXiv 1905.08233) on PyTorch Lightning."""
