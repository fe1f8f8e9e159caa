"""Identifies files that cannot be decoded by their first bytes, and names the remedy."""

import re
from collections.abc import Callable

HEAD = 1024
"""Number of bytes that are checked."""

CONVERTED = "which must first be converted to JPEG or PNG"
PLUGIN = f"{CONVERTED} (or pip install 'artdiff[photos]')"
EXPORTED = "which must first be exported as JPEG, PNG or TIFF"
AGAIN = "copy or download it again"

_Test = Callable[[bytes], object]


def _begins(*starts: bytes) -> _Test:
    return lambda head: head.startswith(starts)


def _brands(*names: bytes) -> _Test:
    """A test for an ISO media file (ISO/IEC 14496-12) with one of these brands."""

    def test(head: bytes) -> bool:
        if head[4:8] != b"ftyp":
            return False
        box = head[8 : min(int.from_bytes(head[:4], "big"), HEAD)]
        return any(box[at : at + 4] in names for at in range(0, len(box), 4) if at != 4)  # the second word is a version

    return test


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) < HEAD or error.start < HEAD - 4:
            return False
        text = head[: error.start].decode()  # a character was cut off
    return not re.search("[\0-\x08\x0e-\x1a\x1c-\x1f]", text)


_FTYP: _Test = lambda head: head[4:8] == b"ftyp"  # noqa: E731

