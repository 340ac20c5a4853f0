"""USER (arXiv 1905.08233, Sec. 4): how often people find the fake among three pictures; 1/3 is chance, and ideal."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import NamedTuple

from talkinghead.evaluation.results import ALL_CLIPS, HEAD, TAIL, ResultKey, Results
from talkinghead.reporting.intervals import wilson_interval
from talkinghead.reporting.summary import shots_of
from talkinghead.storage import Row

KEY = ("data", "method", "variant", "T", "clip", "checkpoint", "config", "config_hash")
NEWER = ("seed", "protocol")  # columns that older rows and answers do not have


class Accuracy(NamedTuple):
    """Correct answers out of all, and Wilson's 95 % interval of their share, in [0, 1]."""

    correct: int
    answers: int

    @property
    def share(self) -> float:
        return self.correct / self.answers

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.correct, self.answers)


def key_of(row: Row) -> ResultKey:
    """The key of a result row or of an answer."""
    known = {name: row[name] for name in KEY} | {name: row.get(name) or "-" for name in NEWER}
    return ResultKey(**{**known, "T": shots_of(row)})  # type: ignore[arg-type]


def condition_of(key: ResultKey) -> ResultKey:
    """The key of all people together, for which accuracies are computed."""
    return replace(key, clip=ALL_CLIPS)


def accuracy(answers: Iterable[Row]) -> dict[ResultKey, Accuracy]:
    """The accuracy of each method and T, over all people and participants; sorted by method, variant and T."""
    found: dict[ResultKey, Accuracy] = {}
    for row in answers:
        key = condition_of(key_of(row))
        before = found.get(key, Accuracy(0, 0))
        found[key] = Accuracy(before.correct + (row["correct"] == "1"), before.answers + 1)
    return dict(sorted(found.items(), key=lambda item: tuple(asdict(item[0]).values())))


def fill(results: Results, found: Mapping[ResultKey, Accuracy]) -> None:
    """Write the accuracies into the rows of clip `*`: columns user, user_low, user_high, user_answers.

    Other columns keep their values.

    Raises:
        ValueError: `results` has no rows of a method that was asked about; then nothing is written.
    """
    unknown = [key for key in found if not results.of(key)]
    if unknown:
        raise ValueError(
            f"{results.path} has no rows of {unknown[0]}, which was asked about: give the evaluation's own"
        )
    for key, one in found.items():
        row = results.find(key) or {}
        before = {name: value for name, value in row.items() if value and name not in (*HEAD, *TAIL)}
        before |= {name: row[name] for name in ("num_targets", "learning_s", "ms_per_frame", "commit") if row.get(name)}
        low, high = one.interval
        measured = {"user": one.share, "user_low": low, "user_high": high, "user_answers": one.answers}
        results.add(key, {**before, **measured})
