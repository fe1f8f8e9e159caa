"""Finds the main picture of a TIFF, whose first page may be a thumbnail. Most raw files of cameras are TIFFs too.

Sources: TIFF 6.0 (1992); TIFF Technical Note 1 (SubIFDs); Adobe's DNG specification 1.7 for the values of
NewSubfileType and PhotometricInterpretation.
"""

import struct
from typing import NamedTuple

MOST_PAGES, MOST_ENTRIES = 64, 1024
"""Maximum numbers of pages per file, and of entries per page, that are read."""

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, MAKE = 254, 255, 256, 257, 258, 259, 262, 271
STRIPS, ORIENTATION, SAMPLES, SUB_PAGES, FORMAT, DNG = 273, 274, 277, 330, 339, 50706

_SIZES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""Field types of whole numbers → `struct` format."""

MASKS = (4, 51177, 52527)
"""PhotometricInterpretation of a transparency mask, a depth map and a semantic mask."""

SENSOR = (32803, 34892)
"""PhotometricInterpretation of sensor values: a colour filter array, and linear raw."""

AS_LARGE = 0.8
"""A preview with at least this fraction of the sensor's pixels counts as the picture."""

LARGER = 1.5
"""If a page has at least this many times the width and height of the first, the first may be its thumbnail."""

SAME_SHAPE = 0.05
"""Maximum relative difference of their aspect ratios: thumbnails are rounded to whole pixels and cropped a little."""

