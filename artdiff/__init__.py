"""artdiff: train a diffusion model on a folder of art, then paint with it.

    import artdiff

    run = artdiff.train("paint32", data={"root": "DIR"}, trainer={"max_time": "00:00:10:00"})
    painter = artdiff.load(run)
    for painting in painter.paint(n=4, label="engraving", seed=7):
        painting.save(f"{painting.name}.png")

`import artdiff` is fast: torch and other slow modules are imported when a name is first used.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("artdiff needs Linux or macOS, whose locks on files it uses: on Windows, run it in WSL")

__version__ = "0.2.0"

__all__ = ["Interrupted", "Painter", "Painting", "Pipeline", "Run", "UserError", "evaluate", "inspect", "load", "train"]

if TYPE_CHECKING:
    from artdiff.audit import inspect
    from artdiff.evaluate import evaluate
    from artdiff.painter import Painter, Painting, load
    from artdiff.pipeline import Pipeline
    from artdiff.runs import Run
    from artdiff.train import train

_HOMES = {
    "Painter": "artdiff.painter",
    "Painting": "artdiff.painter",
    "Pipeline": "artdiff.pipeline",
    "Run": "artdiff.runs",
    "inspect": "artdiff.audit",
    "load": "artdiff.painter",
}


class UserError(ValueError):
    """A mistake that the user can correct. The message is one line that says how."""


class Interrupted(KeyboardInterrupt):
    """A training was stopped by the signal `number`, after saving its checkpoint."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by signal {number}")
        self.number = number


def __getattr__(name: str) -> Any:
    if name in ("evaluate", "train"):  # callable modules
        return import_module(f"artdiff.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'artdiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
