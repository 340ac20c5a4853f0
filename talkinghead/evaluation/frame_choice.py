"""Which frames of a person are shots, and which are held out: the test protocol (arXiv 1905.08233, Sec. 4).

Some frames are held out, to be reproduced; T of the others are the shots. The choice depends only on the seed and the
key, so all methods see the same frames; the hold-out frames are the same for every T, and the shots of a small T are
the first of those of a larger T.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from talkinghead.data.reader import UnusableClip

SPLITS, ORDERS = ("parts", "mixed"), ("random", "even")


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of a clip or video are shots, and which are held out.

    Attributes:
        max_shots: the largest T; this many frames of every clip are reserved as shots, whatever T is in use
        num_targets: frames to reproduce; fewer in a clip with fewer than `max_shots + num_targets` frames
        min_targets: clips with fewer frames to reproduce are not used
        split: parts: shots from the first part of the clip, hold-out frames from the last; mixed: both from all of it,
            which is far easier, because a hold-out frame then has a shot a moment before or after it
        shots: random, or even: evenly spaced in their part, for each T

    >>> choice = FrameChoice(max_shots=4, num_targets=3, min_targets=1, shots="even")
    >>> choice(range(20), "id10270/5r0dWxy17C8")
    ([6, 1, 8, 3], [12, 15, 19])
    >>> str(choice)
    'parts_even_4_3'
    """

    max_shots: int = 32
    num_targets: int = 32
    min_targets: int = 8
    seed: int = 0
    split: str = "parts"
    shots: str = "random"

    def __post_init__(self) -> None:
        if min(self.max_shots, self.min_targets) < 1 or self.num_targets < self.min_targets:
            raise ValueError(f"{self!r}: max_shots >= 1 and num_targets >= min_targets >= 1 are needed")
        for name, allowed in (("split", SPLITS), ("shots", ORDERS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"frame_choice.{name}={getattr(self, name)}: choose {' or '.join(allowed)}")

    def __str__(self) -> str:
        """Name in result rows and folders: `parts_random_32_32`."""
        return f"{self.split}_{self.shots}_{self.max_shots}_{self.num_targets}"

    @property
    def needed(self) -> int:
        """Smallest number of frames that a clip must have."""
        return self.max_shots + self.min_targets

    def __call__(self, frames: Sequence[int], key: str) -> tuple[list[int], list[int]]:
        """Shots in the order of their use, and hold-out frames in order of time.

        Args:
            frames: candidates in order of time
            key: of the clip or video; seeds the choice

        Raises:
            UnusableClip: where there are too few candidates.
        """
        if len(frames) < self.needed:
            raise UnusableClip("too few usable frames", f"{key}: {len(frames)}, the protocol needs {self.needed}")
        random = Random(repr((self.seed, key)))
        num_targets = min(self.num_targets, len(frames) - self.max_shots)
        if self.split == "mixed":
            shuffled = random.sample(list(frames), len(frames))
            held_out, rest = shuffled[:num_targets], shuffled[num_targets:]
        else:
            cut = min(max(len(frames) // 2, self.max_shots), len(frames) - num_targets)
            held_out = random.sample(list(frames[cut:]), num_targets)
            rest = random.sample(list(frames[:cut]), cut)
        shots = rest[: self.max_shots] if self.shots == "random" else evenly(sorted(rest), self.max_shots)
        return shots, sorted(held_out)


def evenly(frames: Sequence[int], count: int) -> list[int]:
    """`count` evenly spaced frames, in an order in which the first n are evenly spread for every n.

    The order is that of van der Corput's sequence (0, 1/2, 1/4, 3/4, 1/8 ...), starting in the middle.

    >>> evenly(range(64), 8)
    [36, 4, 52, 20, 44, 12, 60, 28]
    """
    spaced = [frames[(2 * n + 1) * len(frames) // (2 * count)] for n in range(count)]
    bits = max(1, (count - 1).bit_length())
    reversed_bits = [int(f"{n:0{bits}b}"[::-1], 2) for n in range(2**bits)]
    places = dict.fromkeys(n * count // 2**bits for n in reversed_bits)
    return [spaced[(place + count // 2) % count] for place in places]
