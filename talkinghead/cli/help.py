"""`--help` of a verb, generated from its files in conf/, whose comments are the documentation."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

DEFAULT = re.compile(
    r"^ *- (?:override )?/?(?P<group>[\w/]+)(?:@(?P<package>\w+))?: (?P<choice>[^#]+?) *(?:#(?P<note>.*))?$"
)
HIDDEN = ("hydra", "paths", "protocol", "source")  # groups without choices for the user, or with a required one
NOISE = re.compile(r"^ *(_target_|_convert_): \S+$|^# @package")
FLAGS = """\
Hydra's own flags
  --cfg job --resolve     print the whole configuration that would run, and stop
  -m, --multirun          run every combination of values with commas, such as -m seed=0,1,2
  --config-dir DIR        more choices, from DIR/<group>/<choice>.yaml
  --info, --hydra-help    what Hydra has found, and its other flags (https://hydra.cc)
Keys are written without dashes: key=value. A key that conf/ does not have is added with a plus: +key=value.
"""


def help_text(conf: Path, name: str, command: str, offers: Mapping[str, Sequence[str]]) -> str:
    """The whole text for the verb that composes `<conf>/<name>.yaml`, such as `train` of `python train.py`."""
    lines = (conf / f"{name}.yaml").read_text().splitlines()
    groups = list(defaults(lines))
    about, options = head(lines), [*body(lines)]
    sections = [
        "\n".join(about),
        f"usage: {command} [group=choice ...] [key=value ...]",
        "choices (* is the default)\n" + "\n".join(choices(conf, *one, offers) for one in groups if shown(*one)),
        "options\n" + indented(options),
        *parts(conf, groups),
        FLAGS.rstrip(),
    ]
    return "\n\n".join(sections) + "\n"


def defaults(lines: list[str]) -> Iterator[tuple[str, str, list[str], str]]:
    """The entries of a defaults list: group, package, choices, comment."""
    for line in block(lines, "defaults:"):
        if (match := DEFAULT.match(line)) and "hydra" not in match["group"]:
            chosen = [name.strip() for name in match["choice"].strip("[]").split(",")]
            yield match["group"], match["package"] or match["group"], chosen, (match["note"] or "").strip()


def shown(group: str, package: str, chosen: list[str], note: str) -> bool:
    """Whether the user has a choice."""
    return group not in HIDDEN or chosen == ["???"]


def choices(
    conf: Path, group: str, package: str, chosen: list[str], note: str, offers: Mapping[str, Sequence[str]]
) -> str:
    """`  trainer=cpu|*default|gpu`, wrapped if there are many."""
    there = offers.get(group) or sorted(path.stem for path in (conf / group).glob("*.yaml"))
    names = [("*" if name in chosen else "") + name for name in there]
    key = f"{group}@{package}" if package != group else group
    text, line = [], f"  {key}="
    for n, name in enumerate(names):
        if len(line) + len(name) > 110:
            text.append(line)
            line = " " * (len(key) + 3)
        line += name + ("|" if n < len(names) - 1 else "")
    must = "must be given" if chosen == ["???"] else ""
    comment = "; ".join(part for part in (must, note) if part)
    return "\n".join([*text, line + (f"   # {comment}" if comment else "")])


def parts(conf: Path, groups: list[tuple[str, str, list[str], str]]) -> Iterator[str]:
    """The options of each group, from the file of its default choice."""
    for group, package, chosen, _ in groups:
        path = conf / group / f"{chosen[0]}.yaml"
        if len(chosen) > 1 or group == "method" or not path.is_file():
            continue
        lines = path.read_text().splitlines()
        everywhere = any(line.startswith("# @package _global_") for line in lines)
        title = "further options" if everywhere else f"{package}.…   ({group}={chosen[0]})"
        about = [f"  # {line}" for line in head(lines)]
        text = "\n".join([title, *about, indented([*body(lines)])]).rstrip()
        yield text


def head(lines: list[str]) -> list[str]:
    """The comment at the top of a file, without the number signs."""
    found = []
    for line in lines:
        if not line.startswith("#"):
            break
        if not NOISE.match(line):
            found.append(line.removeprefix("#").removeprefix(" "))
    return found


def block(lines: list[str], title: str) -> list[str]:
    """The indented lines below a top-level key."""
    if title not in lines:
        return []
    below = lines[lines.index(title) + 1 :]
    end = next((n for n, line in enumerate(below) if line and not line.startswith((" ", "-"))), len(below))
    return below[:end]


def body(lines: list[str]) -> Iterator[str]:
    """The options of a file with their comments: without its head, the defaults list and Hydra's own section.

    Keys below `files:` need no prefix on the command line and get none here.
    """
    rest, skipping, files = lines[len(head_lines(lines)) :], False, False
    for line in rest:
        if line and not line.startswith((" ", "-")):
            skipping = line.split(":")[0] in ("defaults", "hydra")
            files = line.startswith("files:")
        if skipping or (files and line.startswith("files:")) or NOISE.match(line) or not line.strip():
            continue
        yield line.removeprefix("  ") if files else line


def head_lines(lines: list[str]) -> list[str]:
    """The lines of the comment at the top."""
    end = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:end]


def indented(lines: list[str]) -> str:
    """Indent each line by two blanks."""
    return "\n".join(f"  {line}" for line in lines)
