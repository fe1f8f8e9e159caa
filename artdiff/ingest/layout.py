"""What a file's place in the tree and a metadata file say of it: its class, its split, and what is known of it.

Understood are class folders, nested or not, under the root or under one wrapping folder; a flat folder; splits
(`train/ val/`, `training_set/ validation_set/`), anywhere in the tree and more than once, with classes below; and
`metadata.csv` or `metadata.jsonl` as in Hugging Face's imagefolder: https://huggingface.co/docs/datasets/image_dataset
"""

import csv
import json
import logging
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from artdiff import UserError
from artdiff.ingest.scan import File, SetAside, shown, tree

log = logging.getLogger(__name__)

Split = Literal["train", "validation", "test"]

METADATA = ("metadata.csv", "metadata.jsonl")

NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validate", "validation", "eval", "evaluation", "dev"),
    "test": ("test", "testing"),
}
SPLITS = {
    name + suffix: split for split, names in NAMES.items() for name in names for suffix in ("", "set", "data", "images")
}
"""What folders of splits are called, without case, spaces, `_` and `-`."""


class Place(NamedTuple):
    """What is said of a file: its class, the split that its folders name, and the columns of its metadata."""

    label: str | None
    split: Split | None
    columns: dict[str, str]


class Metadata(NamedTuple):
    """What a metadata file says: its rows by the picture's path below the root, and whether they have labels."""

    rows: dict[str, dict[str, str]]
    labelled: bool


class Layout(NamedTuple):
    """The `files` to look into, each with its place, and those that the layout itself sets aside."""

    files: list[File]
    places: list[Place]
    set_aside: list[SetAside]


def lay_out(root: Path, files: list[File]) -> Layout:
    """Find out how the folder is laid out. Raises `UserError` for a metadata file that cannot be read."""
    set_aside = [(file.path, "metadata of the pictures") for file in files if _is_metadata(file)]
    metadata = _read_metadata(root, files)
    files = [file for file in files if not _is_metadata(file)]
    likely = [file for file in files if file.is_named_like_a_picture] or files
    parents = _parents_of_splits(files)
    if parents:
        kept, places, beside = [], [], []
        for file in files:
            where = _in_split(file.folders, parents)
            if where is None:
                beside.append(file)
            else:
                kept.append(file)
                places.append(Place(where[1], where[0], {}))
        set_aside += [(file.path, "lies beside the folders of the split, not in them") for file in beside]
        pictures = [file for file in beside if file.is_named_like_a_picture]
        if pictures:
            log.warning("set aside, since they lie beside the folders of the split in %s: %s", root, tree(pictures))
        if not any(place.split == "validation" for place in places):  # train and test alone
            places = [place._replace(split="validation") if place.split == "test" else place for place in places]
        files = kept
    else:
        depth = _wrapping(root, likely)
        places = [Place(next(iter(file.folders[depth:]), None), None, {}) for file in files]
    places = [_described(file, place, metadata) for file, place in zip(files, places, strict=True)]
    unlabelled = [file for file, place in zip(files, places, strict=True) if place.label is None]
    if unlabelled and any(said.labelled for said in metadata.values()):
        log.warning("the metadata of %s gives no label to: %s", root, tree(unlabelled))
    return Layout(files, [place._replace(label=_normal(place.label)) for place in places], set_aside)


def _parents_of_splits(files: list[File]) -> set[tuple[str, ...]]:
    """The folders that hold a folder for training beside one that is not.

    Where other folders with pictures lie beside these, they may all be classes (`boat/ car/ train/ test/`): they are,
    unless the two have folders of the same name in them.
    """
    inside: dict[tuple[str, ...], dict[Split, set[str]]] = defaultdict(lambda: defaultdict(set))
    for folders in {file.folders for file in files}:
        for depth, name in enumerate(folders):
            split = _split(name)
            if split is not None:
                inside[folders[:depth]][split].update(folders[depth + 1 : depth + 2])
    parents = {parent for parent, splits in inside.items() if "train" in splits and len(splits) > 1}
    others = {
        file.folders[:depth]
        for file in files
        if file.is_named_like_a_picture
        for depth in range(len(file.folders))
        if file.folders[:depth] in parents and _split(file.folders[depth]) is None
    }
    shared = {
        parent
        for parent in parents
        if inside[parent]["train"] & (inside[parent]["validation"] | inside[parent]["test"])
    }
    return parents - (others - shared)


