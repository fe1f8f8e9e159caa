"""Serves a folder of art to Lightning: uint8 batches straight from the decoded map, float on the accelerator."""

import hashlib
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from artdiff import UserError, images
from artdiff.data import cache, sample_art
from artdiff.data.folder import scan, write_set_aside
from artdiff.data.sampler import ResumableLoader, ShuffledOrder

log = logging.getLogger(__name__)

NO_LABEL = -1
"""The label of a picture that lies in the root itself, in no class folder."""

Batch = tuple[Tensor, Tensor]
"""(pictures (B,3,H,W), class numbers int64 (B,)); pictures are uint8 on the wire, signed float32 on the accelerator."""


class Pictures(Dataset):
    """Some rows of the decoded map, a whole batch at a time."""

    def __init__(self, pixels: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> None:
        self.pixels = pixels
        self.rows = rows
        self.labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> Batch:
        """uint8 (B,3,H,W), laid out channels last, with the class numbers."""
        pixels = torch.from_numpy(self.pixels[self.rows[indices]])  # (B,H,W,3)
        return pixels.permute(0, 3, 1, 2), self.labels[indices]

    def __getitem__(self, index: int) -> Batch:
        image, label = self.__getitems__([index])
        return image[0], label[0]


class ArtDataModule(L.LightningDataModule):
    """A folder of pictures, each decoded once, split for training and validation by content.

    Args:
        root: the folder, with class subfolders or flat; None paints and uses the built-in sample art.
        image_size: side in pixels to which every picture is squashed, a multiple of 8.
        batch_size: pictures in a batch; the last of an epoch may be smaller.
        val_fraction: expected share of the pictures held out. A picture's side depends on its bytes alone, so other
            files never move it and two copies never part.
        seed: of the order of training.
        cache_dir: where decoded pictures are kept; None is the user's cache folder.

    `setup` raises `UserError` where the folder cannot be used.
    """

    train_set: Pictures
    val_set: Pictures
    classes: list[str]
    set_aside: list[tuple[str, str]]
    digest: str
    train_loader: ResumableLoader
    carried_on_at: dict[str, int] | None = None

    def __init__(
        self,
        *,
        root: str | None,
        image_size: int,
        batch_size: int,
        val_fraction: float,
        seed: int,
        cache_dir: str | None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.root = None if root is None else Path(root).expanduser()
        self.cache_dir = cache.default_folder() if cache_dir is None else Path(cache_dir).expanduser()
        self.image_size = image_size
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "train_set"):
            return
        if self.root is None:
            self.root = sample_art.folder(self.cache_dir)
            log.warning("data.root is not set: using artdiff's built-in sample art (%s)", self.root)
        files = scan(self.root)
        pixels, outcomes = cache.decode(self.root, files, self.image_size, self.cache_dir)

        self.set_aside = [(file.path, out.reason) for file, out in zip(files, outcomes, strict=True) if out.reason]
        kept = [(row, files[row].label, out.digest) for row, out in enumerate(outcomes) if out.digest]
        if len(kept) < 2:
            raise UserError(
                f"data.root={self.root} holds {len(kept)} readable pictures in {len(files)} files, expected at least 2"
                + (f"; the first was set aside as: {self.set_aside[0][1]}" if self.set_aside else "")
            )
        self.classes = sorted({label for _, label, _ in kept if label is not None})
        number = {name: index for index, name in enumerate(self.classes)}
        rows = np.array([row for row, _, _ in kept])
        labels = np.array([NO_LABEL if label is None else number[label] for _, label, _ in kept])
        digests = [digest for _, _, digest in kept]
        held_out = _held_out(digests, self.val_fraction)
        self.train_set = Pictures(pixels, rows[~held_out], labels[~held_out])
        self.val_set = Pictures(pixels, rows[held_out], labels[held_out])
        self.digest = hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
        log.info(
            "data: %s pictures for training, %s for validation, %s set aside; %s; %d px, from %s",
            f"{len(self.train_set):,}",
            f"{len(self.val_set):,}",
            self._reasons() if self.set_aside else "none",
            f"classes {', '.join(self.classes)}" if self.classes else "no classes",
            self.image_size,
            self.root,
        )

    def train_dataloader(self) -> DataLoader:
        order = ShuffledOrder(len(self.train_set), self.seed)
        self.train_loader = ResumableLoader(self.train_set, self.batch_size, sampler=order, collate_fn=_as_is)
        if self.carried_on_at is not None:
            self.train_loader.go_to(self.carried_on_at)
        return self.train_loader

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, self.batch_size, collate_fn=_as_is)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        image, label = batch
        return images.to_signed(image), label

    def preview(self, count: int) -> Tensor:
        """At most `count` validation pictures, spread evenly over the list: signed (B,3,H,W), the same every time."""
        count = min(count, len(self.val_set))
        picked = np.linspace(0, len(self.val_set) - 1, count).round().astype(int)
        return images.to_signed(self.val_set.__getitems__(picked.tolist())[0])

    def write_set_aside(self, path: Path) -> None:
        """Write the files that were set aside, each with its reason, as tab-separated lines."""
        write_set_aside(path, self.set_aside)

    def facts(self) -> dict[str, object]:
        """What a run's description says of the data."""
        counts = {
            "train": len(self.train_set),
            "validation": len(self.val_set),
            "set_aside": len(self.set_aside),
        }
        return {"data": {"root": str(self.root), **counts, "digest": self.digest}}

    def state_dict(self) -> dict[str, object]:
        return {"classes": self.classes, "order_of": self._order_of(), "order": self.train_loader.position()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["order_of"] == self._order_of():
            self.carried_on_at = state["order"]
        else:
            log.warning("the pictures, the batch size or the seed are not the checkpoint's: their order begins anew")

    def _order_of(self) -> dict[str, object]:
        """All that the order of training depends on."""
        return {"digest": self.digest, "batch_size": self.batch_size, "seed": self.seed}

    def _reasons(self) -> str:
        counts = Counter(reason.partition(":")[0] for _, reason in self.set_aside)
        return f"{len(self.set_aside):,} ({', '.join(f'{count} {reason}' for reason, count in counts.most_common())})"


def _held_out(digests: list[str], fraction: float) -> np.ndarray:
    """bool (N,): True where a picture is for validation; at least one content on either side."""
    place = np.array([int(digest[:8], 16) / 2**32 for digest in digests])  # uniform in [0,1)
    if place.min() == place.max():
        raise UserError("all readable pictures have the same content, expected at least 2 different ones")
    return (place < fraction) & (place < place.max()) | (place == place.min())


def _as_is(batch: Any) -> Any:
    """`Pictures` already gives whole batches."""
    return batch
