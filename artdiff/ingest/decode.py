"""Decodes the bytes of a file to pixels: the whole picture, upright, sRGB, on a background, fitted to a square.

Needs Pillow and numpy only, so that a child process that decodes starts in a fifth of a second.
"""

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from artdiff.ingest.fingerprint import SIDE, fingerprint

if TYPE_CHECKING:
    from artdiff.settings import Fit  # not needed by a child process, which would start more slowly

MAX_PIXELS = 178_956_970
"""Pictures with more pixels are rejected: Pillow's own bound against decompression bombs. A JPEG that is decoded at a
fraction of its size counts as that fraction."""

MAX_TEXT = 64 * 2**20
"""Bytes of text that a PNG may unpack to: editors keep their history there, for which Pillow's 1 MiB is too little."""

SEEN = 256
"""Facts are taken at this many pixels a side at least, so that they do not depend on the size of training."""

NOT_PICTURES = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
"""Formats that Pillow opens but does not decode itself: EPS would start a program, the others are stubs."""

GREY = 3.0
"""A picture is grey if its channels differ by less than this on average, of 255."""

WHITE = (255, 255, 255)
Colour = tuple[int, int, int]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → the operation that makes a picture upright (EXIF 2.32, tag 0x0112)."""

_SIGNS: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("SVG", lambda head: b"<svg" in head.lower()),
    ("HTML", lambda head: b"<html" in head.lower() or head.lstrip().lower().startswith(b"<!doctype html")),
    ("PDF", lambda head: head.lstrip().startswith(b"%PDF")),
    ("PostScript", lambda head: head.startswith(b"%!PS") or head.startswith(b"\xc5\xd0\xd3\xc6")),
    ("HEIC, which must first be converted to JPEG", lambda head: head[4:8] == b"ftyp" and head[8:10] in (b"he", b"mi")),
    ("video", lambda head: head[4:8] == b"ftyp" or head.startswith((b"\x1aE\xdf\xa3", b"\0\0\1\xba"))),
    ("archive", lambda head: head.startswith((b"PK\3\4", b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf"))),
    ("OpenEXR", lambda head: head.startswith(b"v/1\x01")),
    ("Radiance HDR", lambda head: head.startswith(b"#?")),
    ("text", lambda head: b"\0" not in head and head.isascii()),
)
"""What else lies in folders of pictures, and how to tell from its first bytes."""


class Unreadable(Exception):
    """The file is not a picture that can be used; the message says why, in words for a person."""


class Transform(NamedTuple):
    """How a picture becomes a square of `size` pixels; `background` shows through transparency and pads."""

    size: int
    fit: "Fit"
    background: Colour


class Facts(NamedTuple):
    """A picture's upright size in pixels, whether it is grey, and its fingerprint in hexadecimal digits."""

    width: int
    height: int
    grey: bool
    fingerprint: str


def decode(content: bytes, transform: Transform) -> tuple[np.ndarray, Facts]:
    """The bytes of a file → uint8 (size,size,3) and its facts. Raises `Unreadable`."""
    background, enough = transform.background, max(2 * transform.size, SEEN)
    with large_accepted(), _reasons(content):
        opened, (width, height) = _open(content, draft=enough)
        picture = flat(opened, background, enough=enough)
        if enough > SEEN and opened.format in ("JPEG", "MPO"):
            opened, _ = _open(content, draft=SEEN)
        same = enough == SEEN and background == WHITE
        seen = picture if same else flat(opened, WHITE, enough=SEEN)
        small = np.asarray(_resized(seen, (SIDE, SIDE)).convert("RGB"))
        square = np.asarray(fitted(picture, transform).convert("RGB"))
        return square, Facts(width, height, _is_grey(small), fingerprint(small))


def to_rgb(content: bytes, background: Colour = WHITE, *, enough: int | None = None) -> Image.Image:
    """The bytes of a file → the whole picture, upright sRGB. It may be smaller if `enough` pixels a side are enough.

    Raises `Unreadable`.
    """
    with large_accepted(), _reasons(content):
        picture, _ = _open(content, draft=enough)
        return flat(picture, background, enough=enough).convert("RGB")


def flat(picture: Image.Image, background: Colour, *, enough: int | None = None) -> Image.Image:
    """A Pillow picture of any mode → upright, sRGB, mode RGB or L; `background` shows through transparency.

    A picture with more than twice `enough` pixels on its shorter side is first reduced, to no less than `enough`.
    """
    profile, deep = picture.info.get("icc_profile"), _range(picture)
    picture, alpha = _apart(_upright(picture), deep)
    if enough is not None and (alpha is not None or profile or picture.mode not in ("L", "RGB")):
        factor = min(picture.size) // enough
        if factor > 1:
            if alpha is not None:  # transparent pixels must not colour opaque ones
                both = Image.merge("RGBA", (*picture.convert("RGB").split(), alpha)).reduce(factor)
                picture, alpha = both.convert("RGB"), both.getchannel("A")
            else:
                picture = picture.reduce(factor)
    picture = _to_srgb(picture, profile)
    if alpha is None:
        return picture
    return Image.composite(picture.convert("RGB"), Image.new("RGB", picture.size, background), alpha)


def fitted(picture: Image.Image, transform: Transform) -> Image.Image:
    """A picture of mode RGB or L → a square of the transform's size."""
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
    """Replace Pillow's bounds and their warnings by `MAX_PIXELS` and `MAX_TEXT` for a while."""
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


@lru_cache
def _formats() -> tuple[str, ...]:
    Image.preinit()  # the usual formats are tried first
    Image.init()
    return tuple(name for name in Image.ID if name not in NOT_PICTURES)


