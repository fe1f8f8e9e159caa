"""The Lightning data module of a folder of pictures, which are decoded once."""

import hashlib
import logging
from functools import cached_property
from typing import Any

import torch
from hydra.utils import instantiate
from PIL import ImageColor
from torch import Tensor

from artdiff import UserError
from artdiff.data.base import PictureDataModule
from artdiff.data.loader import Pictures, RawBatch
from artdiff.data.pixels import FromStore, contents_of, fits_on, pixels_of, uploaded
from artdiff.files import user_path
from artdiff.ingest import card, sample_art
from artdiff.ingest.captions import caption, summary
from artdiff.ingest.decode import Transform
from artdiff.ingest.index import Index, build_index
from artdiff.ingest.picture import groups_of
from artdiff.ingest.pool import cores
from artdiff.ingest.source import Folder, Source
from artdiff.settings.data import DataSettings
from artdiff.store import Contents

log = logging.getLogger(__name__)


class ArtDataModule(PictureDataModule):
    """The pictures of a source, decoded once and split into training and validation by their content.

    The arguments are the fields of `artdiff.settings.DataSettings`; `conf/data/folder.yaml` explains them. `setup`
    raises `UserError` if the pictures cannot be used.
    """

    settings: DataSettings
    resident: Tensor | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(DataSettings.of(settings))
        self.save_hyperparameters(logger=False)
        background = ImageColor.getrgb(self.settings.background)[:3]
        side = self.settings.image_size + self.settings.random_crop
        self.transform = Transform(side, self.settings.fit, background)

    @cached_property
    def source(self) -> Source:
        """Where the pictures come from: a user-defined source, a folder, or the built-in sample art."""
        if self.settings.source is not None:
            return instantiate(self.settings.source, _convert_="all")
        if self.settings.root is not None:
            beside = self.settings.captions in ("auto", "sidecar")
            return Folder(user_path(self.settings.root), captions_beside=beside)
        root = sample_art.folder(self.cache_dir, captions=self.settings.captions != "none")
        log.warning("data.root is not set: using artdiff's built-in sample art (%s)", root)
        return Folder(root)

    def build_index(self) -> Index:
        """Index every file of the source; decode the new ones."""
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
        how = self.settings.captions
        self.train_set = Pictures.of(index, "train", pixels, seed=self.settings.seed, captions=how)
        self.val_set = Pictures.of(index, "validation", pixels, captions=how)
        self._say_captions()
        self.trained_on = hashlib.sha256("".join(one.digest for one in index.on("train")).encode()).hexdigest()
        self.manifest, self.counts, self.root = index.digest(), index.counts, str(self.source.root)
        for line in index.summary(self.source.root, f"{self.settings.image_size} px"):
            log.info("data: %s", line)

    def _say_captions(self) -> None:
        """Log a summary of the captions. Raises `UserError` if `data.captions` is set and there are none."""
        captions = self.train_set.captions
        if captions is None:
            if any(caption(one, "metadata") for one in self.index.on("train")):
                log.info("captions: not used, but the metadata has some: data.captions=auto trains on them")
            return
        if not self.vocabulary:
            raise UserError(
                f"data.captions={self.settings.captions} finds none in {self.source.root}: expected a column text in "
                f"metadata.csv, a file NAME.txt beside each picture, or words in the names (data.captions=filename)"
            )
        log.info("captions: %s", " ".join(summary(captions)))

    def _contents(self, *, mirrored: bool) -> Contents | None:
        if not isinstance(self.train_set.source, FromStore):
            return None
        return contents_of(self.index, self.transform, self.cache_dir, mirrored=mirrored)

    def near_duplicate_groups(self) -> list[int]:
        return groups_of(self.index.on("train"))

    def columns(self) -> dict[str, list[str | None]]:
        pictures = self.index.on("train")
        names = sorted({name for one in pictures for name in one.columns})
        return {name: [one.columns.get(name) for one in pictures] for name in names}

    def files(self) -> list[str]:
        return [one.path for one in self.index.on("train")]

    def card(self) -> str:
        return card.report(self.index, self.source.root.absolute().name)

    def listings(self) -> dict[str, bytes]:
        return self.index.listings()

    def _workers(self) -> int:
        chosen, usual = self.settings.num_workers, 0 if self.settings.cache else cores()
        return usual if chosen is None else chosen

    @cached_property
    def is_resident(self) -> bool:
        """Whether the whole data set is kept in the accelerator's memory; decided once, before the upload."""
        if not isinstance(self.train_set.source, FromStore):
            return False
        if self.settings.resident != "auto":
            return bool(self.settings.resident)
        return fits_on(self._device(), self.train_set.source)

    def transfer_batch_to_device(self, batch: RawBatch, device: torch.device, dataloader_idx: int) -> RawBatch:
        if batch.image is None:
            assert batch.index is not None
            batch = batch._replace(image=self._resident(batch.index, device))
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _resident(self, index: Tensor, device: torch.device) -> Tensor:
        """Pictures from the accelerator's memory, uint8 (B,3,H,W); the first call uploads the data set."""
        if self.resident is None:
            assert isinstance(self.train_set.source, FromStore)
            self.resident = uploaded(self.train_set.source, device)
        return self.resident[index.to(device, non_blocking=True)].permute(0, 3, 1, 2)
