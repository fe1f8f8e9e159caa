"""The Lightning data module of shards that `artdiff.pack` has written to a folder or an object store."""

import hashlib
import io
import json
import logging
from functools import cached_property
from typing import Any

import numpy as np

from artdiff import UserError, runs
from artdiff.data.base import PictureDataModule
from artdiff.data.loader import Pictures
from artdiff.data.pixels import content_keys
from artdiff.data.shards import LANES, FromShards, ShardIndex, ShardOrder
from artdiff.data.storage import Entry, storage
from artdiff.settings.data import StreamSettings
from artdiff.store import Contents

log = logging.getLogger(__name__)

ROOM = "shards"
"""Subfolder of the cache for fetched shards."""


class StreamDataModule(PictureDataModule):
    """Pictures of shards, only some of which are on the local disk at a time.

    The arguments are the fields of `artdiff.settings.StreamSettings`; `conf/data/stream.yaml` explains them.
    """

    settings: StreamSettings

    def __init__(self, **settings: Any) -> None:
        super().__init__(StreamSettings.of(settings))
        self.save_hyperparameters(logger=False)
        assert self.settings.root is not None
        self.root = self.settings.root
        self.place = storage(self.root, self.cache_dir / ROOM, gigabytes=self.settings.cache_gigabytes)

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "train_set"):
            return
        self.index = index = ShardIndex.read(self.place, self.root)
        self._check(index)
        self.hparams.update(fit=index.fit, background=index.background)  # for checkpoints, which decode muses alike
        labels, self._digests = self._array(index.labels).astype(np.int64), self._array(index.digests)
        source, places = FromShards(self.place, index.shards, index.side), np.arange(len(labels))
        count, first, first_held_out = (
            sum(one.pictures for one in index.train),
            index.train[0].pictures,
            index.validation[0].pictures,
        )
        captions = self._captions()
        trained, held_out = (None, None) if captions is None else (captions[:count], captions[count:])
        self.train_set = Pictures(
            source, places[:count], labels[:count], seed=self.settings.seed, at_hand=first, captions=trained
        )
        self.val_set = Pictures(
            source, places[count:], labels[count:], seed=None, at_hand=first_held_out, captions=held_out
        )
        self.classes, self.manifest, self.counts = index.classes, index.manifest, index.counts
        sizes = [one.pictures for one in index.train]
        self.trained_on = hashlib.sha256(f"{index.digests.sha256} {sizes} {LANES}".encode()).hexdigest()
        self.shuffle = lambda seed, epoch: ShardOrder(sizes, seed, epoch, source.expect)
        log.info(
            "data: %s: %s pictures for training in %s shards, %s for validation in %s; %s px; %s",
            self.root,
            f"{count:,}",
            f"{len(index.train):,}",
            f"{len(labels) - count:,}",
            f"{len(index.validation):,}",
            index.side,
            f"classes {', '.join(index.classes[:8])}" if index.classes else "no classes",
        )

    def teardown(self, stage: str) -> None:
        if hasattr(self, "train_set"):
            assert isinstance(self.train_set.source, FromShards)
            self.train_set.source.stop()

    def _check(self, index: ShardIndex) -> None:
        """Raise `UserError` unless size and fit of the pictures agree with the settings."""
        size, crop, fit = self.settings.image_size, self.settings.random_crop, self.settings.fit
        if index.side != size + crop:
            raise UserError(
                f"the shards in {self.root} hold pictures of {index.side} px, expected data.image_size={size} plus "
                f"data.random_crop={crop}; set data.image_size={index.side - crop}, or pack again with these settings"
            )
        if fit not in (None, index.fit):
            raise UserError(
                f"the shards in {self.root} were packed with data.fit={index.fit}, got data.fit={fit}; "
                f"pack again with data.fit={fit}, or set data.fit={index.fit}"
            )

    def _content(self, entry: Entry) -> bytes:
        content = self.place.read(entry.name)
        if content is None or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise UserError(f"{self.root}/{entry.name} is missing or damaged: pack again")
        return content

    def _array(self, entry: Entry) -> np.ndarray:
        return np.load(io.BytesIO(self._content(entry)), allow_pickle=False)

    @cached_property
    def _texts(self) -> dict[str, Any]:
        """Files, captions and metadata of the pictures; empty in shards of earlier versions."""
        return {} if self.index.texts is None else json.loads(self._content(self.index.texts))

    def _captions(self) -> list[str | None] | None:
        """The captions of all pictures, or None if not used. Raises `UserError` if they are set but were not packed."""
        if self.settings.captions == "none":
            return None
        found: list[str | None] | None = self._texts.get("captions")
        if found is None or not any(found):
            how = self.settings.captions
            raise UserError(
                f"the shards in {self.root} were packed without captions: pack again with data.captions={how}"
            )
        return found

    def columns(self) -> dict[str, list[str | None]]:
        return {name: found[: len(self.train_set)] for name, found in self._texts.get("columns", {}).items()}

    def files(self) -> list[str] | None:
        return self._texts["files"][: len(self.train_set)] if self._texts else None

    def _contents(self, *, mirrored: bool) -> Contents:
        return Contents(content_keys(self.index.kind, map(bytes, self._digests), mirrored=mirrored), self.cache_dir)

    def near_duplicate_groups(self) -> list[int]:
        return self._array(self.index.groups)[: len(self.train_set)].tolist()

    def listings(self) -> dict[str, bytes]:
        return {name: self.place.read(name) or b"" for name in (runs.SET_ASIDE, runs.DUPLICATES)}
