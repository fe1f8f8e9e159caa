"""What the tabs of the page share: the list of runs, copies of pictures, and errors that are shown as one sentence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from gradio.utils import get_upload_folder

from artdiff import UserError
from artdiff.web.studio import Studio

AT_ONCE: dict[str, Any] = {"concurrency_limit": None}
"""Gradio options for jobs that use a model: the studio queues them itself, so that a waiting job can be cancelled."""

SECONDS = 20
"""How long an error is shown."""


def runs(studio: Studio, name: str) -> gr.Dropdown:
    """A dropdown of the runs; a folder or a checkpoint can also be typed."""
    found = studio.runs()
    return gr.Dropdown(found, value=found[0] if found else None, label=name, allow_custom_value=True)


def served(path: Path) -> str:
    """Copy a picture to the page's own folder, from which it is shown and downloaded. Returns the copy's path."""
    return processing_utils.save_file_to_cache(path, cache_dir=get_upload_folder())


class Copies(dict[Path, str]):
    """The copies of the pictures that one job shows, by path; each is made once."""

    def __missing__(self, path: Path) -> str:
        self[path] = served(path)
        return self[path]


@contextmanager
def _as_sentences() -> Iterator[None]:
    """Show a `UserError` as one sentence."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), duration=SECONDS, print_exception=False) from None


def said(act: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `act` so that the page shows a `UserError` as one sentence."""

    @wraps(act)
    def safely(*args: Any) -> Any:
        with _as_sentences():
            return act(*args)

    return safely


def said_often(act: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The same for a generator."""

    @wraps(act)
    def safely(*args: Any) -> Iterator[Any]:
        with _as_sentences():
            yield from act(*args)

    return safely


def visitor(request: gr.Request) -> str:
    """The identity of the open page that sends a request."""
    return str(request.session_hash)


def cancelling(studio: Studio) -> Callable[[gr.Request], None]:
    """A handler that cancels the visitor's jobs. A job itself reports when it has ended."""

    def cancel(request: gr.Request) -> None:
        studio.cancel(visitor(request))

    return cancel