def _in_split(folders: tuple[str, ...], parents: set[tuple[str, ...]]) -> tuple[Split, str | None] | None:
    """→ (split, class) of a file in `folders`; None where it lies in no split."""
    for depth, name in enumerate(folders):
        split = _split(name)
        if split is not None and folders[:depth] in parents:
            return split, next(iter(folders[depth + 1 :]), None)
    return None


def _split(name: str) -> Split | None:
    return SPLITS.get(name.lower().translate(str.maketrans("", "", " _-")))


def _wrapping(root: Path, files: list[File]) -> int:
    """How many folders wrap everything: each the only one, with nothing but several folders in the last."""
    folders = {file.folders for file in files} or {()}
    first, last = min(folders), max(folders)  # what these share, all share
    common = first[: next((depth for depth, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]
    inside = {each[len(common) : len(common) + 1] for each in folders}
    if not common or len(inside) < 2 or () in inside:
        return 0
    right = root.joinpath(*common)
    log.warning("data.root=%s wraps one folder; reading it as data.root=%s (%s)", root, right, tree(files, depth=3))
    return len(common)


def _is_metadata(file: File) -> bool:
    return file.path.rpartition("/")[2] in METADATA


def _read_metadata(root: Path, files: list[File]) -> dict[str, Metadata]:
    """→ what the metadata files say, by the folder that they lie in."""
    found: dict[str, Metadata] = {}
    known = {unicodedata.normalize("NFC", file.path) for file in files}
    for path in (file.path for file in files if _is_metadata(file)):
        folder = path.rpartition("/")[0]
        rows, twice = found.pop(folder, Metadata({}, False)).rows, 0
        for line, row in _rows(root / path):
            name = row.pop("file_name", "").replace("\\", "/")
            if not name:
                raise UserError(f"{shown(str(root / path))}, line {line}: no file_name, which is the picture's path")
            place = unicodedata.normalize("NFC", posixpath.normpath(posixpath.join(folder, name)))
            twice += place in rows
            rows[place] = row
        if twice:
            log.warning("%s describes %s files twice: the last line counts", root / path, f"{twice:,}")
        absent = len(rows.keys() - known)
        if absent:
            log.warning("%s describes %s files that are not there", root / path, f"{absent:,}")
        found[folder] = Metadata(rows, any("label" in row for row in rows.values()))
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a metadata file, with their numbers."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            if path.suffix == ".csv":
                reader = csv.DictReader(stream)
                if "file_name" not in (reader.fieldnames or ()):
                    raise UserError(f"{path} has the columns {reader.fieldnames}, expected file_name among them")
                for row in reader:
                    if None in row:
                        many = len(reader.fieldnames or ())
                        raise UserError(
                            f"{path}, line {reader.line_num}: more than the {many} fields of the heading; "
                            f"a field with a comma in it must stand in quotes"
                        )
                    yield reader.line_num, {key: value or "" for key, value in row.items()}
                return
            for line, text in enumerate(stream, 1):
                if not text.strip():
                    continue
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {line}: expected an object, got {text.strip()[:40]}")
                yield line, {key: _text(value) for key, value in row.items()}
    except (ValueError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read as {path.suffix[1:].upper()}: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _text(value: object) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    return text.encode(errors="replace").decode()  # half a character, as a cut text may end in


def _normal(label: str | None) -> str | None:
    """The same name however its accents were written."""
    return None if label is None else unicodedata.normalize("NFC", label)


def _described(file: File, place: Place, metadata: dict[str, Metadata]) -> Place:
    """`place` with what the nearest metadata file above says; where that has labels, folders have no say."""
    if not metadata:
        return place
    for depth in range(len(file.folders), -1, -1):
        said = metadata.get("/".join(file.folders[:depth]))
        if said is not None:
            columns = dict(said.rows.get(unicodedata.normalize("NFC", file.path), {}))
            label = columns.pop("label", None) or None
            return Place(label if said.labelled else place.label, place.split, columns)
    return place
