"""Reads class, split and metadata of each file from its folders and from metadata files.

Supported layouts:

- class folders, nested or not, in the root or in one wrapping folder;
- a flat folder;
- split folders anywhere in the tree, more than once, with classes below them;
- with any of these, `metadata.csv` or `metadata.jsonl` as in Hugging Face's imagefolder:
  https://huggingface.co/docs/datasets/image_dataset
"""

import csv
import json
import logging
import posixpath
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TextIO

from artdiff import UserError
from artdiff.ingest.scan import File, Rejected, tree
from artdiff.ingest.split_folders import (
    PICTURES,
    Folders,
    Split,
    likely_splits,
    parents_of_splits,
    side_and_class,
    wrapped,
)
from artdiff.ingest.tables import shown, some

log = logging.getLogger(__name__)

METADATA = ("metadata.csv", "metadata.jsonl")

ANNOTATIONS = frozenset({"labels", "annotations"})
"""Folders beside `images` in data sets for object detection."""


class Place(NamedTuple):
    """What the layout says about a file: its class, its split, and the columns of its metadata.

    `folders` are the folders above it that neither wrap all files nor name the split.
    """

    label: str | None
    split: Split | None
    columns: dict[str, str]
    folders: Folders


class Metadata(NamedTuple):
    """A metadata file: its columns by the picture's path below the root, and whether it has a column `label`."""

    columns: dict[str, dict[str, str]]
    labelled: bool


class Layout(NamedTuple):
    """The `files` to decode with their `places`, and those that the layout rejects."""

    files: list[File]
    places: list[Place]
    rejected: list[Rejected]


def lay_out(root: Path, files: list[File]) -> Layout:
    """Determine the layout of a folder. Raises `UserError` for a metadata file that cannot be read."""
    metadata = _read_metadata(root, files)
    rejected = [(file.path, "metadata of the pictures") for file in files if _is_metadata(file)]
    files = [file for file in files if not _is_metadata(file)]
    pictures = [file for file in files if file.is_named_like_a_picture] or files
    parents = parents_of_splits(files)
    layout = _in_splits(root, files, pictures, parents) if parents else _in_classes(root, files, pictures)
    places = [_described(file, place, metadata) for file, place in zip(layout.files, layout.places, strict=True)]
    unlabelled = [file.path for file, place in zip(layout.files, places, strict=True) if place.label is None]
    if unlabelled and any(said.labelled for said in metadata.values()):
        log.warning("the metadata of %s gives no label to: %s", root, tree(unlabelled))
    places = [place._replace(label=_normal(place.label)) for place in places]
    return Layout(layout.files, places, rejected + layout.rejected)


def _in_classes(root: Path, files: list[File], pictures: list[File]) -> Layout:
    """The layout if folders are classes."""
    _warn_of_likely_splits(root, pictures)
    depth = _wrapping(root, pictures)
    labels = [next(iter(file.folders[depth:]), None) for file in files]
    if not depth and len({file.folders[:1] for file in pictures}) == 1:
        only, *_ = [*pictures[0].folders, ""]
        if only.lower() in PICTURES and ANNOTATIONS & {label.lower() for label in labels if label is not None}:
            labels = [None] * len(files)
    places = [Place(label, None, {}, file.folders[depth:]) for file, label in zip(files, labels, strict=True)]
    return Layout(files, places, [])


def _in_splits(root: Path, files: list[File], pictures: list[File], parents: Mapping[Folders, set[Folders]]) -> Layout:
    """The layout if there are split folders. Files outside of them are rejected.

    `test` counts as `validation` if there is no validation folder.
    """
    wraps, outer = wrapped(pictures, parents), len(_common(parents))
    kept, places, beside = [], [], []
    for file in files:
        found = side_and_class(file.folders, parents, wraps)
        if found is None:
            beside.append(file)
        else:
            kept.append(file)
            side, label, folders = found
            places.append(Place(label, side, {}, folders[outer:]))
    aside = [file.path for file in beside if file.is_named_like_a_picture]
    if aside:
        log.warning("set aside, since they lie beside the folders of the split in %s: %s", root, tree(aside))
    if not any(place.split == "validation" for place in places):
        places = [place._replace(split="validation") if place.split == "test" else place for place in places]
    return Layout(kept, places, [(file.path, "lies beside the folders of the split, not in them") for file in beside])


