"""Captions as words, and words as numbers that a network can look up, without a vocabulary to download.

A word is known by itself and by the runs of three to five letters in it, each hashed to a row of one table (fastText,
arXiv:1607.04606). So `sunny` lies near `sun`, and every word of every script has an embedding.
"""

import difflib
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

TABLE = 2**14
"""Rows of the table."""

MOST_WORDS = 32
"""Words of a caption that count: the first ones, each once. Their order does not."""

PIECES = 12
"""Pieces of a word, at most: the word itself, and so many of its parts."""

LENGTHS = (3, 4, 5)
"""Letters in a part."""

VOCABULARY = 10_000
"""Words that a model remembers by name, at most: the most frequent ones."""

LETTERS = ("L", "M", "N")
"""Kinds of characters that words consist of: letters, their marks, and digits."""

NEAR = 3
"""Known words that are named beside an unknown one."""


def words(caption: str) -> list[str]:
    """The words of a caption in small letters, each once, in their order; all of them."""
    plain = unicodedata.normalize("NFKC", caption).casefold()
    spaced = "".join(one if unicodedata.category(one)[0] in LETTERS else " " for one in plain)
    return list(dict.fromkeys(spaced.split()))


@lru_cache(maxsize=100_000)
def pieces(word: str) -> tuple[int, ...]:
    """The rows of a word, at most `PIECES`: first that of the word itself."""
    framed = f"<{word}>"
    parts = {framed[first : first + size] for size in LENGTHS for first in range(len(framed) - size + 1)} - {framed}
    rows = sorted({zlib.crc32(part.encode(errors="replace")) for part in parts})
    return (zlib.crc32(framed.encode(errors="replace")) % TABLE, *(row % TABLE for row in rows[: PIECES - 1]))


def numbers(captions: Sequence[str | None]) -> np.ndarray:
    """The rows of all words of some captions, int16 (N, `MOST_WORDS`, `PIECES`); -1 where there is none."""
    found = np.full((len(captions), MOST_WORDS, PIECES), -1, np.int16)
    for place, caption in enumerate(captions):
        for number, word in enumerate(words(caption or "")[:MOST_WORDS]):
            rows = pieces(word)
            found[place, number, : len(rows)] = rows
    return found


def vocabulary(captions: Iterable[str | None]) -> list[str]:
    """The words of some captions, the most frequent first, at most `VOCABULARY`."""
    counts = Counter(word for caption in captions for word in words(caption or "")[:MOST_WORDS])
    return [word for word, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:VOCABULARY]]


def unknown(prompt: str, known: Sequence[str]) -> dict[str, list[str]]:
    """The words of a prompt that count but are none of the `known` ones, each with those spelled most like it."""
    there = set(known)
    strange = [word for word in words(prompt)[:MOST_WORDS] if word not in there]
    return {word: difflib.get_close_matches(word, known, n=NEAR) for word in strange}
