"""Finds the files of a folder of art, reads a picture, and says in plain words why a file is none.

A picture's label is the name of the first folder below the root that it lies in; a picture in the root itself has
none. Names that begin with a dot (`.ipynb_checkpoints`, `.DS_Store`) are not looked at.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from artdiff import UserError

EXPECTED = "expected pictures in class subfolders (DIR/engraving/a.jpg) or in the folder itself (DIR/a.jpg)"


class File(NamedTuple):
    """A file below the root as the disk lists it: `path` relative to the root, with `/`; `mtime` in nanoseconds."""

    path: str
    bytes: int
    mtime: int

    @property
    def label(self) -> str | None:
        first, slash, _ = self.path.partition("/")
        return first if slash else None


class Unreadable(Exception):
    """This file is not a picture that can be used; the message is the reason, in words for a person."""


def scan(root: Path, *, name: str = "data.root") -> list[File]:
    """All files below `root`, sorted by path. Raises `UserError`, in which `root` goes by `name`, if there are none."""
    if not _exists(root):
        raise UserError(f"{name}={root} does not exist; {_nearest(root)}")
    if not root.is_dir():
        raise UserError(f"{name}={root} is a file, not a folder; {EXPECTED}")
    try:
        files = sorted(_walk(root, root))
    except PermissionError as error:
        raise UserError(f"{name}={root} cannot be listed: permission denied for {error.filename}") from None
    if not files:
        folders = sorted(entry.name for entry in root.iterdir())
        found = f"only {_some(folders)} without files" if folders else "nothing"
        raise UserError(f"{name}={root} holds {found}; {EXPECTED}")
    return files


def read(path: Path, *, draft: int | None = None) -> tuple[Image.Image, str]:
    """Decode a file in full → (upright RGB picture, SHA-256 of its bytes).

    `draft` lets a JPEG be decoded at a fraction of its size, no smaller than `draft` pixels a side. Raises
    `Unreadable`.
    """
    if path.exists() and not path.is_file():
        raise Unreadable("not a file but a pipe, a socket or a device")
    try:
        content = path.read_bytes()
    except PermissionError:
        raise Unreadable("permission denied") from None
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    if not content:
        raise Unreadable("empty file")
    from artdiff import images  # here, so that a folder can be looked at before torch is loaded

    kind = "picture"
    try:
        with Image.open(io.BytesIO(content)) as picture:
            kind = picture.format or kind
            if draft is not None:
                picture.draft(None, (draft, draft))
            picture.load()
            return images.to_rgb(picture), hashlib.sha256(content).hexdigest()
    except UnidentifiedImageError:
        raise Unreadable(_not_a_picture(content)) from None
    except Image.DecompressionBombError:
        raise Unreadable(f"too large: more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
    except Exception as error:  # decoders raise whatever they like on damaged input: each is one entry in the list
        what = " ".join(str(error).split()) or type(error).__name__
        raise Unreadable(f"truncated {kind}" if "truncated" in what.lower() else f"damaged {kind}: {what}") from None


def write_set_aside(path: Path, set_aside: Iterable[tuple[str, str]]) -> None:
    """Write the (file, reason) pairs as a tab-separated list with a heading."""
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(("file", "reason"))
        writer.writerows(set_aside)


def _walk(folder: Path, root: Path, above: tuple[str, ...] = ()) -> Iterator[File]:
    real = os.path.realpath(folder)
    if real in above:  # a link back to a folder that we are in
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), root, (*above, real))
                continue
            try:
                status = entry.stat()
            except OSError:  # a link to nowhere: `read` says so
                status = entry.stat(follow_symlinks=False)
            yield File(Path(entry.path).relative_to(root).as_posix(), status.st_size, status.st_mtime_ns)


def _exists(root: Path) -> bool:
    try:
        return root.exists()
    except OSError:  # a name that no disk can hold, or a folder above that may not be entered
        return False


def _nearest(root: Path) -> str:
    parent = next(folder for folder in root.absolute().parents if _exists(folder) and os.access(folder, os.R_OK))
    names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    return f"{parent} holds {_some(names) if names else 'nothing'}; {EXPECTED}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _not_a_picture(content: bytes) -> str:
    head = content[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")) or b"<html" in head:
        return "not a picture (HTML)"
    if head.startswith(b"%pdf"):
        return "not a picture (PDF)"
    if b"\0" not in content[:512] and content[:512].isascii():
        return "not a picture (text)"
    return "not a picture"
