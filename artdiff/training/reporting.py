"""Turn errors in reporting (loggers, grids, reports) into warnings, so that they do not end a run."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

CALLS = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint")
"""Methods that Lightning calls on a logger."""


@contextmanager
def only_reporting(what: str) -> Iterator[None]:
    """Log any error inside as a warning, in one line that begins with `what`, instead of raising it."""
    try:
        yield
    except Exception as error:  # whatever a user's logger raises
        log.warning("%s, training goes on: %s", what, _on_one_line(error))


def tolerant(logger: Logger) -> Logger:
    """Change `logger` so that its first error becomes a warning and later ones are ignored. Returns `logger`."""
    said: list[str] = []

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def attempt(*words: Any, **named: Any) -> Any:
            try:
                return call(*words, **named)
            except Exception as error:  # whatever a user's logger raises
                if not said:
                    said.append(_on_one_line(error))
                    log.warning("%s fails, training goes on: %s", type(logger).__name__, said[0])

        return attempt

    for name in CALLS:
        if hasattr(logger, name):
            setattr(logger, name, guarded(getattr(logger, name)))
    return logger


def open_loggers(trainer: L.Trainer) -> None:
    """Let the loggers open their files; remove those that cannot, with a warning."""
    opened = []
    for logger in trainer.loggers:
        with only_reporting(f"{type(logger).__name__} cannot be opened"):
            getattr(logger, "experiment", None)  # the first access opens it
            opened.append(logger)
    trainer.loggers = opened


def _on_one_line(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())}"[:300]
