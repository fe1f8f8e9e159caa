"""The record of a picture in the index."""

from collections.abc import Sequence
from typing import NamedTuple

from artdiff.ingest.decode import Facts
from artdiff.ingest.split_folders import Split


class Picture(NamedTuple):
    """A usable file.

    `digest` is the SHA-256 of its content, `row` its row in the store of decoded pixels (-1: not cached). `copy_of` is
    the path of the file with the same content that is used instead. `looks_like` is the path of the best picture of its
    group of near-duplicates, which may be the picture itself. `folders` are as in `Record`.
    """

    path: str
    bytes: int
    digest: str
    facts: Facts
    row: int
    label: str | None
    split: Split
    columns: dict[str, str]
    copy_of: str | None = None
    looks_like: str | None = None
    folders: tuple[str, ...] | None = None

    @property
    def pixels(self) -> int:
        return self.facts.width * self.facts.height


def groups_of(pictures: Sequence[Picture]) -> list[int]:
    """A group number for each picture; near-duplicates have the same."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(one.looks_like or one.path, len(numbers)) for one in pictures]
