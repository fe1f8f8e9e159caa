"""Writes file names and lists to messages, and writes and reads tab-separated tables.

A table's lines end with a line feed and its cells are separated by tabs. A cell that contains a tab, a quote, a line
feed or a carriage return is written in quotes, with the quotes inside doubled (as in RFC 4180). Nothing else ends a
line or a cell. Bytes of a file's name that are not UTF-8 are written unchanged.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from artdiff import files

_QUOTED = re.compile(r'"((?:[^"]|"")*)"(?=[\t\n]|\r\n|\r?\Z)')
_PLAIN = re.compile(r"(?:(?!\r?\n|\r\Z)[^\t])*")
_NEEDS_QUOTES = re.compile(r'[\t\n\r"]')
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that do not represent a byte of a file's name, and that no encoding can write."""


def shown(path: str) -> str:
    """A file name for one line of text: undecodable bytes and control characters are escaped."""
    text = encoded(path).decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def some(names: Sequence[str], *, most: int) -> str:
    """A list on one line, cut after `most` names: `a, b and 3 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def encoded(text: str) -> bytes:
    r"""Text as UTF-8, with undecodable bytes of file names unchanged and any other surrogate as `\ud800`."""
    return _NO_BYTE.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode(errors="surrogateescape")


def decoded(content: bytes) -> str:
    """Decode the text of a list: UTF-8, with or without a byte order mark, or UTF-16 with one."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="surrogateescape")


def table(heading: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Tab-separated text with a heading; None is an empty cell."""
    return "".join(map(_line, (heading, *lines)))


def rows(text: str) -> Iterator[list[str]]:
    """The lines of a table, the heading first, as lists of cells. A line may also end with CR and LF."""
    at = 0
    while at < len(text):
        cells, at = row(text, at)
        yield cells


def row(text: str, at: int = 0) -> tuple[list[str], int]:
    """The cells of the table line that begins at position `at`, and the position of the next line."""
    cells = []
    while True:
        found = _QUOTED.match(text, at) or _PLAIN.match(text, at)
        assert found is not None  # _PLAIN always matches
        at = found.end()
        cells.append(found[0] if found.re is _PLAIN else found[1].replace('""', '"'))
        if not text.startswith("\t", at):
            break
        at += 1
    return cells, at + 2 if text.startswith("\r", at) else at + 1


def write(path: Path, text: str) -> None:
    """Write a table. Raises `UserError` if it cannot be written."""
    files.write(path, encoded(text))


def _line(values: Sequence[object]) -> str:
    cells = ["" if value is None else str(value) for value in values]
    line = "\t".join(cells)
    if '"' in line or "\n" in line or "\r" in line or line.count("\t") >= len(cells):
        line = "\t".join(map(_cell, cells))
    return line + "\n"


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text
