"""The list of pictures to leave out, `data.exclude`: a path, a folder or a SHA-256 per line.

It may be a plain list, a table that artdiff has written (or lines or columns of one), or the output of `sha256sum`.
"""

import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from artdiff import UserError
from artdiff.ingest import tables
from artdiff.ingest.source import Record
from artdiff.ingest.tables import shown, some

log = logging.getLogger(__name__)

SHA256 = re.compile(r"\s*\\?(?:sha256:)?([0-9a-fA-F]{64})(?:\s+.*)?|SHA256 ?\(.*\) ?= ?([0-9a-fA-F]{64})\s*", re.DOTALL)
"""The hash of a content, alone or in a line of `sha256sum`, which puts a backslash before names with escapes."""


class Named(NamedTuple):
    """The entries of the list: files by path, contents by hash, and entries that match no file."""

    paths: set[str]
    contents: set[str]
    unknown: list[str]


def excluded(path: Path, root: Path, records: Sequence[Record], hashes: dict[str, str]) -> dict[str, str]:
    """The files that the list at `path` excludes, each with the reason.

    These are the listed files, the files in listed folders, files with a listed hash, and all copies of these. Logs a
    warning about entries that match no file. Raises `UserError` if the list cannot be read.
    """
    try:
        text = tables.decoded(path.read_bytes())
    except OSError as error:
        raise UserError(f"data.exclude={path} cannot be read: {error.strerror}") from None
    named = _named(text, root, records, set(hashes.values()))
    if named.unknown:
        few = some([shown(entry) for entry in named.unknown], most=3)
        log.warning("%s entries of data.exclude=%s match no file: %s", f"{len(named.unknown):,}", path, few)
    contents = named.contents | {hashes[file] for file in named.paths if file in hashes}
    found = {
        one.path: "left out by data.exclude: the same content" for one in records if hashes.get(one.path) in contents
    }
    return found | dict.fromkeys(named.paths, "left out by data.exclude")


def _named(text: str, root: Path, records: Sequence[Record], present: set[str]) -> Named:
    """Match each entry with files and folders of `records`, else with a hash. Lines that begin with # are comments."""
    below = _files_below(records)
    named = Named(set(), set(), [])
    end = "\0" if "\0" in text else "\n"  # as `find -print0` separates them
    heading, at = tables.row(text)
    is_table = len(heading) > 1 and heading[0] == "file" and "file" not in below
    at = at if is_table else 0
    while at < len(text):
        readings = _readings(text, at, end, is_table=is_table)
        entry, at, _ = readings[0]
        found = next((one for one in readings for name in one.names(root) if name in below), None)
        sha256 = SHA256.fullmatch(entry)
        if found is not None:
            at = found.after
            named.paths.update(next(below[name] for name in found.names(root) if name in below))
        elif sha256:
            digest = (sha256[1] or sha256[2]).lower()
            named.contents.add(digest)
            if digest not in present:
                named.unknown.append(entry.strip())
        elif entry.strip() and not entry.startswith("#"):
            named.unknown.append(entry.partition("\t")[0].strip())
    return named


class Reading(NamedTuple):
    """A possible reading of an entry, and where the next entry begins. `exact` if it is a cell of a table."""

    entry: str
    after: int
    exact: bool

    def names(self, root: Path) -> Iterator[str]:
        """The paths below the root that the entry may mean, the most literal first."""
        stripped = self.entry.strip()
        if self.entry:
            yield _normal(self.entry)
        if not self.exact and stripped:
            yield _normal(self.entry.removesuffix("\r"))
            yield _normal(stripped)
            yield _normal(os.path.relpath(stripped, root))
            yield _normal(stripped.replace("\\", "/"))  # as Windows writes it


def _readings(text: str, at: int, end: str, *, is_table: bool) -> list[Reading]:
    """Possible readings of the entry at position `at`: the first cell of a table's line, or a whole line."""
    stop = text.find(end, at)
    stop = len(text) if stop < 0 else stop
    line = Reading(text[at:stop], stop + 1, exact=False)
    if end == "\0":
        return [line]
    cells, after = tables.row(text, at)
    if is_table and len(cells) > 1:
        return [Reading(cells[0], after, exact=True)]
    return [line, Reading(cells[0], after, exact=False)]


def _normal(path: str) -> str:
    return unicodedata.normalize("NFC", os.path.normpath(path))


def _files_below(records: Sequence[Record]) -> dict[str, set[str]]:
    """Path of a file or folder → the files that it stands for. Accents are composed (NFC)."""
    below: dict[str, set[str]] = defaultdict(set)
    for path in (one.path for one in records):
        folders = path.split("/")[:-1]
        for depth in range(1, len(folders) + 1):
            below[unicodedata.normalize("NFC", "/".join(folders[:depth]))].add(path)
        below[unicodedata.normalize("NFC", path)].add(path)
    return below
