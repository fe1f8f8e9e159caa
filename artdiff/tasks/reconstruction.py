"""The article's task: reconstruct a picture."""

from typing import Any

import torch
from torch import Tensor

from artdiff import UserError, images
from artdiff.data.loader import Batch
from artdiff.losses import Loss, Losses, Target
from artdiff.settings.training import Ranges
from artdiff.tasks.base import Task
from artdiff.tasks.metrics import ReconstructionScores


class Reconstruction(Task):
    """Reconstruct a picture through a bottleneck.

    `ranges` says how to interpret the network's sigmoid output in [0,1]. `published`: the loss compares it with the
    ImageNet-normalised target (about -2.1 to 2.6), which it cannot match, and it is de-normalised for display.
    `mended`: it is a picture in [0,1], which is ImageNet-normalised for the loss and displayed as it is.
    """

    def __init__(
        self,
        *,
        network: dict[str, Any],
        optimizer: dict[str, Any],
        scheduler: dict[str, Any] | None,
        ranges: Ranges,
        seed: int = 0,
        loss: Loss | None = None,
    ) -> None:
        super().__init__(network=network, optimizer=optimizer, scheduler=scheduler, loss=loss, seed=seed)
        if ranges not in ("published", "mended"):
            raise UserError(f"task.ranges must be published or mended, got {ranges}")
        self.save_hyperparameters(ignore=["loss", "seed"], logger=False)
        self.ranges = ranges
        self.scores = ReconstructionScores(prefix="val/")

    def forward(self, image: Tensor) -> Tensor:
        """Signed pictures (B,3,H,W), H and W multiples of 8 → signed reconstructions."""
        return self._shown(self.train_network(images.signed_to_imagenet(image)))

    def losses(self, batch: Batch) -> Losses:
        target = Target(images.signed_to_imagenet(batch.image), batch.index)
        return self._compare(self.train_network(target.image), target)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        target = Target(images.signed_to_imagenet(batch.image), batch.index)
        output = self.train_network(target.image)
        self.log_validation(self._compare(output, target), len(output))
        self.scores.update(self._shown(output), batch.image)
        self.log_dict(self.scores, batch_size=len(output))

    @torch.no_grad()
    def sample_grid(self, image: Tensor) -> list[Tensor]:
        """A row of inputs, and a row of outputs."""
        return [image, self(image)]

    def captions(self) -> list[str]:
        return ["pictures", "what the network makes of them"]

    def _compare(self, output: Tensor, target: Target) -> Losses:
        return self.needed_loss(images.imagenet_normalise(output) if self.ranges == "mended" else output, target)

    def _shown(self, output: Tensor) -> Tensor:
        """The network's output (B,3,H,W) → signed pictures."""
        unit = images.imagenet_denormalise(output) if self.ranges == "published" else output
        return images.unit_to_signed(unit.float()).clamp(-1, 1)