RAW_OF = {"NIKON": "NEF", "SONY": "ARW", "PENTAX": "PEF", "SAMSUNG": "SRW", "CANON": "CR2", "HASSELBLAD": "3FR"}
FORMATS = {1: "", 2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}
COMPRESSIONS = {34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG", 50000: "Zstandard", 50001: "WebP"}
COMPRESSIONS |= {50002: "JPEG XL", 52546: "JPEG XL", 34661: "JBIG", 34925: "LZMA"}


class Page(NamedTuple):
    """A page of the file: the offset of its directory, and those of its tags whose values are integers."""

    place: int
    tags: dict[int, tuple[int, ...]]

    def first(self, tag: int, default: int = 0) -> int:
        return self.tags.get(tag, (default,))[0]

    @property
    def size(self) -> tuple[int, int]:
        return self.first(WIDTH), self.first(HEIGHT)

    @property
    def area(self) -> int:
        return self.first(WIDTH) * self.first(HEIGHT)

    @property
    def is_reduced(self) -> bool:
        return bool(self.first(SUBFILE) & 1) or self.first(OLD_SUBFILE) == 2

    @property
    def is_picture(self) -> bool:
        """True unless the page has a mask or sensor values."""
        kind = self.first(PHOTOMETRIC, 1)
        return self.area > 0 and not self.first(SUBFILE) & 4 and kind not in (*MASKS, *SENSOR)

    @property
    def is_unusual(self) -> bool:
        """Whether Pillow cannot decode pixels of this kind, or not in every installation."""
        usual = self.first(FORMAT, 1) in (1, 2, 4) or (self.first(BITS), self.first(SAMPLES, 1)) == (32, 1)
        return (
            not usual
            or self.first(COMPRESSION, 1) in COMPRESSIONS
            or self.first(BITS, 1) not in (1, 2, 4, 8, 12, 16, 32)
        )

    @property
    def kind(self) -> str:
        """The kind of its pixels, in words."""
        bits, count = self.first(BITS, 1), self.first(SAMPLES, 1)
        how = COMPRESSIONS.get(self.first(COMPRESSION, 1))
        values = f"{count} x {bits}-bit {FORMATS.get(self.first(FORMAT, 1), '')}values a pixel"
        return values + (f", compressed as {how}" if how else "")


class Tiff(NamedTuple):
    """The content of a file, and its pages in order, each followed by its sub-pages."""

    content: bytes
    pages: list[Page]

    def beginning_with(self, page: Page) -> bytes:
        """The content as a file whose first page is `page`."""
        if page is self.pages[0]:
            return self.content
        order, is_big = _order(self.content), self.content[2:4] in (b"+\0", b"\0+")
        at, form = (8, "Q") if is_big else (4, "I")
        place = struct.pack(order + form, page.place)
        return self.content[:at] + place + self.content[at + len(place) :]

    @property
    def raw_format(self) -> str | None:
        """The name of the format if it is a camera's raw file or a DNG."""
        if self.content[8:10] == b"CR":
            return "CR2"
        if any(DNG in page.tags for page in self.pages):
            return "DNG"
        if not any(page.first(PHOTOMETRIC) in SENSOR for page in self.pages):
            return None
        make = bytes(self.pages[0].tags.get(MAKE, ())).decode(errors="replace").upper()
        return next((name for start, name in RAW_OF.items() if make.startswith(start)), "TIFF")

    @property
    def sensor_pixels(self) -> int:
        """The number of pixels of the camera's sensor; 0 if unknown."""
        return max((page.area for page in self.pages if page.first(PHOTOMETRIC) in SENSOR), default=_cr2(self))

    def main(self) -> Page | None:
        """The page with the main picture according to the tags; None if there are only smaller copies of it."""
        pictures = [page for page in self.pages if page.is_picture]
        sensor = self.sensor_pixels
        if sensor or self.raw_format == "CR2":
            large = [page for page in pictures if sensor and page.area >= AS_LARGE * sensor]
            return max(large, key=lambda page: page.area, default=None)
        if not self.pages[0].is_reduced and (self.pages[0].is_picture or not pictures):
            return self.pages[0]
        full = [page for page in pictures if not page.is_reduced] or self.larger(self.pages[0])  # all may be marked
        return max(full, key=lambda page: page.area, default=None)

    def larger(self, page: Page) -> list[Page]:
        """Pages with the same aspect ratio that are much larger than `page`, the largest first."""
        width, height = (max(side, 1) for side in page.size)
        found = [
            other
            for other in self.pages
            if other.is_picture
            and min(other.size[0] / width, other.size[1] / height) >= LARGER
            and abs(other.size[0] * height / (other.size[1] * width) - 1) <= SAME_SHAPE
        ]
        return sorted(found, key=lambda other: -other.area)


def read(content: bytes) -> Tiff | None:
    """The pages of a TIFF or BigTIFF; None if the content is neither, or its first directory is damaged."""
    if content[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    order, is_big = _order(content), content[2:4] in (b"+\0", b"\0+")
    try:
        (first,) = struct.unpack_from(order + ("Q" if is_big else "I"), content, 8 if is_big else 4)
    except struct.error:
        return None
    pages: list[Page] = []
    seen, waiting = set[int](), [first]
    while waiting and len(pages) < MOST_PAGES:
        place = waiting.pop(0)
        if place in seen or not place:
            continue
        seen.add(place)
        try:
            page, following = _page(content, place, order, is_big)
        except (struct.error, OverflowError):
            continue
        pages.append(page)
        waiting = [*page.tags.get(SUB_PAGES, ()), following, *waiting]
    return Tiff(content, pages) if pages and pages[0].place == first else None


def _order(content: bytes) -> str:
    return "<" if content.startswith(b"II") else ">"


def _page(content: bytes, place: int, order: str, is_big: bool) -> tuple[Page, int]:
    """The directory at offset `place`, and the offset of the next. Raises `struct.error` or `OverflowError`."""
    counted, entry, pointer = ("Q", "HHQ", "Q") if is_big else ("H", "HHI", "I")
    (count,) = struct.unpack_from(order + counted, content, place)
    head, value = struct.calcsize(order + entry), struct.calcsize(order + pointer)
    at = place + struct.calcsize(order + counted)
    tags: dict[int, tuple[int, ...]] = {}
    for number in range(min(count, MOST_ENTRIES)):
        here = at + number * (head + value)
        tag, kind, values = struct.unpack_from(order + entry, content, here)
        form = "B" if tag == MAKE and kind == 2 else _SIZES.get(kind)
        if form is None or not values:
            continue
        values = min(values, MOST_PAGES)
        where = here + head
        if values * struct.calcsize(form) > value:
            (where,) = struct.unpack_from(order + pointer, content, where)
        if where + values * struct.calcsize(form) <= len(content):
            tags[tag] = struct.unpack_from(f"{order}{values}{form}", content, where)
    end = at + count * (head + value)
    following = struct.unpack_from(order + pointer, content, end)[0] if end + value <= len(content) else 0
    return Page(place, tags), following


def _cr2(found: Tiff) -> int:
    """The number of sensor pixels of a CR2, whose last page is a lossless JPEG (SOF3) without size tags."""
    if found.content[8:10] != b"CR":
        return 0
    start = found.pages[-1].first(STRIPS)
    at = found.content.find(b"\xff\xc3", start, start + 2**16)
    if not start or at < 0 or at + 10 > len(found.content):
        return 0
    height, width, parts = struct.unpack_from(">HHB", found.content, at + 5)
    return height * width * parts
