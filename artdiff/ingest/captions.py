"""Captions of pictures: from metadata, from a text file beside the picture, or from its name."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from artdiff.ingest.picture import Picture
from artdiff.ingest.scan import File, folders_of
from artdiff.settings.data import Captions
from artdiff.words import words

COLUMN = "text"
"""Metadata column with the caption: https://huggingface.co/docs/datasets/image_dataset."""

SIDECAR = ".txt"
"""Extension of a caption file beside a picture, as trainers of Stable Diffusion expect it."""

BESIDE = "caption file"
"""Column for the content of such a file. It is not in the manifest, whose hash must not depend on reading captions."""

MOST_BYTES = 10_000
"""Maximum size of a caption file; a larger text file is not a caption."""

NOT_WORDS = re.compile(r"\d+|(?=.*\d)[0-9a-f]{6,}|[a-z]|img|image|dsc|dscn|pxl|photo|picture|scan|untitled|copy|final")
"""Words without meaning in file names: numbers, hashes, single letters, and what cameras and systems write."""


def captions_beside(root: Path, files: Sequence[File]) -> tuple[dict[str, str], dict[str, str]]:
    """Read caption files beside pictures → captions by picture path, and picture paths by caption file path."""
    small = [file.path for file in files if file.path.lower().endswith(SIDECAR) and file.bytes <= MOST_BYTES]
    texts = {path[: -len(SIDECAR)]: path for path in small}
    captions, owners = dict[str, str](), dict[str, str]()
    for file in files:
        beside = texts.get(file.path.rpartition(".")[0]) or texts.get(file.path)
        if beside is None or file.path.lower().endswith(SIDECAR):
            continue
        try:
            text = " ".join((root / beside).read_bytes().decode("utf-8-sig", errors="replace").split())
        except OSError:  # it is set aside like any other file that cannot be read
            continue
        captions[file.path] = text
        owners.setdefault(beside, file.path)
    return captions, owners


def caption(picture: Picture, how: Captions) -> str | None:
    """The caption of a picture, or None. `auto` takes metadata, else the file beside the picture.

    `filename` takes the names of the file and its folders, except folders that wrap all others or name the split.
    """
    found = ""
    if how in ("auto", "metadata"):
        found = picture.columns.get(COLUMN, "")
    if not found and how in ("auto", "sidecar"):
        found = picture.columns.get(BESIDE, "")
    if how == "filename":
        folders = folders_of(picture.path) if picture.folders is None else picture.folders
        found = named("/".join((*folders, picture.path.rpartition("/")[2])))
    return found.strip() or None


def named(path: str) -> str:
    """The meaningful words in the names of a file and its folders."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", path.rpartition(".")[0]).replace("_", " ")
    return " ".join(word for word in words(spaced) if not NOT_WORDS.fullmatch(word))


def summary(captions: Iterable[str | None]) -> list[str]:
    """Sentences about captions: how many pictures have one, their lengths, and the most frequent words."""
    every = list(captions)
    split = [words(one) for one in every if one is not None]
    if not split:
        return []
    counts = Counter(word for one in split for word in one)
    lengths = sorted(map(len, split))
    often = ", ".join(f"{word} ({count:,})" for word, count in counts.most_common(20))
    return [
        f"{len(split):,} pictures have a caption, {len(every) - len(split):,} have none.",
        f"They have {lengths[0]:,} to {lengths[-1]:,} words, half of them at least {lengths[len(lengths) // 2]:,}, and "
        f"{len(counts):,} different words in all. The most frequent: {often}.",
    ]
