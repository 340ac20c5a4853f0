"""Turn answers into the column USER: `python -m talkinghead.study.results STUDY/answers.csv [--into results.csv]`."""

from talkinghead.processes import interruptible, program

if __name__ == "__main__":  # before the imports that take seconds
    program("talkinghead.study.results")

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from talkinghead.evaluation.results import ResultKey, Results
from talkinghead.names import as_lines
from talkinghead.storage import in_one_line
from talkinghead.study.answers import Answers
from talkinghead.study.user_score import Accuracy, accuracy, fill


def describe(found: Mapping[ResultKey, Accuracy]) -> str:
    """A Markdown table: method, T, accuracy with its interval, answers."""
    lines = ["| method | T | fakes found | 95 % interval (Wilson) | answers |", "| --- | --- | --- | --- | --- |"]
    for key, one in found.items():
        method = key.method if key.variant == "-" else f"{key.method}, {key.variant}"
        low, high = one.interval
        lines.append(f"| {method} | {key.T} | {one.share:.2f} | {low:.2f} to {high:.2f} | {one.answers} |")
    return "\n".join(lines) + "\n"


def read_answers(path: Path) -> list[dict[str, str]]:
    """All answers. Raises ValueError if there are none, or if they are from several studies."""
    rows = Answers(path).rows()
    names = sorted({row["study"] for row in rows})
    if len(names) != 1:
        raise ValueError(f"{path}: {'no answers' if not names else 'answers of several studies: ' + ', '.join(names)}")
    return rows


def main() -> None:
    """Print the accuracies of the answers and, with `--into`, add them to a results.csv."""
    parser = argparse.ArgumentParser(prog="python -m talkinghead.study.results", description=__doc__)
    parser.add_argument("answers", type=Path, help="answers.csv of a study")
    parser.add_argument("--into", type=Path, help="results.csv of the evaluation, or a copy of it under experiments/")
    chosen = parser.parse_args()
    try:
        rows = read_answers(chosen.answers)
        found = accuracy(rows)
        if chosen.into is not None:
            fill(Results(chosen.into), found)
    except (ValueError, OSError) as error:
        sys.exit(f"talkinghead.study.results: {in_one_line(error)}")
    print(as_lines(describe(found)) + f"\n{len({row['participant'] for row in rows})} participants")


if __name__ == "__main__":
    with interruptible("talkinghead.study.results"):
        main()