def _open(content: bytes, *, draft: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """Decode → the picture and its upright size. A JPEG may come smaller, with at least `draft` pixels a side."""
    picture = Image.open(io.BytesIO(content), formats=_formats())
    header = picture.size
    drafted = draft is not None and picture.draft(None, (draft, draft)) is not None
    if picture.width * picture.height > MAX_PIXELS:
        raise Unreadable(f"too large: {header[0]:,} x {header[1]:,}")
    picture.load()
    width, height = header if drafted else picture.size  # Pillow turns a TIFF while loading it
    return picture, (width, height) if _orientation(picture) < 5 else (height, width)


class _reasons:  # noqa: N801 (reads as `with _reasons(content)`)
    """Turns whatever the decoders raise on damaged input into `Unreadable` with a readable reason."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __enter__(self) -> None:
        if not self.content:
            raise Unreadable("empty file")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, Unreadable | MemoryError) or not isinstance(error, Exception):
            return
        name = _looks_like(self.content)
        if isinstance(error, UnidentifiedImageError):
            if name is None:
                raise Unreadable(_not_a_picture(self.content)) from None
            error = _refusal(name, self.content)
        what = " ".join(str(error).split()) or type(error).__name__
        what = what.removesuffix(" when reading image file").replace("not identified by this driver", "no header")
        if "truncated" in what.lower() or isinstance(error.__cause__ or error, struct.error):
            raise Unreadable(f"truncated {name or 'picture'}") from None
        raise Unreadable(f"damaged {name or 'picture'}: {what}") from None


def _looks_like(content: bytes) -> str | None:
    """The format whose signature the file begins with, if any."""
    head = content[:16].ljust(16, b"\0")  # some of Pillow's plugins read past the end of less
    for name in _formats():
        accept = Image.OPEN[name][1]
        if accept is not None and accept(head) is True:
            return name
    return None


def _refusal(name: str, content: bytes) -> Exception:
    """Why the decoder of format `name` refuses the file; `Image.open` does not say."""
    try:
        Image.OPEN[name][0](io.BytesIO(content), "")
    except Exception as error:
        return error
    return ValueError("its header cannot be read")


def _not_a_picture(content: bytes) -> str:
    head = content[:512]
    if not head.strip(b"\0"):
        return "not a picture (nothing but zeros)"
    kind = next((name for name, fits in _SIGNS if fits(head)), None)
    return f"not a picture ({kind})" if kind else "not a picture"


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(0x0112, 1))
    except Exception:  # the picture may still be fine
        return 1


def _upright(picture: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def _apart(picture: Image.Image, deep: tuple[float, float] | None) -> tuple[Image.Image, Image.Image | None]:
    """A picture → the same with 8 bits a channel and without transparency, and its alpha as mode L or None."""
    if deep is not None:
        return _eight_bits(picture, *deep), _key_colour(picture)
    if picture.mode in ("La", "RGBa"):  # premultiplied alpha
        picture = picture.convert(picture.mode.upper())
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
        return picture.convert("RGB"), None if alpha.getextrema() == (255, 255) else alpha
    if picture.mode == "1":
        return picture.convert("L"), None
    if picture.mode in ("L", "RGB", "CMYK", "LAB"):
        return picture, None
    return picture.convert("RGB"), None


def _range(picture: Image.Image) -> tuple[float, float] | None:
    """The values of black and white in a grey picture of more than 8 bits; None for other pictures.

    The format says them, except for 32-bit integers and floats: there it is the smallest usual range that fits.
    """
    if not (picture.mode in ("I", "F") or picture.mode.startswith("I;16")):
        return None
    tags = getattr(picture, "tag_v2", {})  # a TIFF's; 258 BitsPerSample, 262 PhotometricInterpretation: 0 WhiteIsZero
    if picture.mode.startswith("I;16") or picture.format == "PPM":
        white = 2.0 ** tags.get(258, (16,))[0] - 1
        return (white, 0.0) if tags.get(262) == 0 else (0.0, white)
    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("it holds values that are not finite")
    if low < 0:
        return low, max(high, low + 1e-9)
    usual = (1.0, 255.0, 65535.0) if picture.mode == "F" else (255.0, 65535.0, 2.0**32 - 1)
    return 0.0, next((limit for limit in usual if high <= limit), high)


def _eight_bits(picture: Image.Image, black: float, white: float) -> Image.Image:
    """Grey with more than 8 bits → mode L."""
    scaled = (np.asarray(picture).astype(np.float32) - np.float32(black)) * np.float32(255 / (white - black))
    return Image.fromarray((scaled.clip(0, 255) + np.float32(0.5)).astype(np.uint8))


def _key_colour(picture: Image.Image) -> Image.Image | None:
    """The alpha of a grey PNG with more than 8 bits, which may name one value as transparent."""
    key = picture.info.get("transparency")
    if not isinstance(key, int):
        return None
    return Image.fromarray(np.where(np.asarray(picture) == key, 0, 255).astype(np.uint8))


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB, CMYK or LAB → L or RGB, by the embedded ICC profile if it fits."""
    if profile or picture.mode == "LAB":
        convert = _conversion(profile, picture.mode)
        if convert is not None:
            return ImageCms.applyTransform(picture, convert) or picture
    if picture.mode == "LAB":
        raise ValueError("its LAB colours cannot be converted")
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")


@lru_cache(maxsize=16)
def _conversion(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform to sRGB; None if the profile is sRGB already, is damaged, or is not for `mode`."""
    spaces = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}
    try:
        if mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        if source.profile.xcolor_space.strip() != spaces[mode]:
            return None
        if (source.profile.profile_description or "").startswith(("sRGB IEC61966", "sRGB built-in")):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
