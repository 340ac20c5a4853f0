"""Resampling is PyTorch's, and survives grids that are not finite."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from talkinghead.models.layers import resample

NOT_FINITE = """
import torch
from talkinghead.models.layers import resample
for value in (float("nan"), float("inf"), -float("inf"), 3e38):
    for mode in ("border", "reflection"):
        x, grid = torch.rand(2, 8, 16, 16, requires_grad=True), torch.rand(2, 16, 16, 2) * 2 - 1
        grid[1, 3, 5, 0] = value
        grid.requires_grad_()
        moved = resample(x, grid, mode)
        moved.sum().backward()
        assert moved[1, :, 3, 5].isnan().all() or value == 3e38, (value, mode)
        assert moved.isnan().sum() in (0, 8)
"""


def test_a_grid_that_is_not_finite_ends_no_process() -> None:
    """In one of its own: it used to end with a segmentation fault."""
    subprocess.run([sys.executable, "-c", NOT_FINITE], check=True)


@pytest.mark.parametrize("mode", ["border", "reflection", "zeros"])
def test_resampling_is_grid_sample(mode: str) -> None:
    torch.manual_seed(0)
    x, grid = torch.rand(2, 3, 9, 9), torch.rand(2, 5, 7, 2) * 3 - 1.5
    expected = F.grid_sample(x, grid, padding_mode=mode, align_corners=False)
    assert torch.equal(resample(x, grid, mode), expected)
