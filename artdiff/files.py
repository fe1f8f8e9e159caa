"""Paths as a user types them, and atomic writing of files."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from artdiff import UserError

UNFINISHED = "unfinished"
"""Extension of files that are being written."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that go away with more free disk space."""


def user_path(text: str | Path) -> Path:
    """A path as a user types it: `~` is their home folder, `~NAME` that of the user NAME, if there is one.

    Raises `UserError` if the user has no home folder, as in some containers.
    """
    path = Path(os.path.expanduser(text))  # noqa: PTH111  # Path.expanduser raises for a folder that is called ~NAME
    if path.parts[:1] == ("~",):
        raise UserError(f"{text} cannot be found: this user has no home folder; give the whole path, or set HOME")
    return path


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content. Raises `OSError` if it cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_url(text: str | Path) -> bool:
    """Whether `text` is the URL of an object store, such as `s3://bucket/art`, and not a folder."""
    return "://" in str(text)


def has_home() -> bool:
    """Whether this user has a home folder; in a container there may be none."""
    return os.path.expanduser("~") != "~"  # noqa: PTH111


def printable(text: str) -> str:
    r"""`text` with file-name bytes that are not UTF-8 escaped, such as `\xe9`."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def write(path: Path, content: bytes | str) -> None:
    """Replace a file atomically. Text is written as UTF-8, undecodable bytes of file names unchanged.

    Raises `UserError` as `writing` does.
    """
    with writing(path) as stream:
        stream.write(content.encode(errors="surrogateescape") if isinstance(content, str) else content)


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file that replaces `path` atomically when the block ends and everything is on disk.

    Until then it has another name in the same folder. On any error the new file is removed and the old one stays. An
    error of the disk raises a `UserError` that names the folder.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    unfinished = _beside(target)
    stream = None
    try:
        stream = _Watched(unfinished)
        yield stream  # type: ignore[misc]
        stream.flush()
        os.fsync(stream.fileno())
        stream.close()
        unfinished.replace(target)
        _sync_folder(target.parent)
    except Exception as error:
        cause = error if isinstance(error, OSError) else stream.error if stream is not None else None
        if cause is None:
            raise
        raise cannot_write(path, cause) from None
    finally:
        if stream is not None:
            with suppress(OSError):  # the rest of its buffer is not needed
                stream.close()
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def duplicate(path: Path, other: Path) -> None:
    """Replace `other` atomically by a hard link to `path`, or by a copy if the disk has no hard links.

    Raises `UserError` as `writing` does.
    """
    unfinished = _beside(other)
    try:
        try:
            os.link(path, unfinished)
        except OSError:  # FAT, and some network disks
            shutil.copyfile(path, unfinished)
        unfinished.replace(other)
        _sync_folder(other.parent)
    except OSError as error:
        raise cannot_write(other, error) from None
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished files of killed programs. No other program may be writing to the folder."""
    for path in folder.glob(f"*.{UNFINISHED}"):
        with suppress(OSError):
            path.unlink()


def _beside(target: Path) -> Path:
    """A new name in the folder of `target`, short enough for any disk."""
    ending = f".{secrets.token_hex(8)}.{UNFINISHED}"
    return target.with_name((target.name if len(os.fsencode(target.name)) < 200 else "file") + ending)


class _Watched:
    """A new binary file that remembers the first disk error, because the writing code may raise another one."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("xb")
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self._stream.write(content)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        self._stream.close()


def _sync_folder(folder: Path) -> None:
    """Sync the folder, so that the new name is on disk as well, if the system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for a `path` that cannot be written, with the folder, the reason and the remedy."""
    remedy = "make room there" if error.errno in FULL else "choose another folder"
    reason, there = error.strerror or error, printable(str(path.absolute().parent))
    return UserError(f"{printable(path.name)} cannot be written to the folder {there}: {reason}; {remedy}")


def shortest(path: Path) -> Path:
    """`path`, relative to the current folder if it is inside it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def make_folder(folder: Path, *, name: str) -> None:
    """Make the folder that the setting `name` gives. Raises `UserError` if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{name}={folder} cannot be made: {error.strerror}") from None


def free(path: Path) -> Path:
    """`path` if it does not exist, else `path` with the first free number after its stem: `a.png`, `a_2.png`."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_stem(f"{path.stem}_{number}")
    return found
