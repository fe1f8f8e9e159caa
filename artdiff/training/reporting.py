"""Nothing that only reports may fail a run: what goes wrong there becomes a warning."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

CALLS = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint")
"""What Lightning asks of a logger."""


@contextmanager
def only_reporting(what: str) -> Iterator[None]:
    """Warn of any error inside, in one line that begins with `what`, instead of raising it."""
    try:
        yield
    except Exception as error:  # whatever a user's logger raises
        log.warning("%s, training goes on: %s", what, _on_one_line(error))


def tolerant(logger: Logger) -> Logger:
    """`logger`, changed so that its errors are warned of once and otherwise ignored."""
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
    """Let the loggers open their files; leave out those that cannot."""
    opened = []
    for logger in trainer.loggers:
        with only_reporting(f"{type(logger).__name__} cannot be opened"):
            getattr(logger, "experiment", None)  # opened when it is first looked at
            opened.append(logger)
    trainer.loggers = opened


def _on_one_line(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())}"[:300]
