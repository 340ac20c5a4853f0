"""How often an interval of nominal 95 % covers the mean, by simulation: half a minute.

`python benchmarks/interval_coverage.py` prints the table of docs/metrics.md.
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("benchmarks/interval_coverage.py")

import numpy as np

from talkinghead.reporting.intervals import mean_interval

COUNTS, SETS = (4, 6, 8, 16, 50), 1500
KINDS = {  # all of mean 0
    "normal": lambda random, n: random.normal(size=n),
    "lognormal": lambda random, n: random.lognormal(0, 0.5, n) - np.exp(0.125),
    "exponential": lambda random, n: random.exponential(size=n) - 1,
}


def cover(kind: str, count: int) -> float:
    """The share of simulated sets of `count` values whose interval holds the mean."""
    random = np.random.default_rng(0)
    found = [mean_interval(KINDS[kind](random, count), resamples=400) for _ in range(SETS)]
    return float(np.mean([one.low <= 0 <= one.high for one in found]))


if __name__ == "__main__":
    print("| values | n = " + " | ".join(str(count) for count in COUNTS) + " |\n" + "| --- " * (len(COUNTS) + 1) + "|")
    for kind in KINDS:
        print(f"| {kind} | " + " | ".join(f"{100 * cover(kind, count):.1f} %" for count in COUNTS) + " |")
