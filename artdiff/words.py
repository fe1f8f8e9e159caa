"""Tokenise captions into words, and words into rows of an embedding table. There is no vocabulary to download.

A word has one row for itself and one for each of its n-grams of three to five letters. All are hashed to rows of one
table (fastText, arXiv:1607.04606). So `sunny` lies near `sun`, and every word of every script has an embedding.
"""

import difflib
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

TABLE = 2**14
"""Rows of the embedding table."""

MOST_WORDS = 32
"""Only this many different words of a caption are used, the first ones."""

PIECES = 12
"""Most rows of a word: the word itself and 11 n-grams."""

LENGTHS = (3, 4, 5)
"""Letters of an n-gram."""

VOCABULARY = 10_000
"""Most words in a model's list of known words: the most frequent ones."""

LETTERS = ("L", "M", "N")
"""Unicode categories that words consist of: letters, combining marks, and digits."""

NEAR = 3
"""Most suggestions for an unknown word."""


def words(caption: str) -> list[str]:
    """All different words of a caption, in lower case and in order of first occurrence."""
    plain = unicodedata.normalize("NFKC", caption).casefold()
    spaced = "".join(one if unicodedata.category(one)[0] in LETTERS else " " for one in plain)
    return list(dict.fromkeys(spaced.split()))


@lru_cache(maxsize=100_000)
def pieces(word: str) -> tuple[int, ...]:
    """The rows of a word, at most `PIECES`, that of the word itself first."""
    framed = f"<{word}>"
    parts = {framed[first : first + size] for size in LENGTHS for first in range(len(framed) - size + 1)} - {framed}
    rows = sorted({zlib.crc32(part.encode(errors="replace")) for part in parts})
    return (zlib.crc32(framed.encode(errors="replace")) % TABLE, *(row % TABLE for row in rows[: PIECES - 1]))


def numbers(captions: Sequence[str | None]) -> np.ndarray:
    """The rows of the words of captions, int16 (N, `MOST_WORDS`, `PIECES`), padded with -1."""
    found = np.full((len(captions), MOST_WORDS, PIECES), -1, np.int16)
    for place, caption in enumerate(captions):
        for number, word in enumerate(words(caption or "")[:MOST_WORDS]):
            rows = pieces(word)
            found[place, number, : len(rows)] = rows
    return found


def vocabulary(captions: Iterable[str | None]) -> list[str]:
    """The words of captions, the most frequent first, at most `VOCABULARY`."""
    counts = Counter(word for caption in captions for word in words(caption or "")[:MOST_WORDS])
    return [word for word, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:VOCABULARY]]


def unknown(prompt: str, known: Sequence[str]) -> dict[str, list[str]]:
    """The words of a prompt that are used but are not in `known`, each with the known words spelled most like it."""
    there = set(known)
    strange = [word for word in words(prompt)[:MOST_WORDS] if word not in there]
    return {word: difflib.get_close_matches(word, known, n=NEAR) for word in strange}
