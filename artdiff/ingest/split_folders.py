"""Recognises split folders by their names and by the folders beside them.

Sibling folders are a split if their names differ only in the word for training, validation or test, and in numbers:
`train/ val/`, `Training Set/ Test Set/`, `train2017/ val2017/`, `seg_train/ seg_test/`, `trainA/ testA/`.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Literal, NamedTuple

from artdiff.ingest.scan import File

Split = Literal["train", "validation", "test"]

NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trainval"),
    "validation": ("val", "valid", "validate", "validation", "eval", "evaluation", "dev"),
    "test": ("test", "testing"),
}
SPLITS = {
    name + suffix: split for split, names in NAMES.items() for name in names for suffix in ("", "set", "data", "images")
}
"""Words that name a split, in lower case."""

PICTURES = frozenset({"image", "images", "img", "imgs", "jpegimages", "picture", "pictures"})
"""Folder names, in lower case, that only say that there are pictures in the folder."""

FILLERS = PICTURES | {"set", "data", "dataset", "split", "folder", "copy", "jpg", "jpeg", "png"}
"""Words, in lower case, that are ignored beside the word for the split."""

Folders = tuple[str, ...]
"""A folder below the root, as a tuple of names."""


class Named(NamedTuple):
    """The parsed name of a split folder: the split and the remaining words (`DIV2K_train_HR`: train; DIV2K, HR)."""

    split: Split
    rest: Folders


def parents_of_splits(files: list[File]) -> dict[Folders, set[Folders]]:
    """The folders that contain split folders, and the remaining words in the names of these (`trainA testA`: A).

    There must be one for training and another one with the same remaining words. If other folders with pictures are
    beside them, all of them may be classes (`boat/ car/ train/ test/`). They are read as classes unless the split
    folders contain folders of the same name.
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
    """The remaining words of sibling folders that form a split; empty if they form none.

    They form a split if two of them differ in the split word alone. Then those without such a partner belong to it too,
    such as `trainB` in `trainA trainB testA`, unless the two are plain `train/ val/`.
    """
    sides: dict[Folders, set[Split]] = defaultdict(set)
    for named in found:
        sides[named.rest].add(named.split)
    paired = {rest for rest, splits in sides.items() if "train" in splits and len(splits) > 1}
    return paired if () in paired or not paired else set(sides)


def _share(found: Mapping[Named, set[str]]) -> bool:
    """True if a training folder and another split folder contain folders of the same name."""
    training = set().union(*(names for named, names in found.items() if named.split == "train"))
    return bool(training & set().union(*(names for named, names in found.items() if named.split != "train")))


def _is_side(name: str, rests: set[Folders]) -> bool:
    named = _named(name)
    return named is not None and named.rest in rests


def wrapped(pictures: list[File], parents: Mapping[Folders, set[Folders]]) -> set[Folders]:
    """Split folders whose pictures are all in one subfolder that is no class: `seg_train/seg_train`, `train/images`."""
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
    """True for a folder name that adds nothing to the name of the split folder above it."""
    return name.lower() in PICTURES or _named(name) == split


def side_and_class(
    folders: Folders, parents: Mapping[Folders, set[Folders]], wraps: set[Folders]
) -> tuple[Split, str | None, Folders] | None:
    """(split, class, folders without the split's name) of a file in `folders`; None if that is in no split folder."""
    for depth, name in enumerate(folders):
        named, rests = _named(name), parents.get(folders[:depth], set())
        if named is not None and named.rest in rests:
            below = folders[depth + 1 + (folders[: depth + 1] in wraps) :]
            set_of = "_".join(named.rest) if len(rests) > 1 and named.rest else None
            own = () if set_of is None else (set_of,)
            return named.split, next(iter(below), set_of), folders[:depth] + own + below
    return None


@cache
def _named(name: str) -> Named | None:
    """Parse the name of a split folder; None unless exactly one of its words names a split."""
    words = _words(name)
    splits = [SPLITS[word.lower()] for word in words if word.lower() in SPLITS]
    if len(splits) != 1:
        return None
    rest = (word for word in words if word.lower() not in SPLITS and word.lower() not in FILLERS)
    return Named(splits[0], tuple(word for word in rest if not word.isdigit()))


def _words(name: str) -> list[str]:
    """The words of a folder's name. `trainA` is two words; the numbers in `train2017` or `Set2` are left out."""
    words = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    bare = [word.strip("0123456789") for word in words]
    return [
        one if one.lower() in SPLITS or one.lower() in FILLERS else word for one, word in zip(bare, words, strict=True)
    ]


def likely_splits(pictures: list[File]) -> list[str]:
    """Sibling folders whose names contain a word for a split, sorted."""
    likely: dict[Folders, set[str]] = defaultdict(set)
    for folders in {file.folders for file in pictures}:
        for depth, name in enumerate(folders):
            if _sides(name):
                likely[folders[:depth]].add(name)
    return sorted("/".join((*parent, name)) for parent, names in likely.items() if _is_likely(names) for name in names)


def _is_likely(names: set[str]) -> bool:
    """True if the names contain words for several splits (`train_x test_y`), or one split twice (`train train_2`)."""
    several = len(set().union(*(_sides(name) for name in names))) > 1
    return len(names) > 1 and (several or len({_named(name) for name in names}) < len(names))


def _sides(name: str) -> set[Split]:
    return {SPLITS[word.lower()] for word in _words(name) if word.lower() in SPLITS}
