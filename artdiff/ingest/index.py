"""The index of a source: which pictures are used and in which split, which are copies, and why files are rejected.

Files with the same bytes count as one picture, and near-duplicates are in the same split.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from artdiff import runs
from artdiff.ingest import decoded, split
from artdiff.ingest.captions import BESIDE
from artdiff.ingest.decode import Transform
from artdiff.ingest.duplicates import Compared, near_pairs
from artdiff.ingest.exclude import excluded
from artdiff.ingest.hashing import hashes, ledger_of
from artdiff.ingest.picture import Picture
from artdiff.ingest.scan import EXPECTED, Rejected, elsewhere, tree
from artdiff.ingest.source import Record, Source
from artdiff.ingest.tables import encoded, shown, some, table
from artdiff.settings.data import Limits

log = logging.getLogger(__name__)

HEADING = ("file", "sha256", "bytes", "width", "height", "class", "split", "copy_of", "looks_like")
"""First columns of a manifest; the metadata columns follow."""


TOO_ALIKE = "too much like a held-out picture"
"""Reason for leaving a picture of a large group of near-duplicates out of training. The path of the held-out picture
follows."""


class Index(NamedTuple):
    """All files of a source. Each is in exactly one of `used`, `copies` and `rejected`, which are sorted by path.

    `leaks` are the paths of copies that the folders put in another split than the picture in use. `pixels`, uint8
    (N,size,size,3), has the decoded pictures by `Picture.row`; None if pixels are not cached. `tree` describes the
    folders on one line.
    """

    used: list[Picture]
    copies: list[Picture]
    rejected: list[Rejected]
    leaks: list[str]
    pixels: np.ndarray | None
    tree: str

    @property
    def labels(self) -> list[str]:
        """The labels of the pictures of all splits, sorted."""
        return sorted({picture.label for picture in self.used if picture.label is not None})

    @property
    def classes(self) -> list[str]:
        """The labels of the training pictures, sorted. Pictures with other labels count as unlabelled."""
        return sorted({picture.label for picture in self.on("train") if picture.label is not None})

    @property
    def near_duplicates(self) -> list[Picture]:
        """The pictures that are near-duplicates of a better one."""
        return [picture for picture in self.used if picture.looks_like not in (None, picture.path)]

    @property
    def across(self) -> set[str]:
        """Groups of near-duplicates that are in several splits, each as the path of its best picture."""
        sides: dict[str, set[str]] = {}
        for one in self.near_duplicates:
            sides.setdefault(one.looks_like or "", set()).add(one.split)
        best = {one.path: one.split for one in self.used if one.path in sides}
        return {path for path, found in sides.items() if found != {best[path]}}

    def on(self, side: str) -> list[Picture]:
        """The pictures of one split: `train`, `validation` or `test`."""
        return [picture for picture in self.used if picture.split == side]

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of pictures per split, of copies, and of files set aside."""
        sides = {side: len(self.on(side)) for side in ("train", "validation", "test")}
        return {**sides, "copies": len(self.copies), "set_aside": len(self.rejected)}

    def summary(self, root: Path, size: str) -> list[str]:
        """The lines that a run logs about its data."""
        counts = {name: f"{count:,}" for name, count in self.counts.items()}
        line = f"{sum(self.counts.values()):,} files in {root}: {counts['train']} pictures for training"
        line += f", {counts['validation']} for validation"
        line += f", {counts['test']} for test (not used)" if self.counts["test"] else ""
        line += f", {counts['copies']} copies" if self.copies else ""
        line += f", {counts['set_aside']} set aside" + (f" ({reasons(self.rejected)})" if self.rejected else "")
        lines = [line]
        across = self.across
        together = [one for one in self.near_duplicates if one.looks_like not in across]
        if together:
            lines.append(f"{len(together):,} pictures look like another one, and are in the same split as that one")
        if across:
            apart = sum(one.looks_like in across for one in self.used)
            lines.append(f"{apart:,} pictures look like others, some of which are in another split")
        named = [shown(name) for name in self.classes]
        return [*lines, f"classes {some(named, most=8)}; {size}" if named else f"no classes; {size}"]

    def manifest(self) -> str:
        """A tab-separated table with a line for each picture and each copy, sorted by path."""
        pictures = sorted([*self.used, *self.copies])
        columns = sorted({"license", "source"}.union(*(picture.columns for picture in pictures)) - {BESIDE})
        heading = [*HEADING, *(f"metadata.{name}" if name in HEADING else name for name in columns)]
        return table(heading, [(*_known(one), *(one.columns.get(name) for name in columns)) for one in pictures])

    def digest(self) -> str:
        """The SHA-256 of the manifest, as `sha256sum manifest.tsv` prints it."""
        return hashlib.sha256(encoded(self.manifest())).hexdigest()

    def problem(self, root: Path) -> str | None:
        """Why the pictures cannot be trained on, in one line; None if they can."""
        if self.on("train") and self.on("validation"):
            return None
        if len(self.used) > 1:
            found = f"data.root={root} holds pictures for {self.used[0].split} alone, expected training and validation"
            return found + (f"; {len(self.leaks):,} files are copies of those held out" if self.leaks else "")
        files = len(self.used) + len(self.copies) + len(self.rejected)
        found = f"data.root={root} holds {len(self.used)} usable pictures in {files:,} files, expected 2 that differ"
        if self.rejected:
            found += f"; set aside: {reasons(self.rejected)}"
        if self.copies:
            found += f"; copies: {len(self.copies):,}"
        if self.used or any(reason.startswith(("smaller", "left out")) for _, reason in self.rejected):
            return found
        return f"{found}; what is there: {self.tree}; {elsewhere(root, 'data.root')}{EXPECTED}"

    def listings(self) -> dict[str, bytes]:
        """File name → content of the tables of files that are not used."""
        return {runs.SET_ASIDE: encoded(self.rejections()), runs.DUPLICATES: encoded(self.duplicates())}

    def rejections(self) -> str:
        """The content of `set_aside.tsv`: the rejected files and the reasons."""
        return table(("file", "reason"), self.rejected)

    def duplicates(self) -> str:
        """The content of `duplicates.tsv`: the copies and the near-duplicates, sorted by file."""
        found = sorted([*self.copies, *self.near_duplicates])
        lines = [(one.path, one.copy_of or "", one.looks_like or "", one.split) for one in found]
        return table(("file", "copy_of", "looks_like", "split"), lines)


