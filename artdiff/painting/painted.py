"""What painting gives: a picture with the settings that paint it again, and how it emerges."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from artdiff import origin
from artdiff.files import user_path
from artdiff.origin import Origin
from artdiff.signing import Signer


class Painting(NamedTuple):
    """A painted picture, RGB, with the settings that paint it again, a name for its file, and maybe how it emerged.

    `muse` is what it was painted from, at the same size. `trajectory` is a strip from noise to picture. `source` names
    what shows through in it, with its rights; None if nothing does.
    """

    name: str
    picture: Image.Image
    settings: dict[str, object]
    muse: Image.Image | None = None
    trajectory: Image.Image | None = None
    source: str | None = None

    @property
    def origin(self) -> Origin:
        """What its file says of it."""
        return Origin(self.settings, self.source)

    def save(self, path: str | Path, *, keep_settings: bool = True, signer: Signer | None = None) -> None:
        """Write a PNG, JPEG or WebP that says that a model made it and, if not told otherwise, with which settings.

        A `signer` adds Content Credentials. Raises `artdiff.UserError` for another end of the name, and if it cannot be
        signed or written.
        """
        origin.save(self.picture, user_path(path), self.origin, keep_settings=keep_settings, signer=signer)


class Emerging(NamedTuple):
    """How far a batch of pictures is: `done` is a share of all that is to be painted, `shown` makes small pictures."""

    done: float
    shown: Callable[[], list[Image.Image]]


Watch = Callable[[Emerging], None]
"""Called after each step; what it raises ends the painting."""
