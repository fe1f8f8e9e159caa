"""What the parts of the page share: the list of runs, and mistakes that are shown as one sentence."""

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
"""For jobs that use a model. The studio lets them wait for each other, and they can be cancelled while they do."""

SECONDS = 20
"""That a sentence stays on the screen."""


def runs(studio: Studio, name: str) -> gr.Dropdown:
    """A list of runs to choose from; a folder or a checkpoint can be typed as well."""
    found = studio.runs()
    return gr.Dropdown(found, value=found[0] if found else None, label=name, allow_custom_value=True)


def served(path: Path) -> str:
    """A copy of a picture that the page can show and offer, in the folder that only this page uses."""
    return processing_utils.save_file_to_cache(path, cache_dir=get_upload_folder())


class Copies(dict[Path, str]):
    """By path, the copies of pictures that one job has shown: each is made once."""

    def __missing__(self, path: Path) -> str:
        self[path] = served(path)
        return self[path]


@contextmanager
def _as_sentences() -> Iterator[None]:
    """Show a user's mistake as one sentence."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), duration=SECONDS, print_exception=False) from None


def said(act: Callable[..., Any]) -> Callable[..., Any]:
    """`act`, whose user's mistakes are shown as one sentence."""

    @wraps(act)
    def safely(*args: Any) -> Any:
        with _as_sentences():
            return act(*args)

    return safely


def said_often(act: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The same for what shows something again and again."""

    @wraps(act)
    def safely(*args: Any) -> Iterator[Any]:
        with _as_sentences():
            yield from act(*args)

    return safely


def visitor(request: gr.Request) -> str:
    """Who asks: an open page."""
    return str(request.session_hash)


def cancelling(studio: Studio) -> Callable[[gr.Request], None]:
    """What a button calls to end what its visitor has begun. The job itself says when it has ended."""

    def cancel(request: gr.Request) -> None:
        studio.cancel(visitor(request))

    return cancel
