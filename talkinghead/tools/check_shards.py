"""Compare the shards of a data set with dataset.json: `python -m talkinghead.tools.check_shards data/voxceleb2`.

Reads every byte. Prints a line for each shard that is missing or damaged, with its clips, and exits with 1.
"""

from talkinghead.processes import interruptible, program

if __name__ == "__main__":  # before the imports that take seconds
    program("talkinghead.tools.check_shards")

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from talkinghead.data.shards import DATASET_FILE, DatasetInfo, ShardEntry
from talkinghead.progress import columns
from talkinghead.storage import digest


def main() -> int:
    """Check the folders that are named; returns the exit status, 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="folder of a data set, with its dataset.json")
    given = parser.parse_args()
    wrong = 0
    for folder in given.data:
        if not (folder / DATASET_FILE).is_file():
            parser.error(f"{folder} has no {DATASET_FILE}: give the folder of a prepared data set")
        entries = [entry for split in DatasetInfo.load(folder).splits.values() for entry in split.shards]
        found = dict(check(folder, entries))
        for file, what in found.items():
            print(f"{folder / file}: {what}")
        clips, right = sum(entry.samples for entry in entries if entry.file in found), len(entries) - len(found)
        print(f"{folder}: {right} of {len(entries)} shards are right; {clips} clips are in the others")
        wrong += len(found)
    return int(wrong > 0)


def check(folder: Path, entries: list[ShardEntry]) -> Iterator[tuple[str, str]]:
    """The files that are not what dataset.json says, and what is wrong with them."""
    console = Console(stderr=True)
    with Progress(*columns("reading", "shards"), console=console, disable=not console.is_terminal) as bar:
        for entry in bar.track(entries):
            if (what := difference(folder / entry.file, entry)) is not None:
                yield entry.file, what


def difference(path: Path, entry: ShardEntry) -> str | None:
    """What is wrong with a shard; None: nothing."""
    if not path.is_file():
        return "missing"
    if (length := path.stat().st_size) != entry.bytes:
        return f"{length} bytes, and not {entry.bytes}"
    try:
        found = digest(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if found == entry.sha256 else "damaged: another sha256"


if __name__ == "__main__":
    with interruptible("talkinghead.tools.check_shards"):
        sys.exit(main())
