"""Replace words that a model has not learned by the nearest known words, with word vectors from a file."""

import gzip
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from artdiff import UserError
from artdiff.words import words

NEAR = 0.6
"""Smallest cosine similarity at which a word replaces another. In GloVe, `ship` and `boat` have 0.89, `azure` and
`dusky` 0.47. Opposites are near each other too, so callers must tell the user what was replaced."""

FEWEST = 2
"""Smallest size of a vector: a line with fewer numbers is a header."""


def nearest(strange: Collection[str], known: Collection[str], file: Path) -> dict[str, str]:
    """Map unknown words to the known words with the largest cosine similarity, at least `NEAR`. Others are left out.

    Args:
        strange: unknown words in lower case, as `artdiff.words.words` returns them.
        known: known words, in the same form.
        file: text, or text compressed with gzip (`.gz`): a word and its numbers in each line, as in GloVe and fastText.

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
    """A prompt with words replaced, reduced to its words; the text unchanged if there is nothing to replace."""
    found = words(prompt)
    return " ".join(by.get(word, word) for word in found) if by.keys() & set(found) else prompt


def _read(file: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """The vectors (D,) of the `wanted` words that are in the file, normalised to length 1."""
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
