"""The base class of the data modules: loads uint8 batches and turns them into signed floats on the accelerator."""

import logging
import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from artdiff import UserError, images
from artdiff.cache import chosen_folder
from artdiff.data import augment
from artdiff.data.loader import Batch, Pictures, RawBatch, ResumableLoader, Shuffle, ShuffledOrder, differences, options
from artdiff.ranks import Ranks
from artdiff.settings.data import ServingSettings
from artdiff.store import Contents
from artdiff.words import vocabulary

log = logging.getLogger(__name__)


class PictureDataModule(L.LightningDataModule, ABC):
    """What the data modules share: training order, augmentation, distribution over ranks, and resuming.

    A subclass sets these in `setup`, which raises `UserError` if the pictures cannot be used: `train_set` and
    `val_set`; the names of the `classes`; `trained_on`, a hash of the training pictures; `manifest`, a hash of all
    pictures; `counts`, the number of files per split, of copies and of rejected files; and `root`, their folder or URL.
    """

    settings: ServingSettings
    train_set: Pictures
    val_set: Pictures
    classes: list[str]
    trained_on: str
    manifest: str
    counts: dict[str, int]
    root: str
    train_loader: ResumableLoader
    resumed_at: dict[str, int] | None = None
    shuffle: Shuffle | None = None
    """The training order; None for a uniform shuffle."""

    def __init__(self, settings: ServingSettings) -> None:
        super().__init__()
        self.settings = settings
        self.batch_size = settings.batch_size
        self.cache_dir = chosen_folder(settings.cache_dir)

    @abstractmethod
    def setup(self, stage: str | None = None) -> None:
        """Open the pictures. A second call does nothing."""

    @cached_property
    def vocabulary(self) -> list[str]:
        """The words of the training captions, most frequent first; empty without captions."""
        return vocabulary(self.train_set.captions or [])

    @property
    def is_resident(self) -> bool:
        """Whether all pictures are in the accelerator's memory."""
        return False

    def train_dataloader(self) -> DataLoader:
        self.train_set.indices_only = self.is_resident
        order = ShuffledOrder(len(self.train_set), self.settings.seed, self.batch_size, self.ranks, self.shuffle)
        self.train_loader = ResumableLoader(self.train_set, self.own_batch_size, sampler=order, **self._options())
        if self.resumed_at is not None:
            self.train_loader.go_to(self.resumed_at)
        return self.train_loader

    def val_dataloader(self) -> DataLoader:
        self.val_set.indices_only = self.is_resident
        own = None if self.ranks.world == 1 else self.ranks.own(0, len(self.val_set))
        return DataLoader(self.val_set, self.own_batch_size, sampler=own, **self._options())

    @property
    def ranks(self) -> Ranks:
        """This process's rank and the number of ranks that share a batch."""
        return Ranks() if self.trainer is None else Ranks(self.trainer.global_rank, self.trainer.world_size)

    @property
    def own_batch_size(self) -> int:
        """The batch size on this rank."""
        return self.batch_size // self.ranks.world

    def check_ranks(self, ranks: Ranks) -> None:
        """Raise `UserError` unless batches can be divided among these ranks. Logs the batch size per device."""
        world = ranks.world
        if self.batch_size % world:
            raise UserError(
                f"data.batch_size is the total over all {world} devices and must be a multiple of {world}, got "
                f"{self.batch_size}; set data.batch_size={self.batch_size + -self.batch_size % world}"
            )
        if len(self.val_set) < world:
            raise UserError(f"{len(self.val_set)} held-out pictures are too few for {world} devices: use fewer")
        if world > 1:
            log.info("a batch: %s pictures, %s on each of %s devices", self.batch_size, self.batch_size // world, world)
        if 0 < len(self.train_set) % self.batch_size < world:
            log.info("the last batch of an epoch has fewer pictures than devices: a device without one repeats another "
                     "picture, which does not count")  # fmt: skip

    def transfer_batch_to_device(self, batch: RawBatch, device: torch.device, dataloader_idx: int) -> RawBatch:
        index, batch = batch.index, batch._replace(index=None)  # stays on the CPU: reading it must not synchronise
        view = None if index is None or self.unchanging is None else self._view(index, batch.chance)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)._replace(index=view)

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Batch:
        image, index, label, numbers, gone, share, words = batch
        assert image is not None
        for file in gone:
            log.warning("left out of a batch, it cannot be read any more: %s", file)
        if not len(image):
            raise UserError(f"no picture of a batch can be read any more: {gone[0]}")
        image = augment.crop(image, self.settings.image_size, None if numbers is None else numbers[:, 1:3])
        if numbers is not None and self.settings.train_crop is not None:
            side = min(self.settings.train_crop, self.settings.image_size)
            image = augment.crop(image, side, numbers[:, 1:3].flip(1))
        if self.settings.flip and numbers is not None:
            image = augment.flip(image, self.settings.flip, numbers[:, 0])
        return Batch(images.to_signed(image), label, index, share, words)

    @cached_property
    def unchanging(self) -> Contents | None:
        """The pictures that a batch's `index` refers to; None if their pixels are not cached or a crop changes them.

        With flips, each picture is followed by its mirror image.
        """
        if self.settings.random_crop or self.settings.train_crop is not None:
            return None
        return self._contents(mirrored=bool(self.settings.flip))

    @abstractmethod
    def _contents(self, *, mirrored: bool) -> Contents | None:
        """A key per picture, and with `mirrored` one for its mirror image after it. None if pixels are not cached."""

    def _view(self, index: Tensor, chance: Tensor | None) -> Tensor:
        """Map places in the data set to places in `unchanging`, int64 (B,). `chance` (B,4) decides about flips."""
        if not self.settings.flip:
            return index
        flipped = torch.zeros_like(index) if chance is None else (chance[:, 0] < self.settings.flip).long()
        return 2 * index + flipped

    def trained(self, count: int) -> Tensor:
        """At most `count` training pictures, chosen as in `preview`."""
        return self._signed(self.train_set.spread(count))

    def preview(self, count: int) -> Tensor:
        """At most `count` validation pictures, evenly spaced in the list, always the same: signed (B,3,H,W)."""
        return self._signed(self.val_set.spread(count))

    def training_matches(self, count: int) -> Batch:
        """A training picture for each of the first `count` validation pictures: a batch with `image` uint8 (N,3,H,W).

        It has the same label, or any label if no training picture has that one. The pictures of a label are evenly
        spaced in the list, always the same, and repeat if there are too few. Unreadable files are left out.
        """
        near = self.train_set.at_hand
        wanted, labels = self.val_set.labels[:count].numpy(), self.train_set.labels[:near].numpy()
        places = np.empty(len(wanted), dtype=np.int64)
        for label in np.unique(wanted):
            those = np.flatnonzero(wanted == label)
            among = np.flatnonzero(labels == label) if label in labels else np.arange(len(labels))
            places[those] = among[(2 * np.arange(len(those)) + 1) * len(among) // (2 * len(those))]
        pixels, found, _ = self.train_set.source.read(self.train_set.indices[places])
        image = augment.crop(torch.from_numpy(pixels).permute(0, 3, 1, 2), self.settings.image_size, None)
        kept = places[found]
        return Batch(image, torch.from_numpy(labels[kept]), words=self.train_set.words(kept.tolist()))

    def colours(self, labels: list[int]) -> images.Colours:
        """Channel statistics of the training pictures with these labels, or of all; labels are weighted equally."""
        samples = [sample for label in labels if len(sample := self.train_set.spread(64, label=label))]
        found = [images.colours(self._signed(sample)) for sample in samples or [self.train_set.spread(64)]]
        return images.Colours(*(torch.stack(part).mean(dim=0) for part in zip(*found, strict=True)))

    def _signed(self, image: Tensor) -> Tensor:
        return images.to_signed(augment.crop(image, self.settings.image_size, None))

    @abstractmethod
    def near_duplicate_groups(self) -> list[int]:
        """A group number for each training picture; near-duplicates have the same."""

    @abstractmethod
    def listings(self) -> dict[str, bytes]:
        """File name → content of the tables of rejected files, and of copies and near-duplicates."""

    def columns(self) -> dict[str, list[str | None]]:
        """Metadata column → its value for each training picture; empty without metadata."""
        return {}

    def files(self) -> list[str] | None:
        """The file of each training picture; None if unknown."""
        return None

    def card(self) -> str | None:
        """The data card in Markdown; None if the files are unknown."""
        return None

    def facts(self) -> dict[str, object]:
        """What the run's metadata records about the data."""
        files = {"files": sum(self.counts.values()), **self.counts}
        return {"data": {"root": self.root, **files, "manifest": self.manifest}}

    def state_dict(self) -> dict[str, object]:
        order = {"order_of": self._order_of(), "order": self.train_loader.position()}
        return {"classes": self.classes, "manifest": self.manifest, **order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["order_of"] == self._order_of():
            self.resumed_at = state["order"]
        else:
            changed = differences(state["order_of"], self._order_of())
            log.warning("%s: the order of pictures and the epoch start again", changed)

    def _order_of(self) -> dict[str, object]:
        """Everything that the training order depends on."""
        return {"trained_on": self.trained_on, "batch_size": self.batch_size, "seed": self.settings.seed}

    @property
    def batches_in_epoch(self) -> int:
        """Training batches per epoch."""
        return math.ceil(len(self.train_set) / self.batch_size)

    def _options(self) -> dict[str, Any]:
        """Arguments of both DataLoaders."""
        return options(0 if self.is_resident else self._workers(), self._device())

    def _workers(self) -> int:
        """The number of loader processes; 0 where loading is so fast that processes do not pay off."""
        return 0

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
