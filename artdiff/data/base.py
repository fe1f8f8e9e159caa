"""Serves pictures to Lightning, wherever they come from: uint8 batches, and signed floats on the accelerator."""

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
from artdiff.data.loader import Batch, Pictures, ResumableLoader, Shuffle, ShuffledOrder, Wire, differences, options
from artdiff.ranks import Ranks
from artdiff.settings.data import ServingSettings
from artdiff.store import Contents
from artdiff.words import vocabulary

log = logging.getLogger(__name__)


class PictureDataModule(L.LightningDataModule, ABC):
    """What the data modules share: the order of training, augmentation, several ranks, and resuming.

    A kind of data sets in `setup`, which raises `UserError` if the pictures cannot be used: the two sides of the split,
    the names of the `classes`, `trained_on`, a digest of the training pictures, `manifest`, one of all of them, the
    `counts` of files by what became of them, and `root`, where they lie.
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
    """The order of training, unless each picture may come at any place."""

    def __init__(self, settings: ServingSettings) -> None:
        super().__init__()
        self.settings = settings
        self.batch_size = settings.batch_size
        self.cache_dir = chosen_folder(settings.cache_dir)

    @abstractmethod
    def setup(self, stage: str | None = None) -> None:
        """Open the pictures; does nothing the second time."""

    @cached_property
    def vocabulary(self) -> list[str]:
        """The words of the training pictures' captions, the most frequent first; empty without captions."""
        return vocabulary(self.train_set.captions or [])

    @property
    def is_resident(self) -> bool:
        """Whether all pictures lie in the accelerator's memory."""
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
        """The ranks that share the batches."""
        return Ranks() if self.trainer is None else Ranks(self.trainer.global_rank, self.trainer.world_size)

    @property
    def own_batch_size(self) -> int:
        """Pictures of a batch on this rank."""
        return self.batch_size // self.ranks.world

    def check_ranks(self, ranks: Ranks) -> None:
        """Raise `UserError` unless batches can be shared by these ranks; says how they are."""
        world = ranks.world
        if self.batch_size % world:
            raise UserError(
                f"data.batch_size is that of all {world} devices together and must be a multiple of {world}, got "
                f"{self.batch_size}; set data.batch_size={self.batch_size + -self.batch_size % world}"
            )
        if len(self.val_set) < world:
            raise UserError(f"{len(self.val_set)} held-out pictures are too few for {world} devices: use fewer")
        if world > 1:
            log.info("a batch: %s pictures, %s on each of %s devices", self.batch_size, self.batch_size // world, world)
        if 0 < len(self.train_set) % self.batch_size < world:
            log.info("the last batch of an epoch has fewer pictures than devices: those without one repeat another's, "
                     "which does not count")  # fmt: skip

    def transfer_batch_to_device(self, batch: Wire, device: torch.device, dataloader_idx: int) -> Wire:
        index, batch = batch.index, batch._replace(index=None)  # stays on the CPU: looking it up must not wait
        view = None if index is None or self.unchanging is None else self._view(index, batch.chance)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)._replace(index=view)

    def on_after_batch_transfer(self, batch: Wire, dataloader_idx: int) -> Batch:
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
        """The pictures that a batch's `index` counts, if their pixels are kept and no crop changes them.

        With flips, a picture and its mirror image follow each other.
        """
        if self.settings.random_crop or self.settings.train_crop is not None:
            return None
        return self._contents(mirrored=bool(self.settings.flip))

    @abstractmethod
    def _contents(self, *, mirrored: bool) -> Contents | None:
        """A key for the pixels of each picture, followed by one for its mirror image; None if pixels are not kept."""

    def _view(self, index: Tensor, chance: Tensor | None) -> Tensor:
        """The places in `unchanging` of pictures of the data set, int64 (B,), flipped as `chance` (B,4) says."""
        if not self.settings.flip:
            return index
        flipped = torch.zeros_like(index) if chance is None else (chance[:, 0] < self.settings.flip).long()
        return 2 * index + flipped

    def trained(self, count: int) -> Tensor:
        """At most `count` training pictures, as `preview`."""
        return self._signed(self.train_set.spread(count))

    def preview(self, count: int) -> Tensor:
        """At most `count` validation pictures, spread evenly over the list: signed (B,3,H,W), the same every time."""
        return self._signed(self.val_set.spread(count))

    def trained_like_validated(self, count: int) -> Batch:
        """A training picture for each of the first `count` validation pictures, its image uint8 (N,3,H,W).

        It has the same label, or any if no training picture has it. Those of a label are spread evenly over the list,
        repeat if there are too few, and are the same every time. Pictures that cannot be read any more are left out.
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
        """Statistics of the channels of the training pictures with these labels (of all if none); each counts alike."""
        samples = [sample for label in labels if len(sample := self.train_set.spread(64, label=label))]
        found = [images.colours(self._signed(sample)) for sample in samples or [self.train_set.spread(64)]]
        return images.Colours(*(torch.stack(part).mean(dim=0) for part in zip(*found, strict=True)))

    def _signed(self, image: Tensor) -> Tensor:
        return images.to_signed(augment.crop(image, self.settings.image_size, None))

    @abstractmethod
    def look_alikes(self) -> list[int]:
        """A number for each training picture, the same for those that look alike."""

    @abstractmethod
    def listings(self) -> dict[str, bytes]:
        """By name, the tables of rejected files and of copies and near-duplicates."""

    def columns(self) -> dict[str, list[str | None]]:
        """By column of the metadata, its value for each training picture; empty where none comes with the pictures."""
        return {}

    def files(self) -> list[str] | None:
        """The file of each training picture; None where they are not known."""
        return None

    def card(self) -> str | None:
        """What is in the folder and what is not known about it, in Markdown; None where the files are not known."""
        return None

    def facts(self) -> dict[str, object]:
        """The data in the run's metadata."""
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
            log.warning("%s: the order of pictures and the epoch begin anew", changed)

    def _order_of(self) -> dict[str, object]:
        """Everything that the order of training depends on."""
        return {"trained_on": self.trained_on, "batch_size": self.batch_size, "seed": self.settings.seed}

    @property
    def batches_in_epoch(self) -> int:
        """Training batches in a whole epoch."""
        return math.ceil(len(self.train_set) / self.batch_size)

    def _options(self) -> dict[str, Any]:
        """Arguments of both loaders."""
        return options(0 if self.is_resident else self._workers(), self._device())

    def _workers(self) -> int:
        """How many processes load batches; 0 where that is too fast for processes to pay."""
        return 0

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
