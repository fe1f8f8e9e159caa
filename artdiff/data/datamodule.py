"""Serves pictures to Lightning: uint8 batches from the store of decoded pixels, signed floats on the accelerator."""

import hashlib
import logging
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from hydra.utils import instantiate
from PIL import ImageColor
from torch import Tensor
from torch.utils.data import DataLoader

from artdiff import UserError, images
from artdiff.cache import chosen_folder
from artdiff.data import augment
from artdiff.data.loader import Batch, Pictures, ResumableLoader, ShuffledOrder, Wire, differences, options
from artdiff.data.pixels import FromStore, contents_of, fits_on, pixels_of, uploaded
from artdiff.files import user_path
from artdiff.ingest import sample_art
from artdiff.ingest.decode import Transform
from artdiff.ingest.index import Index, build_index
from artdiff.ingest.pool import cores
from artdiff.ingest.source import Folder, Source
from artdiff.ranks import Ranks
from artdiff.settings import DataSettings
from artdiff.store import Contents

log = logging.getLogger(__name__)


class ArtDataModule(L.LightningDataModule):
    """The pictures of a source, decoded once, and split for training and validation by content.

    The arguments are the fields of `artdiff.settings.DataSettings`; `conf/data/folder.yaml` explains them. `setup`
    raises `UserError` if the pictures cannot be used.
    """

    train_set: Pictures
    val_set: Pictures
    train_loader: ResumableLoader
    resumed_at: dict[str, int] | None = None
    resident: Tensor | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.settings = DataSettings.of(settings)
        self.batch_size = self.settings.batch_size
        self.cache_dir = chosen_folder(self.settings.cache_dir)
        background = ImageColor.getrgb(self.settings.background)[:3]
        side = self.settings.image_size + self.settings.random_crop
        self.transform = Transform(side, self.settings.fit, background)

    @cached_property
    def source(self) -> Source:
        """Where the pictures come from: a class of the user's, a folder, or the built-in sample art."""
        if self.settings.source is not None:
            return instantiate(self.settings.source, _convert_="all")
        if self.settings.root is not None:
            return Folder(user_path(self.settings.root))
        root = sample_art.folder(self.cache_dir)
        log.warning("data.root is not set: using artdiff's built-in sample art (%s)", root)
        return Folder(root)

    def build_index(self) -> Index:
        """Look at every file of the source, and decode what is new."""
        exclude = self.settings.exclude
        return build_index(
            self.source,
            transform=self.transform,
            limits=self.settings.limits,
            min_side=self.settings.min_side,
            exclude=None if exclude is None else user_path(exclude),
            val_fraction=self.settings.val_fraction,
            cache_dir=self.cache_dir,
            keep_pixels=self.settings.cache,
        )

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "train_set"):
            return
        self.index = index = self.build_index()
        problem = index.problem(self.source.root)
        if problem is not None:
            raise UserError(problem)
        self.classes = index.classes
        pixels = pixels_of(index, self.source.root, self.transform)
        self.train_set = Pictures.of(index, "train", pixels, seed=self.settings.seed)
        self.val_set = Pictures.of(index, "validation", pixels)
        self.trained_on = hashlib.sha256("".join(one.digest for one in index.on("train")).encode()).hexdigest()
        self.manifest = index.digest()
        for line in index.summary(self.source.root, f"{self.settings.image_size} px"):
            log.info("data: %s", line)

    def train_dataloader(self) -> DataLoader:
        self.train_set.indices_only = self.is_resident
        order = ShuffledOrder(len(self.train_set), self.settings.seed, self.batch_size, self.ranks)
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
        if batch.image is None:
            if self.resident is None:
                assert isinstance(self.train_set.source, FromStore)
                self.resident = uploaded(self.train_set.source, device)
            assert index is not None
            pixels = self.resident[index.to(device, non_blocking=True)]
            batch = batch._replace(image=pixels.permute(0, 3, 1, 2))
        return super().transfer_batch_to_device(batch, device, dataloader_idx)._replace(index=view)

    def on_after_batch_transfer(self, batch: Wire, dataloader_idx: int) -> Batch:
        image, index, label, numbers, gone, share = batch
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
        return Batch(images.to_signed(image), label, index, share)

    @cached_property
    def unchanging(self) -> Contents | None:
        """The pictures that a batch's `index` counts, if their pixels are kept and no crop changes them.

        With flips, a picture and its mirror image follow each other.
        """
        settings = self.settings
        if not isinstance(self.train_set.source, FromStore) or settings.random_crop or settings.train_crop is not None:
            return None
        return contents_of(self.index, self.transform, self.cache_dir, mirrored=bool(settings.flip))

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

    def trained_like_validated(self, count: int) -> tuple[Tensor, Tensor]:
        """A training picture for each of the first `count` validation pictures: uint8 (N,3,H,W), and labels int64 (N,).

        It has the same label, or any if no training picture has it. Those of a label are spread evenly over the list,
        repeat if there are too few, and are the same every time. Pictures that cannot be read any more are left out.
        """
        wanted, labels = self.val_set.labels[:count].numpy(), self.train_set.labels.numpy()
        places = np.empty(len(wanted), dtype=np.int64)
        for label in np.unique(wanted):
            those = np.flatnonzero(wanted == label)
            among = np.flatnonzero(labels == label) if label in labels else np.arange(len(labels))
            places[those] = among[(2 * np.arange(len(those)) + 1) * len(among) // (2 * len(those))]
        pixels, found, _ = self.train_set.source.read(self.train_set.indices[places])
        image = augment.crop(torch.from_numpy(pixels).permute(0, 3, 1, 2), self.settings.image_size, None)
        return image, torch.from_numpy(labels[places[found]])

    def colours(self, labels: list[int]) -> images.Colours:
        """Statistics of the channels of the training pictures with these labels (of all if none); each counts alike."""
        samples = [sample for label in labels if len(sample := self.train_set.spread(64, label=label))]
        found = [images.colours(self._signed(sample)) for sample in samples or [self.train_set.spread(64)]]
        return images.Colours(*(torch.stack(part).mean(dim=0) for part in zip(*found, strict=True)))

    def _signed(self, image: Tensor) -> Tensor:
        return images.to_signed(augment.crop(image, self.settings.image_size, None))

    def write_listings(self, rejected: Path, duplicates: Path) -> None:
        """Write the rejected files with the reasons, and the files that are copies or near-duplicates of another."""
        self.index.write_rejected(rejected)
        self.index.write_duplicates(duplicates)

    def facts(self) -> dict[str, object]:
        """The data in the run's metadata."""
        files = {"files": sum(self.index.counts.values()), **self.index.counts}
        return {"data": {"root": str(self.source.root), **files, "manifest": self.manifest}}

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
        """Arguments of both loaders. With the cache, loading is too fast for processes to pay."""
        chosen, usual = self.settings.num_workers, 0 if self.settings.cache else cores()
        workers = usual if chosen is None else chosen
        return options(0 if self.is_resident else workers, self._device())

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")

    @cached_property
    def is_resident(self) -> bool:
        """Whether the whole set is in the accelerator's memory: decided once, before it is uploaded."""
        if not isinstance(self.train_set.source, FromStore):
            return False
        if self.settings.resident != "auto":
            return bool(self.settings.resident)
        return fits_on(self._device(), self.train_set.source)
