"""Serves a folder of art to Lightning: uint8 batches straight from the decoded map, float on the accelerator."""

import hashlib
import logging
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning.pytorch as L
import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from artdiff import UserError, images
from artdiff.cache import chosen_folder
from artdiff.data import augment
from artdiff.data.loader import FromFiles, FromMap, Source
from artdiff.data.sampler import ResumableLoader, ShuffledOrder, Turn, chance
from artdiff.ingest import sample_art
from artdiff.ingest.decode import Fit, Transform
from artdiff.ingest.index import Catalogue, Picture, reasons, take_stock
from artdiff.ingest.pool import Limits, cores
from artdiff.ingest.scan import shown, some, write_rows
from artdiff.losses.features import Unchanging

log = logging.getLogger(__name__)

NO_LABEL = -1
"""The label of a picture that lies in no class folder."""


class Batch(NamedTuple):
    """What a task gets. On the accelerator: signed pictures float32 (B,3,H,W) and class numbers int64 (B,). On the CPU:
    where each picture stands among those that do not change, int64 (B,), if they do not.
    """

    image: Tensor
    label: Tensor
    row: Tensor | None = None


class Wire(NamedTuple):
    """What a loader hands out: `image` uint8 (B,3,H,W), or none where the set lies on the accelerator; `row` int64 (B,)
    in the whole set; `label` int64 (B,); `chance` float32 (B,4) in [0,1) for what is trained on; files that are `gone`
    since the start.
    """

    image: Tensor | None
    row: Tensor | None
    label: Tensor
    chance: Tensor | None
    gone: list[str]


class Pictures(Dataset):
    """Some rows of a source of pixels, a whole batch at a time.

    With `rows_only` a batch has rows instead of pixels; with a `seed` it has the numbers that chance is made of.
    """

    def __init__(self, source: Source, rows: np.ndarray, labels: np.ndarray, *, seed: int | None) -> None:
        self.source = source
        self.rows = rows
        self.labels = torch.from_numpy(labels)
        self.seed = seed
        self.rows_only = False

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, turns: list[Turn] | list[int]) -> Wire:
        indices = [turn.picture if isinstance(turn, Turn) else turn for turn in turns]
        numbers = None
        if self.seed is not None and isinstance(turns[0], Turn):
            numbers = torch.from_numpy(chance(self.seed, turns))
        rows, labels = torch.from_numpy(self.rows[indices]), self.labels[indices]
        if self.rows_only:
            return Wire(None, rows, labels, numbers, [])
        pixels, places, gone = self.source.read(self.rows[indices])
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return Wire(image, rows[places], labels[places], None if numbers is None else numbers[places], gone)


