"""Lists every file below a folder, and explains why a folder cannot be used.

Files and folders whose names begin with a dot, and those of systems, storage devices and tools, are rejected as hidden.
Whatever cannot be read is rejected with the reason. Links to folders are followed, each once.
"""

import difflib
import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from artdiff import UserError
from artdiff.files import user_path
from artdiff.ingest.tables import shown, some
from artdiff.settings.data import DataSettings

EXPECTED = "expected pictures in class subfolders (DIR/engraving/a.jpg) or in the folder itself (DIR/a.jpg)"

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".tga"}
    | {".ico", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"}
)
"""Common extensions of pictures. They are used for hints and the layout only; the decoder looks at the content."""

Rejected = tuple[str, str]
"""(path relative to the root, reason)."""


# fmt: off
SYSTEM = frozenset({
    # Windows
    "$recycle.bin", "recycler", "recycle bin", "system volume information", "msocache", "config.msi", "$extend",
    "$windows.~bt", "$windows.~ws", "$sysreset", "$winreagent", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db",
    "desktop.ini", "_vti_cnf", "_vti_pvt", "found.000", "lost.dir",
    # macOS
    "__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder", "icon\r", "desktop db",
    "desktop df",
    # Unix, and tools
    "lost+found", "aquota.user", "aquota.group", "quota.user", "quota.group", "__pycache__", "node_modules",
    # Synology
    "@eadir", "#recycle", "#snapshot", "@sharesnap", "@sharebin", "@tmp", "@database", "@appstore", "@docker",
    "@cloudsync", "@activebackup", "@img_bkp_cache", "@iscsi", "@surveillance",
    # QNAP, Asustor, NetApp, Buffalo
    "@recycle", "@recycle bin", "@recently-snapshot", "@__thumb", "@transcode", "@qmariadb", "~snapshot", "trashbox",
})
# fmt: on
"""Names, in lower case, of files and folders of systems, storage devices and tools. Most others begin with a dot."""

LINKED_TWICE = "a link to a folder that is read already, or that holds this one"


class File(NamedTuple):
    """A listed file: `path` relative to the root, with `/`; times in nanoseconds."""

    path: str
    bytes: int
    mtime: int
    ctime: int

    @property
    def folders(self) -> tuple[str, ...]:
        """The names of the folders above the file, from the root down."""
        return folders_of(self.path)

    @property
    def is_named_like_a_picture(self) -> bool:
        return os.path.splitext(self.path)[1].lower() in EXTENSIONS  # noqa: PTH122 (a hundred thousand times)


class Listing(NamedTuple):
    """The files of a folder that may be pictures, and those that are rejected, both sorted by path."""

    files: list[File]
    rejected: list[Rejected]


def scan(root: Path, *, name: str = "data.root") -> Listing:
    """List all files below `root`. Raises `UserError` if there are none; its message names the setting `name`."""
    check(root, name=name)
    files: list[File] = []
    rejected: list[Rejected] = []
    for found in _walk(root):
        (files if isinstance(found, File) else rejected).append(found)  # type: ignore[arg-type]
    if not files:
        denied = next((path for path, reason in rejected if reason.startswith("permission")), None)
        if denied is not None:
            raise UserError(f"{name}={root} cannot be listed: permission denied for {shown(denied)}")
        raise UserError(f"{name}={root} holds {_content(root)}; {elsewhere(root, name)}{EXPECTED}")
    return Listing(sorted(files), sorted(rejected))


def check(root: Path, *, name: str = "data.root") -> None:
    """Raise `UserError` unless `root` is a folder that can be listed. Fast: imports nothing slow."""
    if not _exists(root):
        raise UserError(f"{name}={root} does not exist; {_nearest(root, name)}")
    if not root.is_dir():
        raise UserError(f"{name}={root} is a file, not a folder; {EXPECTED}")
    if not os.access(root, os.R_OK | os.X_OK):
        raise UserError(f"{name}={root} cannot be listed: permission denied")


def folders_of(path: str) -> tuple[str, ...]:
    """The names of the folders above a file, from the root down."""
    return tuple(path.split("/")[:-1])


def check_root(settings: DataSettings) -> None:
    """Raise `UserError` if `data.root` cannot be read. A user-defined source is not checked."""
    if settings.root is not None and settings.source is None:
        check(user_path(settings.root))


def tree(paths: Iterable[str], *, depth: int = 2) -> str:
    """Folders and their numbers of files, on one line: `a/b 12, c 3`."""
    counts = Counter("/".join(folders_of(path)[:depth]) or "." for path in paths)
    return some([f"{shown(name)} {count:,}" for name, count in sorted(counts.items())], most=8)


def _walk(root: Path) -> Iterator[File | Rejected]:
    """Walk real folders first, then linked ones, then hidden ones, so that each is listed once, under its best name.

    Links to a folder above the root are not followed: they lead to files that the user did not choose.
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
                    yield prefix, LINKED_TWICE
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
    """True for names that begin with a dot or are in `SYSTEM`, in upper or lower case."""
    if name.startswith("."):
        return True
    lower = name.lower()
    return lower in SYSTEM or lower.startswith("@syno") or lower.endswith(("@synoeastream", "@synoresource"))


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _file(entry: "os.DirEntry[str]", path: str) -> File | Rejected:
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
    except OSError:  # an impossible name, or no permission for a folder above
        return False


def _nearest(root: Path, name: str) -> str:
    """A hint for a folder that does not exist: the closest name, and the content of the nearest existing folder."""
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
    """A suggestion of a folder with pictures beside or above `root`; empty if there is none."""
    for folder in (*_folders(root.absolute().parent)[:50], root.absolute().parent):
        if folder != root.absolute() and _holds_pictures(folder):
            return f"did you mean {name}={folder}? "
    return ""


def _holds_pictures(folder: Path) -> bool:
    """True if a file in `folder` or in a direct subfolder is named like a picture."""
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
        return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not _hides(entry.name))
    except OSError:
        return []


def _content(folder: Path) -> str:
    """The content of a folder in words: `a, b and 3 more`, or `nothing`."""
    try:
        visible = [entry for entry in folder.iterdir() if not _hides(entry.name)]
        names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in visible)
    except OSError:
        return "nothing that may be listed"
    if not names:
        return "nothing"
    only = len(names) == 1 and _is_empty(folder / names[0])
    return ("only the empty folder " if only else "") + some([shown(name) for name in names], most=5)


def _is_empty(folder: Path) -> bool:
    """True for an empty folder; False if it cannot be listed."""
    try:
        return folder.is_dir() and not any(folder.iterdir())
    except OSError:
        return False
