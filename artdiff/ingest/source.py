"""Sources of pictures. A source lists records; everything after it works on records alone.

A folder is one source. Any class with a `root` and a method `records` can be another: set `data.source._target_` to it.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

from artdiff.ingest.captions import BESIDE, captions_beside
from artdiff.ingest.layout import lay_out
from artdiff.ingest.scan import Rejected, scan
from artdiff.ingest.split_folders import Split


class Record(NamedTuple):
    """A file that may be a picture.

    `path` is relative to the source's root, with `/`. `mtime` and `ctime` are in nanoseconds: a file whose size and
    times have not changed is not read again. `split` is None unless the source determines the split. `columns` are
    further metadata, such as `license` and `source`. `folders` are those whose names describe the picture, for
    `data.captions=filename`; None for all folders of its path.
    """

    path: str
    bytes: int
    mtime: int
    ctime: int
    label: str | None
    split: Split | None
    columns: dict[str, str]
    folders: tuple[str, ...] | None = None


class Source(Protocol):
    """Lists the files of a collection in the folder `root`."""

    root: Path

    def records(self) -> tuple[list[Record], list[Rejected]]:
        """The files to decode, and those that are rejected. Raises `UserError` if there are none to decode."""


class Folder:
    """A folder of pictures, laid out as `artdiff.ingest.layout` describes.

    With `captions_beside`, a text file with the same name as a picture is its caption.
    """

    def __init__(self, root: Path, *, captions_beside: bool = False) -> None:
        self.root = root
        self.captions_beside = captions_beside

    def records(self) -> tuple[list[Record], list[Rejected]]:
        files, rejected = scan(self.root)
        captions, owners = captions_beside(self.root, files) if self.captions_beside else ({}, {})
        layout = lay_out(self.root, [file for file in files if file.path not in owners])
        records = [Record(*file, *place) for file, place in zip(layout.files, layout.places, strict=True)]
        for record in records:
            if record.path in captions:
                record.columns[BESIDE] = captions[record.path]
        of_captions = [(path, f"the caption of {owner}") for path, owner in owners.items()]
        return records, [*rejected, *of_captions, *layout.rejected]
