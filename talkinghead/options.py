"""Checks of the user's numbers and flags before any work: one line says what is wrong and what is allowed."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from talkinghead.names import as_line


class InputError(ValueError):
    """An error that the user can fix: a file that is missing or shows no face, an option out of its range.

    The message is the line that the verbs print.
    """


class Range(NamedTuple):
    """The allowed values of a number: from `least` to `most`, both included.

    Attributes:
        whole: whether it must be a whole number
        optional: whether None is allowed

    >>> shots = Range(1, 32)
    >>> 8 in shots, 8.5 in shots, 0 in shots, True in shots, None in shots
    (True, False, False, False, False)
    >>> str(shots)
    'a whole number from 1 to 32'
    """

    least: float
    most: float = math.inf
    whole: bool = True
    optional: bool = False

    def __contains__(self, value: object) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return math.isfinite(value) and self.least <= value <= self.most

    def __str__(self) -> str:
        most = " on" if self.most == math.inf else f" to {int(self.most) if self.whole else format(self.most, 'g')}"
        kind = "whole number" if self.whole else "number"
        return f"a {kind} from {self.least:g}{most}{', or null' if self.optional else ''}"


def check_numbers(values: object | Mapping[str, Any], ranges: Mapping[str, Range], prefix: str = "") -> None:
    """Raise InputError for the first of these fields, or entries, that is outside its range.

    Args:
        prefix: put before the names, so that they read as the user types them: `look.`
    """
    for name, allowed in ranges.items():
        value = values[name] if isinstance(values, Mapping) else getattr(values, name)
        if value not in allowed:
            raise InputError(f"{prefix}{name}={as_line(value, 60)}: {allowed}, please")


def check_flags(values: Any, prefix: str = "") -> None:
    """Raise InputError for the first field of a dataclass whose default is true or false and whose value is neither.

    YAML 1.2 reads `no` and `off` as strings, and a non-empty string is true in Python.
    """
    for field in fields(values):
        value = getattr(values, field.name)
        if isinstance(field.default, bool) and not isinstance(value, bool):
            raise InputError(f"{prefix}{field.name}={as_line(value, 60)}: true or false is wanted")
