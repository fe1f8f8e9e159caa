"""Reads a file's class, split and metadata from where it lies and from metadata files.

Understood are class folders, nested or not, in the root or in one wrapping folder; a flat folder; split folders
anywhere in the tree, more than once, with classes below them; and `metadata.csv` or `metadata.jsonl` as in Hugging
Face's imagefolder: https://huggingface.co/docs/datasets/image_dataset

Folders beside each other are a split if their names differ only in the word for training, validation or test, and in
numbers: `train/ val/`, `Training Set/ Test Set/`, `train2017/ val2017/`, `seg_train/ seg_test/`, `trainA/ testA/`.
"""

import csv
import json
import logging
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

from artdiff import UserError
from artdiff.ingest.scan import File, Rejected, tree
from artdiff.ingest.tables import shown, some

log = logging.getLogger(__name__)

Split = Literal["train", "validation", "test"]

METADATA = ("metadata.csv", "metadata.jsonl")

NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trainval"),
    "validation": ("val", "valid", "validate", "validation", "eval", "evaluation", "dev"),
    "test": ("test", "testing"),
}
SPLITS = {
    name + suffix: split for split, names in NAMES.items() for name in names for suffix in ("", "set", "data", "images")
}
"""Words that name a split, in lower case."""

PICTURES = frozenset({"image", "images", "img", "imgs", "jpegimages", "picture", "pictures", "photos"})
"""Names of folders, in lower case, that say no more than that pictures lie in them."""

FILLERS = PICTURES | {"set", "data", "dataset", "split", "folder", "copy", "jpg", "jpeg", "png"}
"""Words that say nothing beside that for the split, in lower case."""

ANNOTATIONS = frozenset({"labels", "annotations"})
"""Folders beside `images`, as detectors of objects expect them."""

Folders = tuple[str, ...]
"""A folder below the root, name by name."""


class Named(NamedTuple):
    """What a split folder's name says: the side, and the words that are left (`DIV2K_train_HR`: DIV2K, HR)."""

    split: Split
    rest: Folders


class Place(NamedTuple):
    """A file's class, the split that its folders name, and the columns of its metadata."""

    label: str | None
    split: Split | None
    columns: dict[str, str]


class Metadata(NamedTuple):
    """A metadata file: its columns by the picture's path below the root, and whether one of them is `label`."""

    columns: dict[str, dict[str, str]]
    labelled: bool


class Layout(NamedTuple):
    """The `files` to look into, each with its place, and those that the layout rejects."""

    files: list[File]
    places: list[Place]
    rejected: list[Rejected]


def lay_out(root: Path, files: list[File]) -> Layout:
    """Find out how a folder is laid out. Raises `UserError` for a metadata file that cannot be read."""
    metadata = _read_metadata(root, files)
    rejected = [(file.path, "metadata of the pictures") for file in files if _is_metadata(file)]
    files = [file for file in files if not _is_metadata(file)]
    pictures = [file for file in files if file.is_named_like_a_picture] or files
    parents = _parents_of_splits(files)
    layout = _in_splits(root, files, pictures, parents) if parents else _in_classes(root, files, pictures)
    places = [_described(file, place, metadata) for file, place in zip(layout.files, layout.places, strict=True)]
    unlabelled = [file.path for file, place in zip(layout.files, places, strict=True) if place.label is None]
    if unlabelled and any(said.labelled for said in metadata.values()):
        log.warning("the metadata of %s gives no label to: %s", root, tree(unlabelled))
    places = [place._replace(label=_normal(place.label)) for place in places]
    return Layout(layout.files, places, rejected + layout.rejected)


def _in_classes(root: Path, files: list[File], pictures: list[File]) -> Layout:
    """The layout where folders are classes."""
    _warn_of_likely_splits(root, pictures)
    depth = _wrapping(root, pictures)
    labels = [next(iter(file.folders[depth:]), None) for file in files]
    if not depth and len({file.folders[:1] for file in pictures}) == 1:
        only, *_ = [*pictures[0].folders, ""]
        if only.lower() in PICTURES and ANNOTATIONS & {label.lower() for label in labels if label is not None}:
            labels = [None] * len(files)
    return Layout(files, [Place(label, None, {}) for label in labels], [])


