"""Opens the main picture of a file with several: not a thumbnail, and not a blank first frame of an animation."""

import io
from functools import cache

import numpy as np
from PIL import Image

from artdiff.ingest import plugins, signs, tiff
from artdiff.ingest.flatten import WHITE, flat, orientation
from artdiff.ingest.signs import EXPORTED

MAX_PIXELS = 178_956_970
"""Pictures with more pixels are rejected; the value is Pillow's limit against decompression bombs. A JPEG that is
decoded at reduced size counts with that size."""

NOT_PICTURES = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
"""Formats that Pillow opens but does not decode itself: EPS would start a program, the others are stubs."""

MOST_FRAMES = 64
"""Frames of an animation that are checked if the first is blank; fewer if they have more than `MAX_PIXELS` in all."""

BLANK = 8
"""A frame is blank if its values differ by no more than this; values are 0 to 255."""

LOOK = 32
"""Maximum resolution at which pages and frames are compared, in pixels."""

ALIKE = 16.0
"""Two pages show the same picture if their mean difference at that resolution is no more; values are 0 to 255."""

MERGED = 1057
"""Photoshop resource whose byte 4 says whether the file has the merged picture besides its layers."""


class Unreadable(Exception):
    """The file is not a usable picture; the message is a reason for the user."""


def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are decoded, common ones first."""
    _init()
    return tuple(name for name in Image.ID if name not in NOT_PICTURES)


@cache
def _init() -> None:
    Image.preinit()
    Image.init()


def loaded(content: bytes, *, draft: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """Decode the main picture → picture, upright (width, height). Raises `Unreadable`, or any exception of Pillow.

    With `draft`, a JPEG may be decoded at reduced size, with at least `draft` pixels per side.
    """
    found = tiff.read(content)
    picture = _opened(content) if found is None else _of_tiff(found)
    if picture.format == "MPO":
        picture.seek(_of_mpo(picture))
    if picture.format == "PSD" and _lacks_merged(picture):
        raise Unreadable("Photoshop file without a merged picture, which must be saved with Maximize Compatibility")
    header = picture.size
    drafted = draft is not None and picture.tell() == 0 and picture.draft(None, (draft, draft)) is not None
    if picture.width * picture.height > MAX_PIXELS:
        raise Unreadable(f"too large: {header[0]:,} x {header[1]:,}")
    picture.load()
    width, height = header if drafted else picture.size  # Pillow turns a TIFF while loading it
    size = (width, height) if orientation(picture) < 5 else (height, width)
    if _may_begin_blank(picture, found) and _is_blank(picture):
        place = _first_with_content(content, found)
        if place:
            picture = _frame(content, found, place)
            size = picture.size
    return picture, size


def _opened(content: bytes) -> Image.Image:
    plugins.add(signs.name(content))
    return Image.open(io.BytesIO(content), formats=formats())


def _of_tiff(found: tiff.Tiff) -> Image.Image:
    """Open the main page. A page without orientation takes that of the first page."""
    page, raw = found.main(), found.raw_format
    if page is None:
        previews = [one for one in found.pages if one.is_picture]
        width, height = max(previews, key=lambda one: one.area).size if previews else (0, 0)
        there = f": only its preview of {width} x {height} can be read" if previews else ""
        if raw is not None:
            raise Unreadable(f"raw file ({raw}), {EXPORTED}{there}")
        raise Unreadable(f"TIFF without its main picture{there}")
    try:
        picture = _opened(found.beginning_with(page))
        larger = found.larger(page) if page is found.pages[0] and raw is None else []
        page, picture = _instead_of_thumbnail(found, page, picture, larger)
    except Exception:
        if raw is not None:
            raise Unreadable(f"raw file ({raw}), {EXPORTED}") from None
        raise
    if tiff.ORIENTATION not in page.tags and page is not found.pages[0]:
        picture.getexif()[tiff.ORIENTATION] = found.pages[0].first(tiff.ORIENTATION, 1)
    return picture


def _instead_of_thumbnail(
    found: tiff.Tiff, page: tiff.Page, picture: Image.Image, larger: list[tiff.Page]
) -> tuple[tiff.Page, Image.Image]:
    """The first of the larger pages that shows the same picture as `page`, else `page` itself."""
    if not larger or page.area > MAX_PIXELS:
        return page, picture
    try:
        side = min(LOOK, *page.size)
        seen = _look(_opened(found.beginning_with(page)), side)
    except Exception:  # `page` is damaged, which is reported when it is loaded
        return page, picture
    for other in larger:
        if other.area > MAX_PIXELS:
            raise Unreadable(f"too large: {other.size[0]:,} x {other.size[1]:,}")
        try:
            if np.abs(_look(_opened(found.beginning_with(other)), side) - seen).mean() <= ALIKE:
                return other, _opened(found.beginning_with(other))
        except Exception:  # the larger page is damaged, or of a kind that cannot be decoded
            continue
    return page, picture


def _look(picture: Image.Image, side: int = LOOK) -> np.ndarray:
    """Reduce a picture to float32 (side,side,3), 0 to 255."""
    small = flat(picture, WHITE).convert("RGB").resize((side, side), Image.Resampling.BOX)
    return np.asarray(small).astype(np.float32)


def _of_mpo(picture: Image.Image) -> int:
    """The place of the main picture in a Multi-Picture file: the first that is not a thumbnail."""
    try:
        kinds = [entry["Attribute"]["MPType"] for entry in picture.mpinfo[0xB002]]  # type: ignore[attr-defined]
    except (KeyError, TypeError, AttributeError):
        return 0
    if not kinds or not kinds[0].startswith("Large Thumbnail"):
        return 0
    return next((place for place, kind in enumerate(kinds) if not kind.startswith("Large Thumbnail")), 0)


def _lacks_merged(picture: Image.Image) -> bool:
    resources = picture.resources  # type: ignore[attr-defined]
    return any(number == MERGED and data[4:5] == b"\0" for number, _, data in resources)


def _may_begin_blank(picture: Image.Image, found: tiff.Tiff | None) -> bool:
    if found is not None:
        return len(found.pages) > 1 and found.main() is found.pages[0]
    return picture.format == "GIF" or (
        picture.format in ("PNG", "WEBP", "AVIF", "FLI") and getattr(picture, "n_frames", 1) > 1
    )


def _is_blank(picture: Image.Image) -> bool:
    extrema = flat(picture, WHITE).convert("RGB").getextrema()
    return all(high - low <= BLANK for low, high in extrema)  # type: ignore[misc]


def _first_with_content(content: bytes, found: tiff.Tiff | None) -> int:
    """The first frame whose contrast is at least half the maximum of all frames; 0 if all are blank."""
    shown: list[float] = []
    pixels = 0
    while len(shown) < MOST_FRAMES and pixels <= MAX_PIXELS:
        try:
            picture = _frame(content, found, len(shown))
        except Exception:  # there are no more, or they are damaged
            break
        shown.append(float(_look(picture).std()))
        pixels += picture.width * picture.height
    most = max(shown, default=0.0)
    return next((place for place, one in enumerate(shown) if one > 0.5 and one >= most / 2), 0)


def _frame(content: bytes, found: tiff.Tiff | None, place: int) -> Image.Image:
    """Decode a frame of an animation or a page of a TIFF. Raises `EOFError` or `IndexError` after the last one."""
    if found is not None:
        pages = [page for page in found.pages if page.is_picture and not page.is_reduced]
        picture = _opened(found.beginning_with(pages[place]))
    else:
        picture = _opened(content)
        picture.seek(place)
    picture.load()
    return picture
