"""Settings of training data, audit, packing and pruning."""

import os
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from artdiff import UserError
from artdiff.files import is_url, user_path
from artdiff.rules import POSITIVE_WHOLE, colour, fraction, not_negative, one_of, positive, share, whole
from artdiff.settings.base import MULTIPLE, Component, Settings, check_out, refuse_inside

Fit = Literal["squash", "crop", "pad"]
"""How a picture is made square: squashed, cropped to its centre, or padded with the background colour."""

Captions = Literal["none", "auto", "metadata", "sidecar", "filename"]
"""Where captions come from; `artdiff.ingest.captions` explains them."""


@dataclass(frozen=True, kw_only=True)
class Limits(Settings):
    """Limits of time and memory for decoding one file; memory is limited on Linux only."""

    prefix: ClassVar[str] = "limits."

    seconds: Annotated[float, positive]
    gigabytes: Annotated[float, positive]


@dataclass(frozen=True, kw_only=True)
class ServingSettings(Settings):
    """Settings that all data modules share."""

    prefix: ClassVar[str] = "data."

    root: str | None
    image_size: Annotated[int, whole(16)]
    batch_size: Annotated[int, POSITIVE_WHOLE]
    flip: Annotated[float, share]
    random_crop: Annotated[int, whole(0)]
    train_crop: Annotated[int, whole(16)] | None = None
    seed: Annotated[int, whole(0, 2**32 - 1)]
    cache_dir: str | None
    captions: Captions = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % MULTIPLE:
            below = self.image_size - self.image_size % MULTIPLE
            raise UserError(
                f"data.image_size must be a multiple of {MULTIPLE}, got {self.image_size}; "
                f"set data.image_size={below} or {below + MULTIPLE}"
            )
        whole(0, self.image_size)("data.random_crop", self.random_crop)
        if self.train_crop is not None and self.train_crop % MULTIPLE:
            raise UserError(f"data.train_crop must be a multiple of {MULTIPLE}, got {self.train_crop}")
        if self.root is not None:
            cache_dir = os.environ.get("ARTDIFF_CACHE") if self.cache_dir is None else self.cache_dir
            if cache_dir:
                remedy = "set it, or ARTDIFF_CACHE, to one elsewhere"
                refuse_inside("data.cache_dir", cache_dir, self.root, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class DataSettings(ServingSettings):
    """`conf/data/folder.yaml`: which pictures are used, their size, and how they are loaded."""

    source: Component | None = None
    fit: Fit
    background: Annotated[str, colour]
    val_fraction: Annotated[float, fraction]
    min_side: Annotated[int, whole(0)]
    exclude: str | None
    cache: bool
    resident: Annotated[bool | str, one_of("auto", True, False)]
    num_workers: Annotated[int, whole(0)] | None
    limits: Limits

    def __post_init__(self) -> None:
        if self.root == "":
            raise UserError("data.root is empty; expected a folder, or null for the built-in sample art")
        if self.root is not None and is_url(self.root):
            raise UserError(f"data.root={self.root} is no folder; shards in an object store are read with data=stream")
        super().__post_init__()
        if self.resident is True and not self.cache:
            raise UserError("data.resident=true needs data.cache=true")
        if self.num_workers is not None and not self.cache:
            whole(1)("data.num_workers", self.num_workers)
        if self.exclude is not None and not user_path(self.exclude).is_file():
            raise UserError(f"data.exclude={self.exclude} is no file; expected a list of paths or SHA-256 hashes")


@dataclass(frozen=True, kw_only=True)
class StreamSettings(ServingSettings):
    """`conf/data/stream.yaml`: shards that `artdiff.pack` has written to a folder or an object store."""

    fit: Fit | None = None
    cache_gigabytes: Annotated[float, positive]

    def __post_init__(self) -> None:
        if not self.root:
            raise UserError("data.root must be given: the folder or URL of shards that artdiff.pack has written")
        super().__post_init__()


DATA: dict[str, type[ServingSettings]] = {
    "artdiff.data.datamodule.ArtDataModule": DataSettings,
    "artdiff.data.streaming.StreamDataModule": StreamSettings,
}
"""Data module → its settings class. A user-defined data module has those of a folder."""


@dataclass(frozen=True, kw_only=True)
class AuditSettings(Settings):
    """`conf/audit.yaml`."""

    data: DataSettings
    out: str
    contact_sheet: Annotated[int, POSITIVE_WHOLE]
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_out(self.out, self.data.root)


@dataclass(frozen=True, kw_only=True)
class PackSettings(Settings):
    """`conf/pack.yaml`."""

    data: DataSettings
    out: str
    shard_megabytes: Annotated[float, positive]
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_url(self.out):
            check_out(self.out, self.data.root)


@dataclass(frozen=True, kw_only=True)
class PruneSettings(Settings):
    """`conf/prune.yaml`."""

    unused_days: Annotated[float, not_negative]
    dry_run: bool
    cache_dir: str | None