PICTURES: tuple[tuple[str, str, _Test], ...] = (
    ("JPEG XL", PLUGIN, _begins(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    ("JPEG XR", CONVERTED, _begins(b"II\xbc\x01")),
    ("JPEG-LS", CONVERTED, _begins(b"\xff\xd8\xff\xf7")),
    ("raw file (CR3)", EXPORTED, _brands(b"crx ")),
    ("AVIF that cannot be decoded here", CONVERTED, _brands(b"avif", b"avis")),
    (
        *("HEIC", PLUGIN),
        _brands(b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2"),
    ),
    ("raw file (CRW)", EXPORTED, lambda head: head[6:14] == b"HEAPCCDR"),
    ("raw file (RAF)", EXPORTED, _begins(b"FUJIFILMCCD-RAW")),
    ("raw file (ORF)", EXPORTED, _begins(b"IIRO", b"IIRS", b"MMOR")),
    ("raw file (RW2)", EXPORTED, _begins(b"IIU\0")),
    ("raw file (X3F)", EXPORTED, _begins(b"FOVb")),
    ("raw file (MRW)", EXPORTED, _begins(b"\0MRM")),
    ("PSB (large Photoshop document)", EXPORTED, _begins(b"8BPS\0\x02")),
    ("GIMP picture (XCF)", EXPORTED, _begins(b"gimp xcf")),
    ("Clip Studio picture", EXPORTED, _begins(b"CSFCHUNK")),
    ("Krita picture", EXPORTED, lambda head: head.startswith(b"PK\3\4") and b"application/x-krita" in head[:128]),
    ("OpenRaster picture", EXPORTED, lambda head: head.startswith(b"PK\3\4") and b"image/openraster" in head[:128]),
    ("OpenEXR", CONVERTED, _begins(b"v/1\x01")),
    ("Radiance HDR", CONVERTED, _begins(b"#?RADIANCE", b"#?RGBE")),
    ("DjVu", CONVERTED, _begins(b"AT&TFORM")),
    ("DPX", CONVERTED, _begins(b"SDPX", b"XPDS")),
    ("KTX", CONVERTED, _begins(b"\xabKTX ")),
    ("FLIF", CONVERTED, _begins(b"FLIF")),
    ("BPG", CONVERTED, _begins(b"BPG\xfb")),
    ("Farbfeld", CONVERTED, _begins(b"farbfeld")),
)
"""Picture formats that Pillow does not decode by itself: name, remedy, test."""

POINTERS: tuple[tuple[str, _Test], ...] = (
    (
        "a Git LFS pointer (run git lfs pull)",
        _begins(b"version https://git-lfs.github.com/", b"version https://hawser."),
    ),
    ("a git-annex pointer (run git annex get)", lambda head: re.match(rb"/?(\.git/)?annex/objects/", head)),
    ("a DVC pointer (run dvc pull)", lambda head: re.match(rb"(outs|md5|wdir):", head) and b"md5: " in head),
)
"""Small text files that stand for a picture stored elsewhere: name with remedy, test."""

OTHERS: tuple[tuple[str, _Test], ...] = (
    ("SVG", lambda head: b"<svg" in head.lower()),
    ("HTML", lambda head: b"<html" in head.lower() or head.lstrip().lower().startswith(b"<!doctype html")),
    ("PDF", lambda head: head.lstrip().startswith(b"%PDF")),
    ("PostScript", _begins(b"%!PS", b"\xc5\xd0\xd3\xc6")),
    ("link to a web page", lambda head: head.lstrip(b"\xef\xbb\xbf").lower().startswith(b"[internetshortcut]")),
    ("link to a web page", lambda head: b"<plist" in head and b"<key>URL</key>" in head),
    ("property list", lambda head: head.startswith(b"bplist00") or b"<plist" in head),
    ("Windows shortcut", _begins(b"L\0\0\0\x01\x14\x02\0")),
    ("what macOS notes about a file", _begins(b"\0\x05\x16\x07", b"\0\x05\x16\0", b"\0\0\0\x01Bud1")),
    ("encrypted", _begins(b"Salted__", b"-----BEGIN PGP", b"age-encryption.org", b"\x8c\r\x04")),
    ("sound", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WAVE"),
    ("video", lambda head: head[:4] == b"RIFF" and head[8:12] == b"AVI "),
    ("video", lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat") or head.startswith((b"\x1aE\xdf\xa3", b"FLV\x01"))),
    ("video", _begins(b"\0\0\1\xba", b"\0\0\1\xb3", b"0&\xb2u\x8ef\xcf\x11")),
    ("sound", _begins(b"ID3", b"OggS", b"fLaC", b"\xff\xfb", b"\xff\xf3")),
    ("archive", _begins(b"PK\3\4", b"PK\5\6", b"PK\7\x08", b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf", b"BZh", b"\xfd7zXZ")),
    ("archive", lambda head: head.startswith(b"\x28\xb5\x2f\xfd") or head[257:262] == b"ustar"),
    ("Office document or thumbnail database", _begins(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")),
    ("database", _begins(b"SQLite format 3")),
    ("NumPy array", _begins(b"\x93NUMPY")),
    ("HDF5", _begins(b"\x89HDF\r\n")),
    ("Parquet", _begins(b"PAR1")),
    ("Blender file", _begins(b"BLENDER")),
    ("font", _begins(b"OTTO", b"wOFF", b"wOF2", b"\0\1\0\0\0", b"true\0")),
    ("program", _begins(b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe")),
    ("text", _is_text),
)
"""Other files that are often found in folders of pictures: name, test."""


def name(content: bytes) -> str | None:
    """The picture format, if it is one that Pillow does not decode by itself; else None."""
    head = content[:HEAD]
    return next((known for known, _, fits in PICTURES if fits(head)), None)


def unsupported(content: bytes) -> str | None:
    """The reason why a picture of such a format is rejected; None for other files."""
    named = name(content)
    return next((f"{known}, {remedy}" for known, remedy, _ in PICTURES if known == named), None)


def not_a_picture(content: bytes) -> str:
    """The reason why any other file is rejected."""
    head = content[:HEAD]
    if not head.strip(b"\0"):
        return f"not a picture (nothing but zeros): {AGAIN}"
    pointer = next((name for name, fits in POINTERS if fits(head)), None)
    if pointer is not None:
        return pointer
    kind = next((name for name, fits in OTHERS if fits(head)), None)
    return f"not a picture ({kind})" if kind else "not a picture"
