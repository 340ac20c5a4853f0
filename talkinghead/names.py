"""Untrusted names from files: as one component of a path, as one line of text, as a cell of a table."""

import hashlib
import re

LONGEST = 200  # longest accepted name, characters
_LONGEST_PART = 150  # longest file name, bytes, with room for a suffix and a temporary ending
_PLAIN = re.compile(r"[^\W_][\w @+,=().-]*", re.UNICODE)
_HASHED = re.compile(r".*-[0-9a-f]{12}")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # spreadsheets take cells that begin so for formulas


def is_name(value: object) -> bool:
    """Whether it may name a clip, person or video: a short text without line ends, terminal codes or surrogates.

    >>> is_name("Anna Maria (2)"), is_name("two\\nlines"), is_name(7)
    (True, False, False)
    """
    return isinstance(value, str) and 0 < len(value) <= LONGEST and value.isprintable()


def as_path_part(name: str) -> str:
    """A file or folder name that cannot leave its folder; two names never give the same one.

    Plain names stay as they are, others get a digest that tells them apart.

    >>> as_path_part("id10270_5r0dWxy17C8")
    'id10270_5r0dWxy17C8'
    >>> as_path_part("../../etc/passwd")
    'etc-passwd-3754d6cb3a38'
    """
    content = name.encode("utf-8", "surrogatepass")
    if (
        _PLAIN.fullmatch(name)
        and not _HASHED.fullmatch(name)
        and len(content) <= _LONGEST_PART
        and name[-1] not in ". "
    ):
        return name
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", name[:60]).strip("-")
    return f"{readable}-{hashlib.sha256(content).hexdigest()[:12]}"


def as_line(value: object, longest: int = LONGEST) -> str:
    """Text for a terminal or a log: control characters are escaped, and long text is cut.

    >>> as_line("clear\\x1b[2J"), as_line("abcdef", longest=3)
    ('clear\\\\x1b[2J', 'abc…')
    """
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(value)[:longest])
    return text if len(str(value)) <= longest else f"{text}…"


def as_lines(text: str) -> str:
    """Text of several lines for a terminal: other control characters are escaped."""
    return "\n".join(as_line(line, len(line)) for line in text.split("\n"))


def as_cell(text: str) -> str:
    """A cell of a csv that no spreadsheet takes for a formula; `of_cell` restores the text.

    >>> as_cell("=1+1"), as_cell("-0.5"), as_cell("-")
    ("'=1+1", '-0.5', '-')
    """
    return f"'{text}" if text.startswith(_FORMULA) and text != "-" and not _is_number(text) else text


def of_cell(cell: str) -> str:
    """The text that `as_cell` was given.

    >>> of_cell(as_cell("=1+1"))
    '=1+1'
    """
    return cell[1:] if cell.startswith("'") and as_cell(cell[1:]) == cell else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
