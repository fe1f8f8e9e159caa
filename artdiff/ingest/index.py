"""What a folder holds, file by file: what is used, where it is held out, what is a copy, and what is set aside, why.

A picture is its content: files with the same bytes count once. Which side of the split it is on depends on its content
alone, unless the folders say so; pictures that look alike are on the same side.
"""

import csv
import hashlib
import io
import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from artdiff import UserError
from artdiff.ingest import decoded, duplicates, hashing
from artdiff.ingest.decode import Facts, Transform
from artdiff.ingest.layout import Split, lay_out
from artdiff.ingest.pool import Limits
from artdiff.ingest.scan import EXPECTED, File, SetAside, elsewhere, scan, shown, some, tree, write_rows

log = logging.getLogger(__name__)

SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})(?: [ *].*)?")
"""A content's hash, alone or in a line of `sha256sum`."""


class Picture(NamedTuple):
    """A file that can be used. `row` is that of its content in the map, `digest` its SHA-256.

    `copy_of` is the path of the file with the same content that is used in its stead; `looks_like` that of the best
    of the pictures that it looks like, itself maybe.
    """

    path: str
    bytes: int
    digest: str
    facts: Facts
    row: int
    label: str | None
    split: Split
    columns: dict[str, str]
    copy_of: str | None = None
    looks_like: str | None = None


class Catalogue(NamedTuple):
    """All that a folder holds: every file is in one of the first three.

    `astray` are the paths of copies that the folders put on another side of the split than the one used. `pixels` is
    the map that `Picture.row` is of, where it is kept; `tree` the folders in a line.
    """

    used: list[Picture]
    copies: list[Picture]
    set_aside: list[SetAside]
    astray: list[str]
    pixels: np.memmap | None
    tree: str

    @property
    def classes(self) -> list[str]:
        return sorted({picture.label for picture in self.used if picture.label is not None})

    def manifest(self) -> str:
        """One tab-separated line for each picture and each copy, by path, under a heading."""
        pictures = sorted([*self.used, *self.copies])
        columns = sorted({"license", "source"}.union(*(picture.columns for picture in pictures)))
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerow([*HEADING, *(f"metadata.{name}" if name in HEADING else name for name in columns)])
        for one in pictures:
            known = (one.path, one.digest, one.bytes, one.facts.width, one.facts.height, one.label, one.split)
            writer.writerow([*known, one.copy_of, one.looks_like, *(one.columns.get(name) for name in columns)])
        return text.getvalue()

    def digest(self) -> str:
        """The SHA-256 of the manifest, as `sha256sum manifest.tsv` prints it."""
        return hashlib.sha256(self.manifest().encode(errors="surrogateescape")).hexdigest()

    def lack(self, root: Path) -> str:
        """Why there is nothing to train on, in a line."""
        if len(self.used) > 1:
            return f"data.root={root} holds pictures for {self.used[0].split} alone, expected training and validation"
        files = len(self.used) + len(self.copies) + len(self.set_aside)
        found = f"data.root={root} holds {len(self.used)} usable pictures in {files:,} files, expected 2 that differ"
        if self.set_aside:
            found += f"; set aside: {reasons(self.set_aside)}"
        if self.copies:
            found += f"; copies: {len(self.copies):,}"
        if self.used or any(reason.startswith(("smaller", "left out")) for _, reason in self.set_aside):
            return found
        return f"{found}; what is there: {self.tree}; {elsewhere(root, 'data.root')}{EXPECTED}"

    def write_set_aside(self, path: Path) -> None:
        write_rows(path, ("file", "reason"), self.set_aside)

    def write_manifest(self, path: Path) -> None:
        path.write_text(self.manifest(), encoding="utf-8", errors="surrogateescape", newline="")


def reasons(set_aside: list[SetAside]) -> str:
    """How many files were set aside for what, in a line."""
    counts = Counter(reason.partition(":")[0] for _, reason in set_aside)
    return some([f"{count:,} {reason}" for reason, count in counts.most_common()], most=8)


HEADING = ("file", "sha256", "bytes", "width", "height", "class", "split", "copy_of", "looks_like")
"""Of a manifest, before the columns of the metadata."""


def take_stock(
    root: Path,
    *,
    transform: Transform,
    limits: Limits,
    min_side: int,
    exclude: Path | None,
    val_fraction: float,
    cache_dir: Path,
    keep_pixels: bool,
) -> Catalogue:
    """Look at every file below `root`, decode what is new, and say what becomes of each.

    Raises `UserError` where the folder, a metadata file, the list to exclude or the cache's folder cannot be used.
    """
    files, hidden = scan(root)
    layout = lay_out(root, files)
    hashes, unread = hashing.hashes(root, layout.files, cache_dir)
    set_aside = [*hidden, *layout.set_aside, *unread.items()]
    excluded = _excluded(exclude, root, layout.files, hashes) if exclude is not None else {}
    set_aside += excluded.items()
    hashed = [
        (file, place, hashes[file.path])
        for file, place in zip(layout.files, layout.places, strict=True)
        if file.path in hashes and file.path not in excluded
    ]
    contents = {digest: file for file, _, digest in reversed(hashed)}
    outcomes, alike, pixels = decoded.Decoded({}, [], None)
    if contents:
        outcomes, alike, pixels = decoded.decoded(root, contents, transform, limits, cache_dir, keep_pixels=keep_pixels)
    rows = {digest: row for row, digest in enumerate(outcomes)}
    found: dict[str, list[Picture]] = {}
    for file, place, digest in hashed:
        facts, reason = outcomes[digest].facts, outcomes[digest].reason
        if facts is not None and min(facts.width, facts.height) < min_side:
            reason = f"smaller than data.min_side: {facts.width} x {facts.height}"
        if facts is None or reason is not None:
            set_aside.append((file.path, reason or "not a picture"))
            continue
        split = place.split or "train"
        found.setdefault(digest, []).append(
            Picture(file.path, file.bytes, digest, facts, rows[digest], place.label, split, place.columns)
        )
    by_folders = any(place.split for place in layout.places)
    used = [min(same, key=_precedence) for same in found.values()]
    used = _split(used, alike, None if by_folders else val_fraction)
    keepers = {picture.digest: picture for picture in used}
    others = [one for same in found.values() for one in same if one.path != keepers[one.digest].path]
    astray = [one.path for one in others if by_folders and one.split != keepers[one.digest].split]
    copies = [_copy_of(keepers[one.digest], one) for one in others]
    return Catalogue(sorted(used), sorted(copies), sorted(set_aside), sorted(astray), pixels, tree(files))


