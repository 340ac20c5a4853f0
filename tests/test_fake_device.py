"""GPU code without a GPU: one step of every stage on a device that is not there, in fp32 and bf16 (docs/gpu.md)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = [
    *(f"{stage} {kind}" for stage in ("meta_learning", "parts_of_a_batch", "validation", "fine_tuning", "feed_forward",
                                      "drawing", "evaluation") for kind in ("fsth", "warp_guided")),
    "x2face", "pix2pixhd", "copying", "metrics", "moving_average", "facenet", "guard_between_looks", "guard_looking",
]  # fmt: skip
MIXES = ("planted_mix", "planted_mix_of_numbers", "planted_mix_between_numbers")


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], str]:
    """Of all stages, by name and precision; in a process of its own, which has the device for good."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.helpers.fake_stages"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {(name, precision): result for name, precision, result in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_stage_keeps_to_its_device(outcomes: dict[tuple[str, str], str], name: str, precision: str) -> None:
    """Nothing lies elsewhere, and nothing is read back to the host, which would wait for the device.

    Where a stage reads numbers by nature, `fake_stages` says so: an evaluation, and the guard where it looks.
    """
    assert outcomes[name, precision] == "ok"


def test_every_stage_is_looked_at_and_mistakes_are_seen(outcomes: dict[tuple[str, str], str]) -> None:
    assert {name for name, _ in outcomes} == {*NAMES, *MIXES, "planted_wait"}
    assert all("found at least two devices" in outcomes[name, "fp32"] for name in MIXES)
    assert "DataDependentOutputException" in outcomes["planted_wait", "fp32"]
