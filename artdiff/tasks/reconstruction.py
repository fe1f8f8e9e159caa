"""The article's task: copy a picture."""

from typing import Any, Literal

import torch
from torch import Tensor

from artdiff import UserError, images
from artdiff.data.datamodule import Batch
from artdiff.evaluation.metrics import ReconstructionScores
from artdiff.losses import HybridLoss, Terms
from artdiff.tasks.task import Task, normalised


class Reconstruction(Task):
    """Copy a picture through a bottleneck, under the hybrid loss.

    `ranges` says what the network's sigmoid output in [0,1] means. `published`: it is compared as it is with the
    ImageNet-normalised target (about -2.1 to 2.6), which it can never match, and is de-normalised to be shown.
    `mended`: it is a picture in [0,1], ImageNet-normalised before it is compared, shown as it is.
    """

    def __init__(
        self,
        *,
        network: dict[str, Any],
        optimizer: dict[str, Any],
        scheduler: dict[str, Any] | None,
        ranges: Literal["published", "mended"],
        loss: HybridLoss | None = None,
    ) -> None:
        super().__init__(network=network, optimizer=optimizer, scheduler=scheduler, loss=loss)
        if ranges not in ("published", "mended"):
            raise UserError(f"task.ranges must be published or mended, got {ranges}")
        self.save_hyperparameters(ignore=["loss"], logger=False)
        self.ranges = ranges
        self.scores = ReconstructionScores(prefix="val/")

    def forward(self, image: Tensor) -> Tensor:
        """Signed pictures (B,3,H,W), H and W multiples of 8 → the signed pictures that the model makes of them."""
        return self._show(self.network.forward(normalised(image)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        target = normalised(batch.image)
        terms = self._compare(self.train_network(target), target, batch.row)
        return self.logged(terms)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        target = normalised(batch.image)
        output = self.network.forward(target)
        self.log_terms("val", self._compare(output, target, batch.row))
        self.scores.update(self._show(output), batch.image)
        self.log_dict(self.scores, batch_size=len(target))

    @torch.no_grad()
    def sample_rows(self, image: Tensor) -> list[Tensor]:
        """What goes in, over what comes out."""
        return [image, self(image)]

    def _compare(self, output: Tensor, target: Tensor, row: Tensor | None) -> Terms:
        compared = images.imagenet_normalise(output) if self.ranges == "mended" else output
        return self.compared(compared, target, row)

    def _show(self, output: Tensor) -> Tensor:
        """The network's output (B,3,H,W) → signed pictures."""
        unit = images.imagenet_denormalise(output) if self.ranges == "published" else output
        return images.unit_to_signed(unit.float()).clamp(-1, 1)
