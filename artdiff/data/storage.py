"""Reads and writes files by name, in a folder or in an object store.

An object store is a URL: `s3://bucket/folder`, `gs://…`, `az://…` or `https://…`. obstore reads credentials and
endpoint from the usual environment variables, such as `AWS_ACCESS_KEY_ID` and `AWS_ENDPOINT_URL`.
"""

import hashlib
import logging
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from artdiff import UserError, cache
from artdiff.files import is_url, make_folder, user_path, write, writing
from artdiff.locks import Lock

log = logging.getLogger(__name__)

RETRY = {"max_retries": 10, "retry_timeout": timedelta(minutes=3)}
"""How often, and for how long, obstore retries a failed request."""

RETRIES = 2
"""How often a file is fetched again if its SHA-256 is wrong."""


class Entry(NamedTuple):
    """A file with known content: name, size and SHA-256."""

    name: str
    bytes: int
    sha256: str


class Storage(Protocol):
    """All methods raise `UserError` if a file cannot be read or written."""

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if it does not exist."""

    def local(self, entry: Entry) -> Path:
        """The path of a local file with the content of `entry`, which is fetched if necessary."""

    def holds(self, entry: Entry) -> bool:
        """Whether a file of that name and size exists."""

    def put(self, name: str, content: bytes) -> None:
        """Write a file atomically."""


def storage(root: str, folder: Path | None = None, *, gigabytes: float = 0) -> Storage:
    """The storage at `root`. Files of an object store are cached in `folder`, up to `gigabytes`."""
    return InStore(root, folder, gigabytes=gigabytes) if is_url(root) else InFolder(user_path(root))


class InFolder:
    """Files in a folder, read in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{self.folder / name} cannot be read: {error.strerror or error}") from None

    def local(self, entry: Entry) -> Path:
        path = self.folder / entry.name
        try:
            found = path.stat().st_size
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
        if found != entry.bytes:
            raise UserError(f"{path} has {found:,} bytes, expected {entry.bytes:,}: copy it again, or pack again")
        return path

    def holds(self, entry: Entry) -> bool:
        with suppress(OSError):
            return (self.folder / entry.name).stat().st_size == entry.bytes
        return False

    def put(self, name: str, content: bytes) -> None:
        make_folder(self.folder, name="out")
        write(self.folder / name, content)


class InStore:
    """Files in an object store.

    `local` caches what it fetches in `folder`. The least recently used files are removed to make room. Several
    processes may share the folder.
    """

    def __init__(self, url: str, folder: Path | None, *, gigabytes: float) -> None:
        try:
            import obstore  # slow to import, and an extra
        except ImportError:
            raise UserError(f"{url} is read with obstore: pip install 'artdiff[stream]'") from None
        self.url = url
        self.folder = folder
        self.room = int(gigabytes * 1e9)
        self._obstore: Any = obstore
        insecure = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://") or url.startswith("http://")
        try:
            options: Any = {"client_options": {"allow_http": insecure}, "retry_config": RETRY}
            self._store = obstore.store.from_url(url, **options)
        except Exception as error:
            raise UserError(f"{url} cannot be opened as an object store: {_line(error)}") from None

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self._obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failed(name, error) from None

    def local(self, entry: Entry) -> Path:
        assert self.folder is not None, "reading needs a cache folder"
        path = self.folder / f"{entry.sha256[:32]}.shard"
        if self._is_there(path, entry):
            return path
        cache.make(self.folder)
        with Lock(path.with_suffix(".lock")).held():  # another process may be fetching it
            if not self._is_there(path, entry):
                self._make_room(entry.bytes)
                self._fetch(entry, path)
        return path

    def holds(self, entry: Entry) -> bool:
        try:
            return int(self._obstore.head(self._store, entry.name)["size"]) == entry.bytes
        except FileNotFoundError:
            return False
        except Exception as error:
            raise self._failed(entry.name, error) from None

    def put(self, name: str, content: bytes) -> None:
        try:
            self._obstore.put(self._store, name, content)
        except Exception as error:
            raise self._failed(name, error, "written") from None

    def _fetch(self, entry: Entry, path: Path) -> None:
        for _ in range(1 + RETRIES):
            found = hashlib.sha256()
            try:
                parts = self._obstore.get(self._store, entry.name).stream(min_chunk_size=2**20)
                with writing(path) as file:
                    for part in parts:
                        found.update(part)
                        file.write(part)
                    if found.hexdigest() == entry.sha256:
                        return
                    raise _Damaged
            except _Damaged:
                log.warning("%s/%s arrived damaged: fetching it again", self.url, entry.name)
            except UserError:
                raise
            except Exception as error:
                raise self._failed(entry.name, error) from None
        raise UserError(f"{self.url}/{entry.name} is damaged: its SHA-256 is not {entry.sha256}; pack it again")

    def _make_room(self, needed: int) -> None:
        """Remove the least recently used files until `needed` bytes more fit."""
        assert self.folder is not None
        found = []
        for path in self.folder.glob("*.shard"):
            with suppress(OSError):  # another process has just removed it
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        held = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if held + needed <= self.room:
                break
            path.unlink(missing_ok=True)  # a process that has it open can still read it
            path.with_suffix(".lock").unlink(missing_ok=True)  # harmless: concurrent fetches write the same content
            held -= size

    def _is_there(self, path: Path, entry: Entry) -> bool:
        with suppress(OSError):
            if path.stat().st_size == entry.bytes:
                cache.mark_used(path)  # `_make_room` removes the least recently used files
                return True
        return False

    def _failed(self, name: str, error: Exception, what: str = "read") -> UserError:
        return UserError(f"{self.url}/{name} cannot be {what}: {_line(error)}")


class _Damaged(Exception):
    """The fetched content has another SHA-256 than expected."""


def _line(error: Exception) -> str:
    """The first paragraph of an error on one line: obstore appends debug output."""
    return " ".join(str(error).split("\n\n")[0].split())[:300]
