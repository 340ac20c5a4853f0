"""`python -m talkinghead.provenance FILE...` prints what files say about their origin, a JSON line per statement.

The exit status is 0 if every file says that it was generated, 1 if one does not, 2 if a C2PA manifest is broken or does
not match its file.
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("talkinghead.provenance")

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from talkinghead.provenance.reading import read


def main(paths: list[str]) -> int:
    """Print what the files say; returns the exit status, the worst of all files."""
    worst = 0
    for path in paths:
        if Path(path).exists() and not Path(path).is_file():
            raise OSError(0, "no file: give a video or a picture", path)
        statements = read(Path(path).read_bytes())
        for statement in statements or [{"generated": None, "problems": ["the file says nothing of its origin"]}]:
            print(as_json({"file": path, **statement}))
        broken = any(statement.get("intact") is False for statement in statements)
        silent = not any(statement["generated"] for statement in statements)
        worst = max(worst, 2 if broken else int(silent))
    return worst


def as_json(statement: dict[str, Any]) -> str:
    """One line of JSON with control and unprintable characters escaped."""
    text = json.dumps(statement, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m talkinghead.provenance", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a video or a picture")
    try:
        sys.exit(main(parser.parse_args().files))
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
