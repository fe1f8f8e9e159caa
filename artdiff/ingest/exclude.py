"""The list of pictures to leave out, `data.exclude`: a path, a folder or a SHA-256 a line."""

import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from artdiff import UserError
from artdiff.ingest.source import Record
from artdiff.ingest.tables import shown, some

log = logging.getLogger(__name__)

SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})(?: [ *].*)?")
"""A content's hash, alone or in a line of `sha256sum`."""


class Named(NamedTuple):
    """What the list names: files by path, contents by hash, and entries that match nothing."""

    paths: set[str]
    contents: set[str]
    unknown: list[str]


def excluded(path: Path, root: Path, records: Sequence[Record], hashes: dict[str, str]) -> dict[str, str]:
    """The files that the list at `path` leaves out, each with the reason.

    Left out are files and folders that are named, hashes that are named, and every copy of these. Logs a warning about
    entries that match no file. Raises `UserError` if the list cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"data.exclude={path} cannot be read: {error.strerror}") from None
    named = _named(lines, root, records, set(hashes.values()))
    if named.unknown:
        few = some([shown(entry) for entry in named.unknown], most=3)
        log.warning("%s entries of data.exclude=%s match no file: %s", f"{len(named.unknown):,}", path, few)
    contents = named.contents | {hashes[file] for file in named.paths if file in hashes}
    found = {
        one.path: "left out by data.exclude: the same content" for one in records if hashes.get(one.path) in contents
    }
    return found | dict.fromkeys(named.paths, "left out by data.exclude")


def _named(lines: Sequence[str], root: Path, records: Sequence[Record], present: set[str]) -> Named:
    """Match each line with files and folders of `records`, then with a hash; lines that begin with # are comments."""
    below = _files_below(records)
    named = Named(set(), set(), [])
    for line in lines:
        entry = unicodedata.normalize("NFC", line.partition("\t")[0])
        sha256 = SHA256.fullmatch(entry.strip())
        spellings = (entry, entry.strip(), os.path.relpath(entry.strip(), root)) if entry.strip() else ()
        matches = next((below[text] for text in map(os.path.normpath, spellings) if text in below), None)
        if matches is not None:
            named.paths.update(matches)
        elif sha256:
            named.contents.add(sha256[1].lower())
            if sha256[1].lower() not in present:
                named.unknown.append(entry)
        elif spellings and not entry.startswith("#"):
            named.unknown.append(entry)
    return named


def _files_below(records: Sequence[Record]) -> dict[str, set[str]]:
    """A file's or a folder's path → the files that it means. Accents are composed (NFC)."""
    below: dict[str, set[str]] = defaultdict(set)
    for path in (one.path for one in records):
        folders = path.split("/")[:-1]
        for depth in range(1, len(folders) + 1):
            below[unicodedata.normalize("NFC", "/".join(folders[:depth]))].add(path)
        below[unicodedata.normalize("NFC", path)].add(path)
    return below