def _copy_of(used: Picture, copy: Picture) -> Picture:
    return copy._replace(copy_of=used.path, split=used.split, looks_like=used.looks_like)


def _precedence(picture: Picture) -> tuple[int, str]:
    """Of files with the same content, the first by this is used: held out rather than trained on."""
    return ("test", "validation", "train").index(picture.split), picture.path


def _split(pictures: list[Picture], alike: list[tuple[int, int]], val_fraction: float | None) -> list[Picture]:
    """Say of each picture which side it is on, and which it looks like: `alike` are pairs of rows.

    By content: the first 32 bits of the hash, as a number in [0,1), are below `val_fraction` for what is held out; the
    least is held out and the greatest is not in any case. Without `val_fraction` the folders have said it. Pictures
    that look alike go where the best of them goes (most pixels, then bytes); by the folders, where one is held out.
    """
    pictures = list(pictures)
    place_of = {picture.row: place for place, picture in enumerate(pictures)}
    pairs = [(place_of[one], place_of[other]) for one, other in alike if one in place_of and other in place_of]
    groups = duplicates.groups(pairs)
    if val_fraction is not None:
        single = set(range(len(pictures))).difference(*groups)
        bests = [pictures[place] for place in single] + [_best(pictures, group) for group in groups]
        if len(bests) == 1 < len(pictures):
            log.warning("all pictures look alike: those held out look like those trained on")
            bests, groups = pictures, []
        places = {best.digest: int(best.digest[:8], 16) / 2**32 for best in bests}
        in_order = sorted(places, key=places.__getitem__)
        held_out = {digest for digest in in_order[:-1] if places[digest] < val_fraction} | set(in_order[:1])
        if in_order and places[in_order[0]] >= val_fraction:
            log.warning("so few pictures that none falls into data.val_fraction=%s: one is held out", val_fraction)
        pictures = [one._replace(split="validation" if one.digest in held_out else "train") for one in pictures]
    for group in groups:
        best = _best(pictures, group)
        split = best.split if val_fraction is not None else min((pictures[one] for one in group), key=_precedence).split
        for place in group:
            pictures[place] = pictures[place]._replace(split=split, looks_like=best.path)
    return pictures


def _best(pictures: list[Picture], group: list[int]) -> Picture:
    """Of pictures that look alike: a smaller or more compressed one that is added later moves none."""
    alike = (pictures[place] for place in group)
    return max(alike, key=lambda one: (one.facts.width * one.facts.height, one.bytes, one.digest))


def _excluded(exclude: Path, root: Path, files: list[File], hashes: dict[str, str]) -> dict[str, str]:
    """The files that the list leaves out, each with the reason: those named, those below a folder that is named, those
    with a hash that is named, and all with the same content as any of these.
    """
    try:
        lines = exclude.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"data.exclude={exclude} cannot be read: {error.strerror}") from None
    below: dict[str, set[str]] = defaultdict(set)  # a file's path, or a folder's → the files there
    for file in files:
        for depth in range(1, len(file.folders) + 1):
            below[unicodedata.normalize("NFC", "/".join(file.folders[:depth]))].add(file.path)
        below[unicodedata.normalize("NFC", file.path)].add(file.path)
    present = set(hashes.values())
    contents: set[str] = set()
    named: set[str] = set()
    unknown: list[str] = []
    for line in lines:
        entry = unicodedata.normalize("NFC", line.partition("\t")[0])
        sha256 = SHA256.fullmatch(entry.strip())
        spellings = (entry, entry.strip(), os.path.relpath(entry.strip(), root)) if entry.strip() else ()
        matches = next((below[text] for text in map(os.path.normpath, spellings) if text in below), None)
        if matches is not None:
            named |= matches
        elif sha256:
            contents.add(sha256[1].lower())
            if sha256[1].lower() not in present:
                unknown.append(entry)
        elif spellings and not entry.startswith("#"):  # else an empty line or a comment
            unknown.append(entry)
    if unknown:
        few = some([shown(entry) for entry in unknown], most=3)
        log.warning("%s entries of data.exclude=%s match no file: %s", f"{len(unknown):,}", exclude, few)
    contents |= {hashes[path] for path in named if path in hashes}
    return {
        file.path: "left out by data.exclude" if file.path in named else "left out by data.exclude: the same content"
        for file in files
        if file.path in named or hashes.get(file.path) in contents
    }
