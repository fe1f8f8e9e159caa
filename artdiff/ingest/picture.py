"""A picture of the index."""

from collections.abc import Sequence
from typing import NamedTuple

from artdiff.ingest.decode import Facts
from artdiff.ingest.split_folders import Split


class Picture(NamedTuple):
    """A file that can be used.

    `digest` is the SHA-256 of its content, `row` the content's row in the store of decoded pixels (-1: not kept).
    `copy_of` is the path of the file with the same content that is used instead. `looks_like` is the path of the best
    picture of a group of near-duplicates, which may be the picture itself. `folders` are those of its record.
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
    """A number for each picture, the same for those that look alike."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(one.looks_like or one.path, len(numbers)) for one in pictures]
