"""Write checkpoints through a temporary file in their own folder, never in the system's temporary folder."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from artdiff.files import make_folder, writing


class CheckpointWriter(TorchCheckpointIO):
    """Replaces a checkpoint after the new one is on the disk. A killed run or a full disk leaves the old one.

    Lightning's own writer writes to `TMPDIR` and copies from there. It still handles addresses such as `s3://…`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        make_folder(Path(path).parent, name="the folder for checkpoints")
        with writing(Path(path)) as stream:
            torch.save(checkpoint, stream)
