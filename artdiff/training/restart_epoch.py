"""Restart the epoch of a run that is resumed with other pictures or another batch size."""

from typing import Any

import lightning.pytorch as L

from artdiff.data.base import PictureDataModule


class RestartEpoch(L.Callback):
    """Restarts the epoch if the order of pictures has changed; Lightning would count the batches already taken.

    An epoch that had ended stays ended.
    """

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        data: PictureDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if data.resumed_at is not None:
            return
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        current, total = progress["current"], progress["total"]
        wanted = data.batches_in_epoch if progress["is_last_batch"] else 0
        for name in current:  # keep the offset of each counter from `ready`
            current[name] = wanted + total[name] - total["ready"]
