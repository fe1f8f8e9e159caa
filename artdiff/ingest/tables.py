"""Names and lists in text: one line of a message, or a tab-separated table."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path


def shown(path: str) -> str:
    """A file name that fits on one line of text: undecodable bytes and control characters are escaped."""
    text = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def some(names: Sequence[str], *, most: int) -> str:
    """A list on one line, cut after `most` names: `a, b and 3 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def table(heading: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Tab-separated text with a heading. File names are kept as they are, even if they are not valid text."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(lines)
    return text.getvalue()


def write(path: Path, text: str) -> None:
    """Write a table. Undecodable bytes of file names are written back unchanged."""
    path.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
