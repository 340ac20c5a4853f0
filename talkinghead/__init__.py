"""Few-shot adversarial talking heads (arXiv 1905.08233) on PyTorch Lightning.

import talkinghead
person = talkinghead.load("warp_256").learn(["anna.jpg"])
person.animate("clip.mp4", "anna.mp4")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from talkinghead.api import InputError, Look, Model, Person, Settings, load

__all__ = ["InputError", "Look", "Model", "Person", "Settings", "load"]


def __getattr__(name: str) -> Any:
    """Import names on first use: torch takes seconds to import, `import talkinghead` does not."""
    if name not in __all__:
        raise AttributeError(f"module 'talkinghead' has no attribute {name!r}")
    from talkinghead import api  # noqa: PLC0415

    return getattr(api, name)