class ArtDataModule(L.LightningDataModule):
    """A folder of pictures, each decoded once, split for training and validation by content.

    Args:
        root: the folder, laid out as `artdiff.data.layout` says; None paints and uses the built-in sample art.
        image_size: side in pixels of the square that every picture becomes, a multiple of 8.
        fit: how it becomes a square: squashed, cropped to its middle, or padded with the background.
        background: a colour (a name or #rrggbb) to show through what is transparent, and to pad with.
        batch_size: pictures in a batch; the last of an epoch may be smaller.
        val_fraction: expected share of the pictures held out, unless folders for training and validation say which.
            A picture's side depends on its content alone, and two copies never part. Other files move it only if it
            looks like them (all go with the largest), or if there are so few that none falls into the share.
        min_side: pictures with a shorter side in pixels are set aside.
        exclude: a file with a path or a SHA-256 a line: pictures to leave out, with their copies.
        flip: share of the pictures that are mirrored, when they are trained on.
        random_crop: pictures are kept so many pixels larger, and trained on through a window at a random place; the
            middle is validated.
        seed: of the order of training, and of flips and windows.
        cache: whether decoded pictures are kept; else every one is decoded each time.
        cache_dir: where they are kept; None is the user's cache folder.
        resident: whether they all lie in the accelerator's memory; auto where it is a GPU with twice the room.
        num_workers: processes that load batches; None is none with the cache and one a core without.
        limits: `seconds` and `gigabytes` that decoding one file may take.

    `setup` raises `UserError` where the folder cannot be used.
    """

    train_set: Pictures
    val_set: Pictures
    classes: list[str]
    train_loader: ResumableLoader
    carried_on_at: dict[str, int] | None = None
    resident_pixels: Tensor | None = None

    def __init__(
        self,
        *,
        root: str | None,
        image_size: int,
        fit: Fit,
        background: str,
        batch_size: int,
        val_fraction: float,
        min_side: int,
        exclude: str | None,
        flip: float,
        random_crop: int,
        seed: int,
        cache: bool,
        cache_dir: str | None,
        resident: bool | Literal["auto"],
        num_workers: int | None,
        limits: dict[str, float],
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.root = None if root is None else Path(root).expanduser()
        self.image_size = image_size
        self.transform = Transform(image_size + random_crop, fit, ImageColor.getrgb(background)[:3])
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.min_side = min_side
        self.exclude = None if exclude is None else Path(exclude).expanduser()
        self.flip = flip
        self.seed = seed
        self.keeps_decoded = cache
        self.cache_dir = chosen_folder(cache_dir)
        self.resident = resident
        self.num_workers = num_workers if num_workers is not None else 0 if cache else cores()
        self.limits = Limits(**limits)

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "train_set"):
            return
        root, catalogue = self.take_stock()
        splits = {
            name: [one for one in catalogue.used if one.split == name] for name in ("train", "validation", "test")
        }
        if not (splits["train"] and splits["validation"]):
            raise UserError(catalogue.lack(root))
        self.classes = catalogue.classes
        source: Source
        if catalogue.pixels is not None:
            source = FromMap(catalogue.pixels)
        else:
            files = {one.row: (root / one.path, bytes.fromhex(one.digest)) for one in catalogue.used}
            source = FromFiles(files, self.transform)
        number = {name: index for index, name in enumerate(self.classes)}
        self.train_set, self.val_set = (
            Pictures(
                source,
                np.array([one.row for one in splits[name]]),
                np.array([NO_LABEL if one.label is None else number[one.label] for one in splits[name]]),
                seed=self.seed if name == "train" else None,
            )
            for name in ("train", "validation")
        )
        self.trained_on = hashlib.sha256("".join(one.digest for one in splits["train"]).encode()).hexdigest()
        self.manifest = catalogue.digest()
        self.set_aside = catalogue.set_aside
        self.duplicates = _duplicates(catalogue)
        self.counts = {name: len(pictures) for name, pictures in splits.items()}
        self.counts |= {"copies": len(catalogue.copies), "set_aside": len(self.set_aside)}
        log.info(
            "data: %s files in %s: %s pictures for training, %s for validation%s%s, %s set aside%s",
            f"{sum(self.counts.values()):,}",
            root,
            f"{self.counts['train']:,}",
            f"{self.counts['validation']:,}",
            f", {self.counts['test']:,} for test (not used)" if self.counts["test"] else "",
            f", {self.counts['copies']:,} copies" if self.counts["copies"] else "",
            f"{self.counts['set_aside']:,}",
            f" ({reasons(self.set_aside)})" if self.set_aside else "",
        )
        alike = len(self.duplicates) - self.counts["copies"]
        if alike:
            log.info("data: %s pictures look like another, and are on the same side as it", f"{alike:,}")
        classes = f"classes {some([shown(name) for name in self.classes], most=8)}" if self.classes else "no classes"
        log.info("data: %s; %d px", classes, self.image_size)

    def take_stock(self) -> tuple[Path, Catalogue]:
        """Look at every file of the folder, decoding what is new → the folder, and all that it holds."""
        if self.root is None:
            self.root = sample_art.folder(self.cache_dir)
            log.warning("data.root is not set: using artdiff's built-in sample art (%s)", self.root)
        return self.root, take_stock(
            self.root,
            transform=self.transform,
            limits=self.limits,
            min_side=self.min_side,
            exclude=self.exclude,
            val_fraction=self.val_fraction,
            cache_dir=self.cache_dir,
            keep_pixels=self.keeps_decoded,
        )

    def train_dataloader(self) -> DataLoader:
        self.train_set.rows_only = self.is_resident
        order = ShuffledOrder(len(self.train_set), self.seed)
        self.train_loader = ResumableLoader(self.train_set, self.batch_size, sampler=order, **self._loading())
        if self.carried_on_at is not None:
            self.train_loader.go_to(self.carried_on_at)
        return self.train_loader

    def val_dataloader(self) -> DataLoader:
        self.val_set.rows_only = self.is_resident
        return DataLoader(self.val_set, self.batch_size, **self._loading())

    def transfer_batch_to_device(self, batch: Wire, device: torch.device, dataloader_idx: int) -> Wire:
        row, batch = batch.row, batch._replace(row=None)  # it stays: looking it up must not wait for the device
        if batch.image is None:
            if self.resident_pixels is None:
                self.resident_pixels = self._upload(device)
            assert row is not None
            pixels = self.resident_pixels[row.to(device, non_blocking=True)]
            batch = batch._replace(image=pixels.permute(0, 3, 1, 2))
        return super().transfer_batch_to_device(batch, device, dataloader_idx)._replace(row=row)

    def on_after_batch_transfer(self, batch: Wire, dataloader_idx: int) -> Batch:
        image, row, label, numbers, gone = batch
        assert image is not None
        for file in gone:
            log.warning("left out of a batch, it cannot be read any more: %s", file)
        if not len(image):
            raise UserError(f"no picture of a batch can be read any more: {gone[0]}")
        image = augment.window(image, self.image_size, None if numbers is None else numbers[:, 1:3])
        if self.flip and numbers is not None:
            image = augment.flip(image, self.flip, numbers[:, 0])
        return Batch(images.to_signed(image), label, row if self.unchanging is not None else None)

    @cached_property
    def unchanging(self) -> Unchanging | None:
        """All pictures of the set in the order of their rows, unless they are changed for training or not kept."""
        source = self.train_set.source
        if not isinstance(source, FromMap) or self.flip or self.transform.size != self.image_size:
            return None
        return Unchanging(source.path.stem, len(source.pixels), self.cache_dir / "features")

    def preview(self, count: int) -> Tensor:
        """At most `count` validation pictures, spread evenly over the list: signed (B,3,H,W), the same every time."""
        return self._some(self.val_set, self.val_set.rows, count)

    def colours(self, labels: list[int]) -> images.Colours:
        """What is in the channels of the training pictures with these labels, each label counting alike."""
        rows = [self.train_set.rows[self.train_set.labels.numpy() == label] for label in labels]
        found = [images.colours(self._some(self.train_set, some, 64)) for some in rows if len(some)]
        return images.Colours(*(torch.stack(part).mean(dim=0) for part in zip(*found, strict=True)))

    def _some(self, pictures: Pictures, rows: np.ndarray, count: int) -> Tensor:
        picked = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
        pixels, _, gone = pictures.source.read(rows[picked])
        if not len(pixels):
            raise UserError(f"no picture can be read any more: {gone[0]}")
        return images.to_signed(augment.window(torch.from_numpy(pixels).permute(0, 3, 1, 2), self.image_size, None))

    def write_listings(self, set_aside: Path, duplicates: Path) -> None:
        """Write the files that are set aside, with the reasons, and those that are copies of or look like another."""
        write_rows(set_aside, ("file", "reason"), self.set_aside)
        write_rows(duplicates, ("file", "copy_of", "looks_like", "split"), self.duplicates)

    def facts(self) -> dict[str, object]:
        """What a run's description says of the data."""
        files = sum(self.counts.values())
        return {"data": {"root": str(self.root), "files": files, **self.counts, "manifest": self.manifest}}

    def state_dict(self) -> dict[str, object]:
        order = {"order_of": self._order_of(), "order": self.train_loader.position()}
        return {"classes": self.classes, "manifest": self.manifest, **order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["order_of"] == self._order_of():
            self.carried_on_at = state["order"]
        else:
            log.warning("the pictures, the batch size or the seed are not the checkpoint's: their order begins anew")

    def _order_of(self) -> dict[str, object]:
        """All that the order of training depends on."""
        return {"trained_on": self.trained_on, "batch_size": self.batch_size, "seed": self.seed}

    def _loading(self) -> dict[str, Any]:
        """How both loaders load."""
        workers = 0 if self.is_resident else self.num_workers
        return {
            "collate_fn": _as_is,
            "num_workers": workers,
            "worker_init_fn": _alone if workers else None,
            "persistent_workers": workers > 0,
            "pin_memory": self._device().type == "cuda",
        }

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")

    @cached_property
    def is_resident(self) -> bool:
        """Whether the whole set lies on the accelerator: decided once, before it does."""
        source, device = self.train_set.source, self._device()
        if not isinstance(source, FromMap):
            return False
        if self.resident != "auto":
            return self.resident
        return device.type == "cuda" and 2 * source.pixels.nbytes < torch.cuda.mem_get_info(device)[0]

    def _upload(self, device: torch.device) -> Tensor:
        """The whole map, uint8 (N,size,size,3), on `device`."""
        assert isinstance(self.train_set.source, FromMap)
        pixels = self.train_set.source.pixels
        resident = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(pixels), 1024):
            resident[start : start + 1024] = torch.from_numpy(np.array(pixels[start : start + 1024]))
        log.info("the whole set lies in the memory of %s: %.2f GB", device, pixels.nbytes / 1e9)
        return resident


def _duplicates(catalogue: Catalogue) -> list[tuple[str, str, str, str]]:
    """(file, the one that it is a copy of, the one that it looks like, split), by file."""
    alike = [one for one in catalogue.used if one.looks_like not in (None, one.path)]
    both: list[Picture] = sorted([*catalogue.copies, *alike])
    return [(one.path, one.copy_of or "", one.looks_like or "", one.split) for one in both]


def _as_is(batch: Any) -> Any:
    """`Pictures` already gives whole batches."""
    return batch


def _alone(worker: int) -> None:
    """Each process that loads batches computes on one core."""
    torch.set_num_threads(1)
