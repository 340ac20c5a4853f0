"""Which participant sees which triplet next. The state is in answers.csv, so that a reload changes nothing."""

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple, final

from talkinghead.storage import Row
from talkinghead.study.answers import Answers
from talkinghead.study.study import ANSWERS_FILE, Study, Triplet

MAX_CLOCKS = 10_000  # of participants who look at a triplet; the oldest are forgotten


class Trial(NamedTuple):
    """What a participant sees: triplet `number` of `total`; `triplet` is None when all are answered."""

    number: int
    total: int
    triplet: Triplet | None


@final
class Session:
    """A study that several participants take at once, each in their own browser.

    Args:
        per_participant: triplets shown to each participant, at most as many as there are
        clock: returns the time, seconds
    """

    def __init__(self, study: Study, per_participant: int = 30, clock: Callable[[], float] = time.monotonic) -> None:
        if per_participant < 1:
            raise ValueError(f"per_participant={per_participant}: at least 1")
        self.study, self.answers = study, Answers(study.folder / ANSWERS_FILE)
        self.total = min(per_participant, len(study.triplets))
        self._clock, self._lock = clock, Lock()
        self._shown: OrderedDict[tuple[str, str], float] = OrderedDict()  # participant, triplet -> when first

    def begin(self) -> str:
        """A new participant: a random number that says nothing about the person."""
        return secrets.token_hex(8)

    def knows(self, participant: object) -> bool:
        """Whether a value from a browser has the form of a number from `begin`."""
        return isinstance(participant, str) and re.fullmatch("[0-9a-f]{16}", participant) is not None

    def show(self, participant: str) -> Trial:
        """The first triplet without an answer. Its time runs from when it was first shown, across reloads."""
        turn = self._turn(participant)
        if turn.triplet is not None:
            with self._lock:
                self._shown.setdefault((participant, turn.triplet.id), self._clock())
                while len(self._shown) > MAX_CLOCKS:
                    self._shown.popitem(last=False)
        return turn

    def answer(self, participant: str, number: int, choice: int) -> bool:
        """Store the answer to triplet `number`; False if that is not the triplet that the participant sees.

        So a key that is pressed twice, or a second window, cannot answer a triplet that was not shown.
        """
        turn = self._turn(participant)
        if turn.triplet is None or number != turn.number or choice not in (1, 2, 3):
            return False
        now = self._clock()
        with self._lock:
            began = self._shown.pop((participant, turn.triplet.id), None)
        if began is None:  # it has not been shown since the server was started
            return False
        return self.answers.add(self.study.name, participant, turn.triplet, choice, now - began)

    def rows(self, participant: str) -> list[Row]:
        """The answers of a participant."""
        return list(self.answers.of(self.study.name, participant).values())

    def _turn(self, participant: str) -> Trial:
        order = self.study.choose(participant, self.total)
        answered = self.answers.of(self.study.name, participant)
        for number, triplet in enumerate(order, start=1):
            if triplet.id not in answered:
                return Trial(number, self.total, triplet)
        return Trial(self.total, self.total, None)
