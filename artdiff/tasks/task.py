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
    latest_loss: Tensor
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
        return {"parameters": sum(weight.numel() for weight in self.network.parameters()), **self._facts_of_loss()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = instantiate(self.optimizer)(self.network.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": instantiate(self.scheduler)(optimizer)}

    @property
    def perceptual(self) -> PerceptualLoss | None:
        return self.loss.perceptual if self.loss is not None else None

    @property
    def is_looked_at(self) -> bool:
        """Whether to look at this step's numbers: always, but on a GPU, where a look waits, when they are logged."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return self.device.type != "cuda" or (every > 0 and (self.global_step + 1) % every == 0)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep a loss or a gradient that is no finite number from the weights, and stop when it is looked at.

        A fused optimizer leaves them as they are by itself, without anybody looking. With 16-bit floats gradients may
        overflow, and Lightning skips such a step.
        """
        is_unsound = ~torch.isfinite(self.latest_loss)
        is_fused = all(group.get("fused") for group in optimizer.param_groups)
        if self.trainer.precision != "16-mixed":
            gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
            is_unsound |= ~torch.isfinite(torch.nn.utils.get_total_norm(gradients))
            if is_fused:
                optimizer.found_inf = is_unsound.float()  # type: ignore[attr-defined]
        self._remember(is_unsound)
        if self.is_looked_at or not is_fused:
            self._check_sound()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients: Lightning's own refuses a fused optimizer, even where nothing is scaled."""
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)

    def on_validation_epoch_end(self) -> None:
        self._check_sound()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_sound()
        checkpoint["artdiff"] = {"version": __version__, "task": type(self).__name__, **self._facts_of_loss()}

    def logged(self, terms: Terms) -> Tensor:
        """What a training step gave, logged if it is looked at → its loss, to be trained by."""
        self.latest_loss = terms.loss.detach()
        if self.is_looked_at:
            self.log_terms("train", terms)
        return terms.loss

    def log_terms(self, stage: Literal["train", "val"], terms: Terms) -> None:
        """Log the loss and its terms."""
        if stage == "val":
            self._remember(~torch.isfinite(terms.loss))
        for name, value in terms._asdict().items():
            if value is not None:
                self.log(f"{stage}/{name}", value.detach().mean(), batch_size=len(terms.mse))

    def compared(self, output: Tensor, target: Tensor, row: Tensor | None, **how: Tensor) -> Terms:
        """`output` and `target`, both ImageNet-normalised (B,3,H,W), under the loss; `row` as in a batch."""
        assert self.loss is not None, "built without a loss: this model can paint but not be trained"
        return self.loss(output, target, row=row, **how)

    def _remember(self, is_unsound: Tensor) -> None:
        """Remember the first step at which something was no finite number, without looking whether this one is."""
        self.unsound_at = torch.where(is_unsound & (self.unsound_at < 0), self.global_step, self.unsound_at)

    def _check_sound(self) -> None:
        """Raise `UserError` if a step's loss or gradient was no finite number."""
        step = int(self.unsound_at)
        if step >= 0:
            raise UserError(
                f"the loss or a gradient is no finite number at step {step:,}, from which nothing can be learned: "
                f"begin anew with a lower optimizer.lr or with trainer.precision=32-true"
            )

    def _facts_of_loss(self) -> dict[str, object]:
        return {"perceptual_weights": self.perceptual.source if self.perceptual is not None else "none"}


def normalised(image: Tensor) -> Tensor:
    """Signed pictures (B,3,H,W) → ImageNet-normalised, as the loss takes them."""
    return images.imagenet_normalise(images.signed_to_unit(image))
