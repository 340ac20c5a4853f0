"""The commands: `python train.py …` in a checkout, `talkinghead train …` where the package is installed."""

import sys
from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]
IN_CHECKOUT = (_CHECKOUT / "train.py").is_file()
CONF = _CHECKOUT / "conf" if IN_CHECKOUT else Path(__file__).parents[1] / "conf"


def command_of(verb: str) -> str:
    """How this process's user calls a verb: `python train.py`, or `talkinghead train` by the installed command."""
    return f"talkinghead {verb}" if Path(sys.argv[0]).parent == Path(__file__).parent else f"python {verb}.py"


def name_of(script: str) -> str:
    """`train.py` in front of a message, or `talkinghead train`."""
    return command_of(script.removesuffix(".py")).removeprefix("python ")
