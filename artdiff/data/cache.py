"""Keeps a folder's pictures decoded: one `uint8` memory map per (files, size), built once, shared by every run.

A map is found again by the files' paths, sizes and modification times, so that a second start neither decodes nor
reads a picture. It lies as `decoded/KEY.npy` beside `decoded/KEY.json`, each moved into place when complete, the
list last.
"""

import hashlib
import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image
from platformdirs import user_cache_path
from tqdm import tqdm

from artdiff import UserError
from artdiff.data.folder import File, Unreadable, read

log = logging.getLogger(__name__)

VERSION = 1
"""Part of every key: raise it when the pixels that a file decodes to change."""


class Outcome(NamedTuple):
    """What became of one file: its content's SHA-256, or the reason why it was set aside."""

    digest: str | None
    reason: str | None


class Decoded(NamedTuple):
    """`pixels` uint8 (N,size,size,3), one row a file; the row of a file that was set aside is black."""

    pixels: np.ndarray
    outcomes: list[Outcome]


def default_folder() -> Path:
    """Where artdiff keeps what it can make again: ARTDIFF_CACHE, or `artdiff` in the user's cache folder."""
    return Path(os.environ.get("ARTDIFF_CACHE") or user_cache_path("artdiff"))


def make(folder: Path) -> None:
    """Make the folder below the cache. Raises `UserError` where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be made ({error.strerror}); set data.cache_dir or ARTDIFF_CACHE"
        ) from None


def decode(root: Path, files: list[File], size: int, folder: Path) -> Decoded:
    """Every file of `files`, squashed to size x size: from the map in `folder`, which is built if it is not there."""
    key = _key(root, files, size)
    pixels, listing = folder / "decoded" / f"{key}.npy", folder / "decoded" / f"{key}.json"
    if not (listing.exists() and pixels.exists()):
        _build(root, files, size, pixels, listing)
    outcomes = [Outcome(*entry) for entry in json.loads(listing.read_text())]
    return Decoded(np.load(pixels, mmap_mode="r"), outcomes)


def _key(root: Path, files: list[File], size: int) -> str:
    readable = [os.access(root / file.path, os.R_OK) for file in files]
    described = [VERSION, PIL.__version__, size, str(root.resolve()), files, readable]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def _build(root: Path, files: list[File], size: int, pixels: Path, listing: Path) -> None:
    shape = (len(files), size, size, 3)
    make(pixels.parent)
    needed, free = int(np.prod(shape)), shutil.disk_usage(pixels.parent).free
    if needed > free:
        raise UserError(
            f"decoding {len(files):,} files needs {needed / 2**30:.1f} GiB in {pixels.parent}, "
            f"which has {free / 2**30:.1f} GiB free; set data.cache_dir to a folder on a larger disk"
        )
    log.info("decoding %s files once, to %s", f"{len(files):,}", pixels)
    building = pixels.with_suffix(f".{os.getpid()}.building")
    try:
        outcomes = _fill(np.lib.format.open_memmap(building, "w+", np.uint8, shape), root, files, size)
        building.replace(pixels)
    finally:
        building.unlink(missing_ok=True)
    unlisted = listing.with_suffix(f".{os.getpid()}.building")
    unlisted.write_text(json.dumps(outcomes))
    unlisted.replace(listing)


def _fill(rows: np.memmap, root: Path, files: list[File], size: int) -> list[Outcome]:
    """Decode each file into its row of `rows`, uint8 (N,size,size,3)."""

    def fill(row: int) -> Outcome:
        try:
            picture, digest = read(root / files[row].path, draft=2 * size)
        except Unreadable as error:
            return Outcome(None, str(error))
        rows[row] = np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS))
        return Outcome(digest, None)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(cores) as pool:  # Pillow lets go of the interpreter while it decodes and resizes
        try:
            done = pool.map(fill, range(len(files)))
            return list(tqdm(done, total=len(files), desc="decoding", unit=" files", disable=None))
        except BaseException:  # Ctrl-C: do not first decode the rest
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            rows.flush()
