"""Paths as a user types them, and files that are written whole or not at all."""

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
"""Errors that more room on the disk remedies."""


def user_path(text: str | Path) -> Path:
    """A path as a user types it: `~` is their home, `~NAME` that of NAME if there is such a user.

    Raises `UserError` if they have no home, as in some containers.
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
    """Whether `text` names a place in an object store, such as `s3://bucket/art`, and not a folder."""
    return "://" in str(text)


def has_home() -> bool:
    """Whether this user has a home folder: in a container there may be none."""
    return os.path.expanduser("~") != "~"  # noqa: PTH111


def printable(text: str) -> str:
    r"""`text` with `\xe9` in place of bytes of a file's name that are not UTF-8."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def write(path: Path, content: bytes | str) -> None:
    """Replace a file in one step. Text is written as UTF-8, undecodable bytes of file names unchanged.

    Raises `UserError`, as `writing` does.
    """
    with writing(path) as stream:
        stream.write(content.encode(errors="surrogateescape") if isinstance(content, str) else content)


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which replaces `path` once everything is on the disk.

    Until then it lies beside `path` under another name. If anything fails, the old file stays, the new one is removed,
    and a failure of the disk raises `UserError` with the folder's name.
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
            with suppress(OSError):  # what is left in its buffer is not needed
                stream.close()
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def duplicate(path: Path, other: Path) -> None:
    """Give the file `path` the second name `other`, in place of what lay there. The old content of `other` stays until
    the new one is whole. Where the disk knows no second names, it is copied. Raises `UserError`, as `writing` does.
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
    """Remove what killed programs were writing in a folder that nobody else writes to."""
    for path in folder.glob(f"*.{UNFINISHED}"):
        with suppress(OSError):
            path.unlink()


def _beside(target: Path) -> Path:
    """A new name in the folder of `target`, and of a length that any disk takes."""
    ending = f".{secrets.token_hex(8)}.{UNFINISHED}"
    return target.with_name((target.name if len(os.fsencode(target.name)) < 200 else "file") + ending)


class _Watched:
    """A new binary file that remembers the first error of the disk: whoever writes to it may report another one."""

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
    """Put the new name on the disk as well, where the system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def cannot_write(path: Path, error: OSError) -> UserError:
    """Why `path` cannot be written, with its folder and the remedy."""
    remedy = "make room there" if error.errno in FULL else "choose another folder"
    reason, there = error.strerror or error, printable(str(path.absolute().parent))
    return UserError(f"{printable(path.name)} cannot be written to the folder {there}: {reason}; {remedy}")


def shortest(path: Path) -> Path:
    """`path` as one would type it here: relative to the current folder if it lies in it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def make_folder(folder: Path, *, name: str) -> None:
    """Make the folder that the setting `name` asks for. Raises `UserError` if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{name}={folder} cannot be made: {error.strerror}") from None


def free(path: Path) -> Path:
    """`path` if nothing lies there, else `path` with the first free number behind its name."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_stem(f"{path.stem}_{number}")
    return found
