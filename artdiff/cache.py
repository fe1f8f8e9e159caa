"""The folder that keeps what artdiff can make again: the files' hashes, decoded maps (`maps`), the sample art.

- `files/ROOT.json`: the SHA-256 of every file of a root, which holds as long as its size and times do;
- `decoded/TRANSFORM-CONTENTS.*`: a map and what belongs to it;
- `features/NAME.features`: what a network makes of the pictures of a map.
"""

import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from tqdm import tqdm

from artdiff import UserError

log = logging.getLogger(__name__)

OWN = re.compile(r"([0-9a-f]{12}-)?[0-9a-f]{32}")
KINDS = ("json", "npy", "partial", "journal", "unfinished", "building", "features")
"""Names and extensions of what is kept here: whatever else lies in the cache's folder is not artdiff's to remove."""

SECONDS_A_LINE = 20.0
"""Between two lines of progress where there is no terminal to draw a bar on."""


def default_folder() -> Path:
    """Where artdiff keeps what it can make again: ARTDIFF_CACHE, or `artdiff` in the user's cache folder."""
    return Path(os.environ.get("ARTDIFF_CACHE") or user_cache_path("artdiff"))


def chosen_folder(cache_dir: str | None) -> Path:
    """The folder that the setting `cache_dir` asks for."""
    return default_folder() if cache_dir is None else Path(cache_dir).expanduser()


def make(folder: Path) -> None:
    """Make the folder below the cache. Raises `UserError` where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be made ({error.strerror}); set data.cache_dir or ARTDIFF_CACHE"
        ) from None


class Kept(NamedTuple):
    """Something in the cache: its files, what it is, its `bytes` on disk and when it was last `used` (Unix seconds)."""

    paths: list[Path]
    what: str
    bytes: int
    used: float


def kept(folder: Path) -> list[Kept]:
    """Maps, interrupted ones, features and lists of hashes in the cache, the longest unused first."""
    by_name: dict[str, list[Path]] = {}
    for path in (path for kind in ("files", "decoded", "features") for path in (folder / kind).glob("*.*")):
        name, _, kind = path.name.partition(".")
        if OWN.fullmatch(name) and kind.rpartition(".")[2] in KINDS:
            by_name.setdefault(name, []).append(path)
    found = []
    for paths in by_name.values():
        listing = next((path for path in paths if path.suffix == ".json"), None)
        said = read_json(listing) if listing is not None else None
        what = "an interrupted build"
        if paths[0].parent.name == "files":
            what = "hashes of a folder's files"
        elif paths[0].parent.name == "features":
            what = "perceptual features of pictures"
        elif isinstance(said, dict):
            size, fit, _ = said["transform"]
            what = f"{len(said['outcomes']):,} files of {said['root']}, {fit} to {size} px"
        status = [path.stat() for path in paths]
        used = (listing.stat() if listing is not None else max(status, key=lambda one: one.st_mtime)).st_mtime
        found.append(Kept(sorted(paths), what, sum(one.st_blocks * 512 for one in status), used))
    return sorted(found, key=lambda one: one.used)


def remove(one: Kept) -> bool:
    """Remove something from the cache → whether that could be done: not while it is being built."""
    lock = one.paths[0].with_name(f"{one.paths[0].name.partition('.')[0]}.lock")
    try:
        with FileLock(lock, timeout=0):
            for path in one.paths:
                path.unlink(missing_ok=True)
    except Timeout:
        return False
    return True


Item = TypeVar("Item")


def progress(items: Iterable[Item], total: int, name: str) -> Iterator[Item]:
    """Pass the items on, with a bar on a terminal and else with a line now and then."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=name, unit=" files")
        return
    said = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - said > SECONDS_A_LINE:
            said = time.monotonic()
            log.info("%s: %s of %s files", name, f"{count:,}", f"{total:,}")


def mark_used(path: Path) -> None:
    """Note when it was last used, for `prune`; not in a cache that is somebody else's."""
    with suppress(OSError):
        os.utime(path)


def key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def read_json(path: Path) -> Any:
    """What a file of ours holds; None where there is none that is whole."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: object) -> None:
    """Put the file there at once, whole. Raises `UserError` where it cannot be written."""
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    try:
        unfinished.write_text(json.dumps(content))
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