def _in_splits(root: Path, files: list[File], pictures: list[File], parents: Mapping[Folders, set[Folders]]) -> Layout:
    """The layout where the folders name the split; files outside the split folders are rejected.

    `test` counts as `validation` if there is no other: train and test alone.
    """
    wraps = _wrapped_in_splits(pictures, parents)
    kept, places, beside = [], [], []
    for file in files:
        found = _in_split(file.folders, parents, wraps)
        if found is None:
            beside.append(file)
        else:
            kept.append(file)
            places.append(Place(found[1], found[0], {}))
    aside = [file.path for file in beside if file.is_named_like_a_picture]
    if aside:
        log.warning("set aside, since they lie beside the folders of the split in %s: %s", root, tree(aside))
    if not any(place.split == "validation" for place in places):
        places = [place._replace(split="validation") if place.split == "test" else place for place in places]
    return Layout(kept, places, [(file.path, "lies beside the folders of the split, not in them") for file in beside])


def _parents_of_splits(files: list[File]) -> dict[Folders, set[Folders]]:
    """The folders that hold split folders, and which other words the names of these have (`trainA testA`: A).

    There must be one for training and another whose name has the same other words. If folders with pictures that name
    no split lie beside them, all of these may be classes (`boat/ car/ train/ test/`). They are taken for classes
    unless the split folders contain folders of the same name.
    """
    inside: dict[Folders, dict[Named, set[str]]] = defaultdict(lambda: defaultdict(set))
    for folders in {file.folders for file in files}:
        for depth, name in enumerate(folders):
            named = _named(name)
            if named is not None:
                below = folders[depth + 1 :]
                inside[folders[:depth]][named].update(below[: 2 if below and _is_wrap(below[0], named) else 1])
    parents = {parent: rests for parent, found in inside.items() if (rests := _certain(found))}
    others = {
        file.folders[:depth]
        for file in files
        if file.is_named_like_a_picture
        for depth in range(len(file.folders))
        if file.folders[:depth] in parents and not _is_side(file.folders[depth], parents[file.folders[:depth]])
    }
    return {parent: rests for parent, rests in parents.items() if parent not in others or _share(inside[parent])}


def _certain(found: Mapping[Named, object]) -> set[Folders]:
    """The other words of split folders beside each other that belong together; empty if they are no split.

    Two that differ in the side alone make it certain. Then the other words of the rest count too, such as B of
    `trainA trainB testA`, unless the two are plain `train/ val/`.
    """
    sides: dict[Folders, set[Split]] = defaultdict(set)
    for named in found:
        sides[named.rest].add(named.split)
    paired = {rest for rest, splits in sides.items() if "train" in splits and len(splits) > 1}
    return paired if () in paired or not paired else set(sides)


def _share(found: Mapping[Named, set[str]]) -> bool:
    """True if a folder of the same name lies in a folder for training and in another."""
    training = set().union(*(names for named, names in found.items() if named.split == "train"))
    return bool(training & set().union(*(names for named, names in found.items() if named.split != "train")))


def _is_side(name: str, rests: set[Folders]) -> bool:
    named = _named(name)
    return named is not None and named.rest in rests


def _wrapped_in_splits(pictures: list[File], parents: Mapping[Folders, set[Folders]]) -> set[Folders]:
    """Split folders whose pictures all lie in one folder that is no class: `seg_train/seg_train`, `train/images`."""
    inside: dict[Folders, set[Folders]] = defaultdict(set)
    for folders in {file.folders for file in pictures}:
        for depth, name in enumerate(folders):
            if _is_side(name, parents.get(folders[:depth], set())):
                inside[folders[: depth + 1]].add(folders[depth + 1 : depth + 2])
    return {
        folder
        for folder, (only, *more) in inside.items()
        if only and not more and _is_wrap(only[0], _named(folder[-1]))
    }


def _is_wrap(name: str, split: Named | None) -> bool:
    """True for a name that says no more than that of the split folder around it."""
    return name.lower() in PICTURES or _named(name) == split