def _warn_of_likely_splits(root: Path, pictures: list[File]) -> None:
    """Warn about sibling folders whose names contain a word for a split, but that are not read as a split."""
    found = likely_splits(pictures)
    if found:
        log.warning(
            "data.root=%s: these look like a split but are read as ordinary folders: %s; for a split, expected names "
            "that differ in train, validation or test alone, and no classes beside them",
            *(root, some([shown(name) for name in found], most=8)),
        )


def _wrapping(root: Path, files: list[File]) -> int:
    """The number of folders that wrap everything: each is the only one on its level, and the last has several."""
    folders = {file.folders for file in files} or {()}
    common = _common(folders)
    inside = {each[len(common) : len(common) + 1] for each in folders}
    if not common or len(inside) < 2 or () in inside:
        return 0
    right = root.joinpath(*common)
    inner = tree((file.path for file in files), depth=3)
    log.warning("data.root=%s wraps one folder; reading it as data.root=%s (%s)", root, right, inner)
    return len(common)


def _common(folders: Collection[Folders]) -> Folders:
    """The longest common beginning of these folders."""
    first, last = min(folders), max(folders)  # what these two share, all share
    return first[: next((depth for depth, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _is_metadata(file: File) -> bool:
    return file.path.rpartition("/")[2] in METADATA


def _read_metadata(root: Path, files: list[File]) -> dict[str, Metadata]:
    """Read the metadata files, by their folder. Raises `UserError`."""
    found: dict[str, Metadata] = {}
    known = {unicodedata.normalize("NFC", file.path) for file in files}
    for path in (file.path for file in files if _is_metadata(file)):
        folder = path.rpartition("/")[0]
        columns, twice = found.pop(folder, Metadata({}, False)).columns, 0
        for number, line in _lines(root / path):
            name = line.pop("file_name", "").replace("\\", "/")
            if not name:
                raise UserError(f"{shown(str(root / path))}, line {number}: no file_name, which is the picture's path")
            place = unicodedata.normalize("NFC", posixpath.normpath(posixpath.join(folder, name)))
            twice += place in columns
            columns[place] = line
        if twice:
            log.warning("%s describes %s files twice: the last line counts", root / path, f"{twice:,}")
        absent = len(columns.keys() - known)
        if absent:
            log.warning("%s describes %s files that are not there", root / path, f"{absent:,}")
        found[folder] = Metadata(columns, any("label" in line for line in columns.values()))
    return found


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a metadata file, with their numbers. Raises `UserError`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield from _csv(path, stream) if path.suffix == ".csv" else _jsonl(path, stream)
    except UserError:
        raise
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as {path.suffix[1:].upper()}: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _csv(path: Path, stream: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(stream)
    names = reader.fieldnames or ()
    if "file_name" not in names:
        raise UserError(f"{path} has the columns {reader.fieldnames}, expected file_name among them")
    for line in reader:
        if None in line:
            raise UserError(
                f"{path}, line {reader.line_num}: more than the {len(names)} fields of the heading; "
                f"a field with a comma in it must stand in quotes"
            )
        yield reader.line_num, {key: value or "" for key, value in line.items()}


def _jsonl(path: Path, stream: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    for number, text in enumerate(stream, 1):
        if not text.strip():
            continue
        line = json.loads(text)
        if not isinstance(line, dict):
            raise UserError(f"{path}, line {number}: expected an object, got {text.strip()[:40]}")
        yield number, {key: _text(value) for key, value in line.items()}


def _text(value: object) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    return text.encode(errors="replace").decode()  # a lone surrogate at the end of a truncated text


def _normal(label: str | None) -> str | None:
    """Compose accents (NFC), because the same name may be stored in two ways."""
    return None if label is None else unicodedata.normalize("NFC", label)


def _described(file: File, place: Place, metadata: dict[str, Metadata]) -> Place:
    """`place` with the columns of the nearest metadata file above; if that has labels, they replace the folders'."""
    if not metadata:
        return place
    for depth in range(len(file.folders), -1, -1):
        said = metadata.get("/".join(file.folders[:depth]))
        if said is not None:
            columns = dict(said.columns.get(unicodedata.normalize("NFC", file.path), {}))
            label = columns.pop("label", None) or None
            return place._replace(label=label if said.labelled else place.label, columns=columns)
    return place