def reasons(rejected: Sequence[Rejected]) -> str:
    """The number of rejected files per reason, on one line."""
    counts = Counter(reason.partition(":")[0] for _, reason in rejected)
    return some([f"{count:,} {reason}" for reason, count in counts.most_common()], most=8)


def build_index(
    source: Source,
    *,
    transform: Transform,
    limits: Limits,
    min_side: int,
    exclude: Path | None,
    val_fraction: float,
    cache_dir: Path,
    keep_pixels: bool,
) -> Index:
    """Index every file of a source; decode the new ones.

    Raises `UserError` if the source, a metadata file, the `exclude` list or the cache cannot be used.
    """
    records, rejected = source.records()
    digests, unread = hashes(source.root, records, cache_dir)
    left_out = excluded(exclude, source.root, records, digests) if exclude is not None else {}
    rejected = [*rejected, *unread.items(), *left_out.items()]
    wanted = [record for record in records if record.path in digests and record.path not in left_out]
    contents = {digests[record.path]: record for record in reversed(wanted)}
    found = decoded.Decoded({}, {}, None)
    if contents:
        found = decoded.decoded(source.root, contents, transform, limits, cache_dir, keep_pixels=keep_pixels)
    pictures, unusable = _judged(wanted, digests, found, min_side)
    by_folders = any(record.split for record in records)
    compared = Compared(ledger_of(source.root, cache_dir).with_suffix(".near"))
    used, copies, too_alike = _placed(pictures, compared, None if by_folders else val_fraction)
    sides = {picture.path: picture.split for picture in pictures}
    leaks = [copy.path for copy in copies if by_folders and copy.split != sides[copy.path]]
    folders = tree([record.path for record in records] or [path for path, _ in rejected])
    index = Index(used, copies, sorted([*rejected, *unusable, *too_alike]), sorted(leaks), found.pixels, folders)
    unlearned = sorted({*index.labels} - {*index.classes})
    if unlearned:
        log.warning(
            "these classes have no training picture, so their pictures count as unlabelled: %s",
            some([shown(label) for label in unlearned], most=8),
        )
    return index


def _judged(
    records: Sequence[Record], digests: dict[str, str], found: decoded.Decoded, min_side: int
) -> tuple[list[Picture], list[Rejected]]:
    """Split the records into pictures and rejected files, with the reasons."""
    pictures: list[Picture] = []
    rejected: list[Rejected] = []
    for record in records:
        digest = digests[record.path]
        facts, reason = found.outcomes[digest].facts, found.outcomes[digest].reason
        if facts is not None and min(facts.width, facts.height) < min_side:
            reason = f"smaller than data.min_side: {facts.width} x {facts.height}"
        if facts is None or reason is not None:
            rejected.append((record.path, reason or "not a picture"))
            continue
        row, side = found.rows.get(digest, -1), record.split or "train"
        picture = Picture(
            record.path, record.bytes, digest, facts, row, record.label, side, record.columns, folders=record.folders
        )
        pictures.append(picture)
    return pictures, rejected


def _placed(
    pictures: Sequence[Picture], compared: Compared, val_fraction: float | None
) -> tuple[list[Picture], list[Picture], list[Rejected]]:
    """Choose one picture of each content, and its split: by the folders if `val_fraction` is None, else by content.

    Returns the pictures in use and their copies, each sorted by path, and the pictures that are left out of training
    because they look like a held-out picture. A copy is in the split of the picture in use.
    """
    keepers: dict[str, Picture] = {}
    for picture in pictures:
        other = keepers.setdefault(picture.digest, picture)
        keepers[picture.digest] = min(picture, other, key=split.precedence) if other is not picture else picture
    used = list(keepers.values())
    pairs = near_pairs([one.facts.fingerprint for one in used], compared)
    placed = split.by_folders(used, pairs) if val_fraction is None else split.by_content(used, pairs, val_fraction)
    keepers_path = {digest: one.path for digest, one in keepers.items()}
    keepers = {picture.digest: picture for picture in placed.pictures}
    copies, rejected = [], []
    for one in pictures:
        path = keepers_path[one.digest]
        if path in placed.left_out:
            rejected.append((one.path, f"{TOO_ALIKE}: {placed.left_out[path]}"))
        elif one.path != path:
            keeper = keepers[one.digest]
            copies.append(one._replace(copy_of=path, split=keeper.split, looks_like=keeper.looks_like))
    return sorted(placed.pictures), sorted(copies), rejected


def _known(one: Picture) -> tuple[object, ...]:
    facts = one.facts
    first = (one.path, one.digest, one.bytes, facts.width, facts.height)
    return (*first, one.label, one.split, one.copy_of, one.looks_like)
