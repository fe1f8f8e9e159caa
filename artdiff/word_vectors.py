"""Word vectors from a file, by which a word that a model has not learned stands for the nearest that it has."""

import gzip
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from artdiff import UserError
from artdiff.words import words

NEAR = 0.6
"""Cosine from which on two words are taken for each other. In GloVe `ship` and `boat` have 0.89, `azure` and `dusky`
0.47. Opposites are near as well: what was replaced has to be said."""

FEWEST = 2
"""Numbers of a vector, at least: a line with fewer is a title."""


def nearest(strange: Collection[str], known: Collection[str], file: Path) -> dict[str, str]:
    """For each strange word that has one, the known word whose vector points most nearly the same way.

    Args:
        strange: words in small letters, as `artdiff.words.words` finds them.
        known: as many others.
        file: text, perhaps compressed with gzip: a word and its numbers in each line, as GloVe and fastText have it.

    Raises `UserError` if the file cannot be read or holds none of the words.
    """
    vectors = _read(file, {*strange, *known})
    there = [word for word in known if word in vectors]
    table = np.array([vectors[word] for word in there])  # (N,D)
    found = {}
    for word in strange:
        if word in vectors and there:
            cosines = table @ vectors[word]  # (N,)
            if cosines.max() >= NEAR:
                found[word] = there[int(cosines.argmax())]
    return found


def replaced(prompt: str, by: Mapping[str, str]) -> str:
    """A prompt with some of its words replaced; the same text if it has none of them."""
    found = words(prompt)
    return " ".join(by.get(word, word) for word in found) if by.keys() & set(found) else prompt


def _read(file: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """The vectors (D,) of those of the `wanted` words that the file has, of length 1."""
    found, size = dict[str, np.ndarray](), 0
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                word, _, rest = line.rstrip().partition(" ")
                word = word.casefold()
                if word not in wanted or word in found:
                    continue
                vector = np.array(rest.split(), np.float32)
                if len(vector) < FEWEST:
                    continue
                size = size or len(vector)
                if len(vector) != size or not np.isfinite(vector).all() or not vector.any():
                    raise ValueError(f"line {number:,} is not a word and {size} numbers")
                found[word] = vector / np.linalg.norm(vector)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"word_vectors={file} cannot be read: {error}") from None
    if not found:
        raise UserError(f"word_vectors={file} has none of these words; expected lines of a word and its numbers")
    return found
