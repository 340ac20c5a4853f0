"""Compare the shards of a data set with dataset.json: `python -m talkinghead.tools.check_shards data/voxceleb2`.

The data set may be a URL, as `s3://bucket/voxceleb2`.
Reads every byte. Prints a line for each shard that is missing or damaged, with its clips, and exits with 1.
"""

from talkinghead.processes import interruptible, program

if __name__ == "__main__":  # before the imports that take seconds
    program("talkinghead.tools.check_shards")

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from talkinghead.data.reader import is_remote, join, load_info, open_local
from talkinghead.data.remote import DataFault
from talkinghead.data.shards import DATASET_FILE, ShardEntry
from talkinghead.progress import columns


def main() -> int:
    """Check the data sets that are named; returns the exit status, 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folder or URL of a data set, with its dataset.json")
    given = parser.parse_args()
    wrong = 0
    for location in given.data:
        if not is_remote(location) and not Path(location, DATASET_FILE).is_file():
            parser.error(f"{location} has no {DATASET_FILE}: give the folder of a prepared data set")
        try:
            entries = [entry for split in load_info(location).splits.values() for entry in split.shards]
            found = dict(check(location, entries))
        except (DataFault, FileNotFoundError, ValueError) as error:
            parser.error(str(error))
        for file, what in found.items():
            print(f"{join(location, file)}: {what}")
        clips, right = sum(entry.samples for entry in entries if entry.file in found), len(entries) - len(found)
        print(f"{location}: {right} of {len(entries)} shards are right; {clips} clips are in the others")
        wrong += len(found)
    return int(wrong > 0)


def check(location: str, entries: list[ShardEntry]) -> Iterator[tuple[str, str]]:
    """The files that are not what dataset.json says, and what is wrong with them."""
    console = Console(stderr=True)
    with Progress(*columns("reading", "shards"), console=console, disable=not console.is_terminal) as bar:
        for entry in bar.track(entries):
            if (what := difference(join(location, entry.file), entry)) is not None:
                yield entry.file, what


def difference(url: str, entry: ShardEntry) -> str | None:
    """What is wrong with a shard at a path or URL; None: nothing. Raises DataFault without access or network."""
    try:
        with open_local(url) as file:
            if (length := file.seek(0, os.SEEK_END)) != entry.bytes:
                return f"{length} bytes, and not {entry.bytes}"
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it has readinto, too
    except (FileNotFoundError, ValueError):  # there is none, or it is a folder
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return None if found == entry.sha256 else "damaged: another sha256"


if __name__ == "__main__":
    with interruptible("talkinghead.tools.check_shards"):
        sys.exit(main())
