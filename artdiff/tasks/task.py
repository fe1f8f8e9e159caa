"""What every task has: a network, an optimizer, a loss, and a checkpoint that says what it is."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import lightning.pytorch as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from artdiff import UserError, __version__, images
from artdiff.losses import HybridLoss, Terms


class Task(L.LightningModule, ABC):
    """Trains `network` under the hybrid loss.

    `network`, `optimizer` and `scheduler` are plain `_target_` mappings and are kept in the checkpoint, which is
    therefore enough to paint with. `loss` is only needed to train and is not kept.
    """

    network: torch.nn.Module

    def __init__(
        self,
        *,
        network: dict[str, Any],
        optimizer: dict[str, Any],
        scheduler: dict[str, Any] | None,
        loss: HybridLoss | None,
        **known: object,
    ) -> None:
        """`known` is what the network must be told that no configuration can say."""
        super().__init__()
        self.network = instantiate(network, _convert_="all", **known).to(memory_format=torch.channels_last)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.loss = loss

    @abstractmethod
    def sample_rows(self, image: Tensor) -> list[Tensor]:
        """Rows of signed pictures for a grid, each (B,3,H,W), to see training by; `image` (B,3,H,W) is validated on."""

    def facts(self) -> dict[str, object]:
        """What a run's description says of the model."""
        return {"parameters": sum(weight.numel() for weight in self.network.parameters()), **self._features()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = instantiate(self.optimizer)(self.network.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": instantiate(self.scheduler)(optimizer)}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Stop before a gradient that is no finite number reaches the weights; 16-bit floats skip such steps."""
        if self.trainer.precision == "16-mixed":
            return
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            raise self._diverged("a gradient is no finite number")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["artdiff"] = {"version": __version__, "task": type(self).__name__, **self._features()}

    def log_terms(self, stage: Literal["train", "val"], terms: Terms) -> None:
        """Log the loss and its terms. Raises `UserError` where the loss is no finite number."""
        if not torch.isfinite(terms.loss):
            raise self._diverged(f"the loss is {terms.loss.item()}")
        for name, value in terms._asdict().items():
            if value is not None:
                mean = value.detach().mean()
                self.log(f"{stage}/{name}", mean, batch_size=len(terms.mse), prog_bar=name == "loss")

    def compared(self, output: Tensor, target: Tensor, **how: Tensor) -> Terms:
        """`output` and `target`, both ImageNet-normalised (B,3,H,W), under the loss."""
        assert self.loss is not None, "built without a loss: this model can paint but not be trained"
        return self.loss(output, target, **how)

    def _diverged(self, what: str) -> UserError:
        remedy = "begin anew with a lower optimizer.lr or with trainer.precision=32-true"
        return UserError(f"{what} at step {self.global_step:,}, from which nothing can be learned: {remedy}")

    def _features(self) -> dict[str, object]:
        perceptual = self.loss.perceptual if self.loss is not None else None
        return {"perceptual_weights": perceptual.source if perceptual is not None else "none"}


def normalised(image: Tensor) -> Tensor:
    """Signed pictures (B,3,H,W) → ImageNet-normalised, as the loss takes them."""
    return images.imagenet_normalise(images.signed_to_unit(image))
