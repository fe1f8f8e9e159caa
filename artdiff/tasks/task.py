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
from artdiff.compiled import Steady
from artdiff.losses import HybridLoss, PerceptualLoss, Terms


class Task(L.LightningModule, ABC):
    """Trains `network` under the hybrid loss.

    `network`, `optimizer` and `scheduler` are plain `_target_` mappings and are kept in the checkpoint, which is
    therefore enough to paint with. `loss` is only needed to train and is not kept.
    """

    network: torch.nn.Module
    unsound_at: Tensor

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
        self.train_network = Steady(self.network)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.loss = loss
        self.register_buffer("unsound_at", torch.tensor(-1), persistent=False)  # the step, on the device

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

    def compile_for(self, count: int, how: str) -> None:
        """Compile what trains, in place, for batches of `count` pictures."""
        self.train_network.compile_for(count, how)
        if self.perceptual is not None:
            self.perceptual.compile_for(count, how)

    @property
    def perceptual(self) -> PerceptualLoss | None:
        return self.loss.perceptual if self.loss is not None else None

    @property
    def looks(self) -> bool:
        """Whether to look at this step's numbers: always on a CPU, and else, where it waits, when they are logged."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return self.device.type == "cpu" or (every > 0 and (self.global_step + 1) % every == 0)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of all gradients, and keep what is no finite number from the weights.

        A fused optimizer leaves them as they are by itself, so that the step need not be looked at. With 16-bit floats
        Lightning skips such a step.
        """
        weights = [weight for weight in self.network.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grads_with_norm_(weights, gradient_clip_val, norm)
        if self.trainer.precision == "16-mixed":
            return
        is_unsound = ~torch.isfinite(norm + self.latest_loss)
        is_first = is_unsound & (self.unsound_at < 0)
        self.unsound_at = torch.where(is_first, self.global_step, self.unsound_at)
        optimizer.found_inf = is_unsound.float()  # type: ignore[attr-defined]
        if self.looks or not optimizer.defaults.get("fused"):
            self._check_sound()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_sound()
        checkpoint["artdiff"] = {"version": __version__, "task": type(self).__name__, **self._features()}

    def noted(self, terms: Terms) -> Tensor:
        """What a training step gave → its loss, to be trained by."""
        self.latest_loss = terms.loss.detach()
        if self.looks:
            self.log_terms("train", terms)
        return terms.loss

    def log_terms(self, stage: Literal["train", "val"], terms: Terms) -> None:
        """Log the loss and its terms."""
        for name, value in terms._asdict().items():
            if value is not None:
                self.log(f"{stage}/{name}", value.detach().mean(), batch_size=len(terms.mse))

    def compared(self, output: Tensor, target: Tensor, row: Tensor | None, **how: Tensor) -> Terms:
        """`output` and `target`, both ImageNet-normalised (B,3,H,W), under the loss; `row` as in a batch."""
        assert self.loss is not None, "built without a loss: this model can paint but not be trained"
        return self.loss(output, target, row=row, **how)

    def _check_sound(self) -> None:
        """Raise `UserError` if a step's loss or gradient was no finite number."""
        step = int(self.unsound_at)
        if step >= 0:
            raise UserError(
                f"the loss or a gradient is no finite number at step {step:,}, from which nothing can be learned: "
                f"begin anew with a lower optimizer.lr or with trainer.precision=32-true"
            )

    def _features(self) -> dict[str, object]:
        return {"perceptual_weights": self.perceptual.source if self.perceptual is not None else "none"}


def normalised(image: Tensor) -> Tensor:
    """Signed pictures (B,3,H,W) → ImageNet-normalised, as the loss takes them."""
    return images.imagenet_normalise(images.signed_to_unit(image))