def _in_split(
    folders: Folders, parents: Mapping[Folders, set[Folders]], wraps: set[Folders]
) -> tuple[Split, str | None] | None:
    """(split, class) of a file in `folders`; None if it lies in no split folder."""
    for depth, name in enumerate(folders):
        named, rests = _named(name), parents.get(folders[:depth], set())
        if named is not None and named.rest in rests:
            below = folders[depth + 1 + (folders[: depth + 1] in wraps) :]
            set_of = "_".join(named.rest) if len(rests) > 1 and named.rest else None
            return named.split, next(iter(below), set_of)
    return None


@cache
def _named(name: str) -> Named | None:
    """What a folder's name says of the split; None unless exactly one of its words does."""
    words = _words(name)
    splits = [SPLITS[word.lower()] for word in words if word.lower() in SPLITS]
    if len(splits) != 1:
        return None
    rest = (word for word in words if word.lower() not in SPLITS and word.lower() not in FILLERS)
    return Named(splits[0], tuple(word for word in rest if not word.isdigit()))


def _words(name: str) -> list[str]:
    """The words of a folder's name: `trainA` is two, and numbers at the end of `train2017` or `Set2` are left out."""
    words = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    bare = [word.strip("0123456789") for word in words]
    return [
        one if one.lower() in SPLITS or one.lower() in FILLERS else word for one, word in zip(bare, words, strict=True)
    ]


def _warn_of_likely_splits(root: Path, pictures: list[File]) -> None:
    """Say which folders beside each other have a word for a split in their names, though they are not read as one."""
    likely: dict[Folders, set[str]] = defaultdict(set)
    for folders in {file.folders for file in pictures}:
        for depth, name in enumerate(folders):
            if _sides(name):
                likely[folders[:depth]].add(name)
    found = ["/".join((*parent, name)) for parent, names in likely.items() if _is_likely(names) for name in names]
    if found:
        log.warning(
            "data.root=%s: these look like a split but are read as ordinary folders: %s; for a split, expected names "
            "that differ in train, validation or test alone, and no classes beside them",
            *(root, some([shown(name) for name in sorted(found)], most=8)),
        )


def _is_likely(names: set[str]) -> bool:
    """True if names with a word for a split name several sides (`train_x test_y`), or one twice (`train train_2`)."""
    several = len(set().union(*(_sides(name) for name in names))) > 1
    return len(names) > 1 and (several or len({_named(name) for name in names}) < len(names))


def _sides(name: str) -> set[Split]:
    return {SPLITS[word.lower()] for word in _words(name) if word.lower() in SPLITS}


def _wrapping(root: Path, files: list[File]) -> int:
    """How many folders wrap everything: each is the only one on its level, and the last holds several folders."""
    folders = {file.folders for file in files} or {()}
    first, last = min(folders), max(folders)  # what these share, all share
    common = first[: next((depth for depth, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]
    inside = {each[len(common) : len(common) + 1] for each in folders}
    if not common or len(inside) < 2 or () in inside:
        return 0
    right = root.joinpath(*common)
    inner = tree((file.path for file in files), depth=3)
    log.warning("data.root=%s wraps one folder; reading it as data.root=%s (%s)", root, right, inner)
    return len(common)


def _is_metadata(file: File) -> bool:
    return file.path.rpartition("/")[2] in METADATA


def _read_metadata(root: Path, files: list[File]) -> dict[str, Metadata]:
    """The metadata files, by the folder that they lie in."""
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
    return text.encode(errors="replace").decode()  # a lone surrogate, at the end of a text that was cut


def _normal(label: str | None) -> str | None:
    """Compose accents (NFC): the same name may be stored in two ways."""
    return None if label is None else unicodedata.normalize("NFC", label)


def _described(file: File, place: Place, metadata: dict[str, Metadata]) -> Place:
    """`place` with the columns of the nearest metadata file above; its labels, if it has any, replace the folders'."""
    if not metadata:
        return place
    for depth in range(len(file.folders), -1, -1):
        said = metadata.get("/".join(file.folders[:depth]))
        if said is not None:
            columns = dict(said.columns.get(unicodedata.normalize("NFC", file.path), {}))
            label = columns.pop("label", None) or None
            return Place(label if said.labelled else place.label, place.split, columns)
    return place
