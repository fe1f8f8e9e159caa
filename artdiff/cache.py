"""The cache folder: where it is, what is in it, and how to remove entries. Everything in it can be computed again.

- `files/ROOT.json` and `.near`: the SHA-256 of every file of a folder, and its near-duplicates;
- `decoded/KIND.*`: decoded pixels (a row store), and whether each file was accepted or rejected;
- `features/NAME.*`: perceptual features of pictures (a row store); `latents/NAME.*`: their latents;
- `shards/NAME.shard`: files fetched from an object store;
- the built-in sample art, which `prune` does not remove.
"""

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from platformdirs import user_cache_path

from artdiff import UserError, files
from artdiff.locks import Lock

DESCRIBED = {
    "files": "hashes of a folder's files",
    "features": "perceptual features of pictures",
    "latents": "latents of pictures",
    "shards": "pictures from an object store",
}
ROOMS = ("decoded", *DESCRIBED)
"""Subfolders whose files `prune` may remove."""

OWN = re.compile(r"([0-9a-f]{12}-)?[0-9a-f]{32}")
SUFFIXES = ("rows", "keys", "jsonl", "json", "near", "shard", "unfinished")
EARLIER_SUFFIXES = ("npy", "partial", "journal", "building", "features")
"""Names and extensions of artdiff's own files, now and in version 0.1.0. No other file is ever removed."""


def default_folder() -> Path:
    """The cache folder: ARTDIFF_CACHE, or `artdiff` in the user's cache folder. Raises `UserError` if there is none."""
    given = os.environ.get("ARTDIFF_CACHE")
    if given:
        return files.user_path(given)
    try:
        folder = user_cache_path("artdiff")
    except RuntimeError:  # no home
        folder = None
    if folder is None or folder.parts[:1] == ("~",):
        raise UserError(
            "this user has no home folder for the cache of decoded pictures: set data.cache_dir or ARTDIFF_CACHE"
        )
    return folder


def chosen_folder(cache_dir: str | None) -> Path:
    """The cache folder that the setting `cache_dir` names, by default `default_folder`."""
    return default_folder() if cache_dir is None else files.user_path(cache_dir)


def make(folder: Path) -> None:
    """Make a folder of the cache. Raises `UserError` if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(folder, error) from None


def unusable(folder: Path, error: OSError) -> UserError:
    """The error for a cache folder that cannot be written, with the remedy."""
    needed = "a folder on a disk with room" if error.errno in files.FULL else "a folder that can be written to"
    return UserError(
        f"the cache in {files.printable(str(folder))} cannot be written: {error.strerror or error}; "
        f"set data.cache_dir or ARTDIFF_CACHE to {needed}"
    )


class CacheEntry(NamedTuple):
    """An entry of the cache: its files, a description, its `bytes` on disk and the time of its last use (Unix time)."""

    paths: list[Path]
    what: str
    bytes: int
    used: float


def kept(folder: Path) -> list[CacheEntry]:
    """All removable entries of the cache, least recently used first."""
    by_name: dict[tuple[str, str], list[Path]] = {}
    for path in (path for room in ROOMS for path in (folder / room).glob("*.*")):
        name, _, suffix = path.name.partition(".")
        if OWN.fullmatch(name) and suffix.rpartition(".")[2] in (*SUFFIXES, *EARLIER_SUFFIXES):
            by_name.setdefault((path.parent.name, name), []).append(path)
    found = []
    for (room, _), paths in by_name.items():
        status = []
        for path in paths:
            with suppress(FileNotFoundError):  # another program has just removed it
                status.append(path.stat())
        if not status:
            continue
        used = max(one.st_mtime for one in status)
        found.append(
            CacheEntry(sorted(paths), _described(room, paths), sum(one.st_blocks * 512 for one in status), used)
        )
    return sorted(found, key=lambda one: one.used)


def remove(one: CacheEntry) -> bool:
    """Remove an entry → False if it is being built and was not removed. Raises `OSError`."""
    lock = Lock(one.paths[0].with_name(f"{one.paths[0].name.partition('.')[0]}.lock"))
    if not lock.take():
        return False
    try:
        for path in one.paths:
            path.unlink(missing_ok=True)
        if lock.path.parent.name == "shards":  # there are many; concurrent fetches of one are harmless
            lock.path.unlink(missing_ok=True)
    finally:
        lock.release()
    return True


def mark_used(path: Path) -> None:
    """Set the time of the last use, for `prune`; does nothing without permission."""
    with suppress(OSError):
        os.utime(path)


def key(*parts: object) -> str:
    """A hash of values that JSON can represent: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is absent or incomplete."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: object) -> None:
    """Replace a JSON file atomically. Raises `UserError` if it cannot be written."""
    files.write(path, json.dumps(content))


def _described(room: str, paths: list[Path]) -> str:
    """A description of an entry for the user."""
    if room in DESCRIBED:
        return DESCRIBED[room]
    by_suffix = {path.suffix: path for path in paths}
    if ".jsonl" in by_suffix:
        return _decoded(by_suffix[".jsonl"])
    listing = read_json(by_suffix[".json"]) if ".json" in by_suffix else None
    if isinstance(listing, dict):
        size, fit, _ = listing["transform"]
        return f"{len(listing['outcomes']):,} files of {listing['root']}, {fit} to {size} px"
    return "an interrupted build"


def _decoded(ledger: Path) -> str:
    first, count = b"", 0
    try:
        with ledger.open("rb") as stream:
            first, count = stream.readline(), sum(1 for _ in stream)
        size, fit, _ = json.loads(first)["transform"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{count:,} decoded files"
    return f"{count:,} decoded files, {fit} to {size} px"
