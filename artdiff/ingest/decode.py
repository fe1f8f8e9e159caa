"""Decodes the bytes of a file to pixels: the whole picture, upright, sRGB, on a background, fitted to a square.

Imports only Pillow and numpy, so that a decoding child process starts in 0.2 s.
"""

import io
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from artdiff.ingest import main_picture, plugins, signs, tiff
from artdiff.ingest.fingerprint import SIDE, fingerprint
from artdiff.ingest.flatten import WHITE, Colour, flat
from artdiff.ingest.main_picture import Unreadable, loaded

if TYPE_CHECKING:
    from artdiff.settings.data import Fit  # would slow down the start of a child process

__all__ = ["Facts", "Transform", "Unreadable", "decode", "fitted", "flat", "large_accepted", "to_rgb"]

MAX_TEXT = 64 * 2**20
"""Bytes of text that a PNG may unpack to. Pillow's 1 MiB is too little for editors, which store their history there."""

SEEN = 256
"""Facts are measured at this resolution at least, so that they do not depend on the training resolution."""

UNSUPPORTED = re.compile(
    "unsupported|not supported|unknown (pixel mode|data organization)|not available|cannot handle (12|16)-bit layers",
    re.IGNORECASE,
)
"""Pillow's error messages for kinds of pictures that it does not support."""

GREY = 3.0
"""A picture is grey if its channels differ by less than this on average; values are 0 to 255."""


class Transform(NamedTuple):
    """How a picture becomes a square of `size` pixels. `background` fills transparent areas and padding."""

    size: int
    fit: "Fit"
    background: Colour


class Facts(NamedTuple):
    """A picture's width and height in pixels when upright, whether it is grey, and its fingerprint in hexadecimal."""

    width: int
    height: int
    grey: bool
    fingerprint: str


def decode(content: bytes, transform: Transform) -> tuple[np.ndarray, Facts]:
    """Decode the bytes of a file → pixels uint8 (size,size,3) and facts. Raises `Unreadable`."""
    background, enough = transform.background, max(2 * transform.size, SEEN)
    with large_accepted(), _reasons(content):
        opened, (width, height) = loaded(content, draft=enough)
        picture = flat(opened, background, enough=enough)
        if enough > SEEN and opened.format in ("JPEG", "MPO"):
            opened, _ = loaded(content, draft=SEEN)
        same = enough == SEEN and background == WHITE
        seen = picture if same else flat(opened, WHITE, enough=SEEN)
        small = np.asarray(_resized(seen, (SIDE, SIDE)).convert("RGB"))
        square = np.asarray(fitted(picture, transform).convert("RGB"))
        return square, Facts(width, height, _is_grey(small), fingerprint(small))


def to_rgb(content: bytes, background: Colour = WHITE, *, enough: int | None = None) -> Image.Image:
    """Decode the bytes of a file → the whole picture, upright sRGB. Raises `Unreadable`.

    With `enough`, it may be reduced to no fewer than `enough` pixels per side.
    """
    with large_accepted(), _reasons(content):
        picture, _ = loaded(content, draft=enough)
        return flat(picture, background, enough=enough).convert("RGB")


def fitted(picture: Image.Image, transform: Transform) -> Image.Image:
    """Fit a picture of mode RGB or L to a square of the transform's size."""
    width, height = picture.size
    square = (transform.size, transform.size)
    if transform.fit == "squash":
        return _resized(picture, square)
    if transform.fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return _resized(picture, square, (left, top, left + side, top + side))
    scale = transform.size / max(width, height)
    inner = _resized(picture, (max(1, round(width * scale)), max(1, round(height * scale))))
    paper = Image.new("RGB", square, transform.background)
    paper.paste(inner, ((square[0] - inner.width) // 2, (square[1] - inner.height) // 2))
    return paper


def _is_grey(looks: np.ndarray) -> bool:
    red, green, blue = np.moveaxis(looks.astype(np.int16), 2, 0)
    apart = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return bool(apart.sum() < GREY * apart.size)


@contextmanager
def large_accepted() -> Iterator[None]:
    """Within the block, replace Pillow's limits and warnings by `main_picture.MAX_PIXELS` and `MAX_TEXT`."""
    bounds = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    try:
        Image.MAX_IMAGE_PIXELS = None
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = bounds


Box = tuple[float, float, float, float]


def _resized(picture: Image.Image, size: tuple[int, int], box: Box | None = None) -> Image.Image:
    return picture.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)


class _reasons:  # noqa: N801 (reads as `with _reasons(content)`)
    """Turns any exception of the decoders into `Unreadable` with a reason for the user."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __enter__(self) -> None:
        if not self.content:
            raise Unreadable(f"empty file: {signs.AGAIN}")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, Unreadable | MemoryError) or not isinstance(error, Exception):
            return
        named = signs.name(self.content)
        if plugins.add(named):  # the plugins' own messages do not help
            raise Unreadable(f"damaged {named}: {signs.AGAIN}") from None
        name = _looks_like(self.content)
        if isinstance(error, UnidentifiedImageError):
            reason = signs.unsupported(self.content)
            if reason is None and name is None:
                reason = signs.not_a_picture(self.content)
            if reason is not None:
                raise Unreadable(reason) from None
            error = _refusal(name or "", self.content)
        raise Unreadable(_why(error, name or "picture", self.content)) from None


def _why(error: Exception, name: str, content: bytes) -> str:
    """Why a picture of the format `name` cannot be decoded."""
    what = " ".join(str(error).split()) or type(error).__name__
    what = what.removesuffix(" when reading image file").replace("not identified by this driver", "no header")
    found = tiff.read(content) if name == "TIFF" else None
    page = found.main() if found is not None else None
    if page is not None and (page.is_unusual or UNSUPPORTED.search(what)):
        what = f"unsupported: {page.kind}"
    if UNSUPPORTED.search(what):
        what = what.removeprefix("Unsupported BMP ").removeprefix("unsupported: ")
        return f"unsupported {name}, {signs.CONVERTED}: {what}"
    if "truncated" in what.lower() or isinstance(error.__cause__ or error, struct.error):
        return f"truncated {name}: {signs.AGAIN}"
    return f"damaged {name}: {what}"


def _looks_like(content: bytes) -> str | None:
    """The format whose signature the file begins with, or None."""
    head = content[:16].ljust(16, b"\0")  # some of Pillow's plugins read past the end of less
    for name in main_picture.formats():
        accept = Image.OPEN[name][1]
        if accept is not None and accept(head) is True:
            return name
    return None


def _refusal(name: str, content: bytes) -> Exception:
    """The exception of the decoder of format `name`, which `Image.open` hides."""
    try:
        Image.OPEN[name][0](io.BytesIO(content), "")
    except Exception as error:
        if not isinstance(error.__cause__, IndexError | struct.error):  # it read past the end
            return error
    return ValueError("no header")
