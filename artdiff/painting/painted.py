"""The results of painting: pictures with the settings that repaint them, and progress while they emerge."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from artdiff import origin
from artdiff.files import user_path
from artdiff.origin import Origin
from artdiff.signing import Signer


class Painting(NamedTuple):
    """A painted picture, RGB, with the settings that repaint it and a name for its file.

    `muse` is the picture it was painted from, at the same size. `trajectory` is a strip from noise to picture. `source`
    names the muse and its rights; None if nothing of a muse is left in the picture.
    """

    name: str
    picture: Image.Image
    settings: dict[str, object]
    muse: Image.Image | None = None
    trajectory: Image.Image | None = None
    source: str | None = None

    @property
    def origin(self) -> Origin:
        """The metadata for its file."""
        return Origin(self.settings, self.source)

    def save(self, path: str | Path, *, keep_settings: bool = True, signer: Signer | None = None) -> None:
        """Write a PNG, JPEG or WebP, marked as made by a model, with its settings unless `keep_settings` is False.

        A `signer` adds Content Credentials. Raises `artdiff.UserError` for another file suffix, and if the picture
        cannot be signed or written.
        """
        origin.save(self.picture, user_path(path), self.origin, keep_settings=keep_settings, signer=signer)


class Emerging(NamedTuple):
    """Progress of painting: `done` is the finished share in [0,1], `shown()` makes thumbnails of the current batch."""

    done: float
    shown: Callable[[], list[Image.Image]]


Watch = Callable[[Emerging], None]
"""Called after each step. If it raises, painting stops."""
