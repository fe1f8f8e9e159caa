"""Finds the files of a folder, and says what was found where a folder cannot be used.

Every file below the root is listed, or set aside with the reason: what is hidden (its name, or a folder's, begins with
a dot) and what may not be looked into. Links to folders are followed, each folder once.
"""

import csv
import difflib
import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from artdiff import UserError

EXPECTED = "expected pictures in class subfolders (DIR/engraving/a.jpg) or in the folder itself (DIR/a.jpg)"

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".tga"}
    | {".ico", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"}
)
"""What pictures are usually called: only for hints and the layout. What a file is shows when it is decoded."""


class File(NamedTuple):
    """A file below the root as the disk lists it: `path` relative to the root, with `/`; times in nanoseconds."""

    path: str
    bytes: int
    mtime: int
    ctime: int

    @property
    def folders(self) -> tuple[str, ...]:
        """The names of the folders that it lies in, from the root down."""
        return tuple(self.path.split("/")[:-1])

    @property
    def is_named_like_a_picture(self) -> bool:
        return os.path.splitext(self.path)[1].lower() in EXTENSIONS  # noqa: PTH122 (a hundred thousand times)


SetAside = tuple[str, str]
"""(file, relative to the root; the reason why it is not used)."""


class Listing(NamedTuple):
    """What a folder holds: `files` to look into, sorted by path, and those that are not."""

    files: list[File]
    set_aside: list[SetAside]


def scan(root: Path, *, name: str = "data.root") -> Listing:
    """All files below `root`. Raises `UserError`, in which `root` goes by `name`, if there are none to look into."""
    check(root, name=name)
    files: list[File] = []
    set_aside: list[SetAside] = []
    for found in _walk(root):
        (files if isinstance(found, File) else set_aside).append(found)  # type: ignore[arg-type]
    if not files:
        denied = next((path for path, reason in set_aside if reason.startswith("permission")), None)
        if denied is not None:
            raise UserError(f"{name}={root} cannot be listed: permission denied for {shown(denied)}")
        raise UserError(f"{name}={root} holds {_content(root)}; {elsewhere(root, name)}{EXPECTED}")
    return Listing(sorted(files), sorted(set_aside))


def check(root: Path, *, name: str = "data.root") -> None:
    """Raise `UserError` where `root` is no folder that can be looked into; cheap, and needs nothing heavy."""
    if not _exists(root):
        raise UserError(f"{name}={root} does not exist; {_nearest(root, name)}")
    if not root.is_dir():
        raise UserError(f"{name}={root} is a file, not a folder; {EXPECTED}")
    if not os.access(root, os.R_OK | os.X_OK):
        raise UserError(f"{name}={root} cannot be listed: permission denied")


def tree(files: Iterable[File], *, depth: int = 2) -> str:
    """The folders that the files lie in, with how many each holds, in one line: `a/b 12, c 3`."""
    counts = Counter("/".join(file.folders[:depth]) or "." for file in files)
    return some([f"{shown(name)} {count:,}" for name, count in sorted(counts.items())], most=8)


def shown(path: str) -> str:
    """A file's name fit for a line of text: what is no character or begins a new line is escaped."""
    text = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def write_rows(path: Path, heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Write a list as tab-separated lines with a heading; names that are no text are written as they are."""
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(rows)


def _walk(root: Path) -> Iterator[File | SetAside]:
    """Real folders first, then those that links lead to, hidden ones last: so each is seen once, where it belongs.

    A link to a folder above the root is not followed: it would lead to what is not the user's to give.
    """
    above = {_identity(str(folder)) for folder in root.resolve().parents}
    seen: set[tuple[int, int]] = set()
    real, linked, hidden = (
        deque([(str(root), "", False)]),
        deque[tuple[str, str, bool]](),
        deque[tuple[str, str, bool]](),
    )
    while queue := real or linked or hidden:
        folder, prefix, is_hidden = queue.popleft()
        try:
            identity = _identity(folder)
            if identity in above or identity in seen:
                if not is_hidden:
                    yield prefix, "a link to a folder that is read already, or that holds this one"
                continue
            seen.add(identity)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            reason = "permission denied" if isinstance(error, PermissionError) else str(error.strerror)
            yield prefix, f"{reason}: this folder cannot be listed"
            continue
        for entry in entries:
            path, below_hidden = prefix + entry.name, is_hidden or _hides(entry.name)
            if _is_folder(entry):
                into = hidden if below_hidden else linked if entry.is_symlink() or queue is linked else real
                into.append((entry.path, f"{path}/", below_hidden))
            elif below_hidden:
                yield path, "hidden"
            else:
                yield _file(entry, path)


def _hides(name: str) -> bool:
    """A name that begins with a dot, or that of the folder in which macOS keeps its notes in an archive."""
    return name.startswith(".") or name == "__MACOSX"


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _file(entry: "os.DirEntry[str]", path: str) -> File | SetAside:
    try:
        status = entry.stat()
    except OSError as error:
        link = " (a link that leads nowhere)" if entry.is_symlink() else ""
        return path, f"cannot be read: {error.strerror}{link}"
    if not stat.S_ISREG(status.st_mode):
        return path, "not a file but a pipe, a socket or a device"
    return File(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _exists(root: Path) -> bool:
    try:
        return root.exists()
    except OSError:  # a name that no disk can hold, or a folder above that may not be entered
        return False


def _nearest(root: Path, name: str) -> str:
    """What there is instead of a folder that does not exist."""
    parents = [folder for folder in root.absolute().parents if _exists(folder) and os.access(folder, os.R_OK)]
    parent = parents[0]
    missing = root.absolute().relative_to(parent).parts[0]
    names = [entry.name for entry in _folders(parent)]
    close = difflib.get_close_matches(missing.lower(), [name.lower() for name in names], 1)
    if close:
        right = next(entry for entry in names if entry.lower() == close[0])
        guess = parent / right / Path(*root.absolute().relative_to(parent).parts[1:])
        hint = f"did you mean {name}={guess if _exists(guess) else parent / right}? "
    else:
        hint = ""
    return f"{hint}{parent} holds {_content(parent)}; {EXPECTED}"


def elsewhere(root: Path, name: str) -> str:
    """A hint at a folder beside or above `root`, which does not, that holds pictures: a question, or nothing."""
    for folder in (*_folders(root.absolute().parent)[:50], root.absolute().parent):
        if folder != root.absolute() and _holds_pictures(folder):
            return f"did you mean {name}={folder}? "
    return ""


def _holds_pictures(folder: Path) -> bool:
    """Whether a file in `folder` or in one of its subfolders is named like a picture; looks no further."""
    inside = [*_folders(folder), folder]
    for one in inside[-50:]:
        try:
            with os.scandir(one) as entries:
                names = (entry.name for _, entry in zip(range(200), entries, strict=False))
                if any(os.path.splitext(name)[1].lower() in EXTENSIONS for name in names):  # noqa: PTH122
                    return True
        except OSError:
            continue
    return False


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def _content(folder: Path) -> str:
    """What a folder holds, in words: `a, b and 3 more`, or nothing."""
    try:
        names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    except OSError:
        return "nothing that may be listed"
    names = [name for name in names if not name.startswith(".")]
    if not names:
        return "nothing"
    only = len(names) == 1 and (folder / names[0]).is_dir() and not any(os.scandir(folder / names[0]))
    return ("only the empty folder " if only else "") + some([shown(name) for name in names], most=5)


def some(names: list[str], *, most: int) -> str:
    """A list in a line, cut after `most`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
