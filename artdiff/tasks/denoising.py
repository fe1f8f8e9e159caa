"""Base of the tasks that train denoisers: EMA weights, warm-up of the learning rate, and losses by time bin."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import torch
from hydra.utils import get_class, instantiate
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR

from artdiff import UserError
from artdiff.diffusion import ema
from artdiff.diffusion.codec import Codec
from artdiff.diffusion.noise import seeded_noise
from artdiff.diffusion.objective import Denoised
from artdiff.losses import Loss, Losses
from artdiff.tasks.base import Task
from artdiff.tasks.metrics import TimeBins

Part = TypeVar("Part")

GOLDEN = 0.618034
"""The golden ratio minus 1: the fractional parts of its multiples cover [0,1] evenly, for any number of them."""

NO_REFINER = "takes no out_channels, which the network of a refiner needs: it has 6 input and 3 output channels"

PREVIEW_STEPS = 12
"""Sampling steps for previews in training: fewer than the default for painting."""


class Denoising(Task):
    """Denoises pictures, or latents, at times between noise (0) and picture (1), and keeps an EMA of the weights.

    Noise, times and dropped labels are a function of the seed and of each picture's index in the order of training. So
    gradient accumulation, several ranks and a resumed run draw the same as one large batch of an uninterrupted run.

    Args:
        network: called `net(noisy, time, label) -> output`.
        codec: between pictures and the latents that the network denoises; frozen.
        warmup: steps over which the learning rate rises linearly.
        ema_half_life: half-life of the EMA, in images.
        ema_ramp: the half-life is at most this share of the images seen.

    For the others see `Task`.
    """

    def __init__(
        self,
        *,
        network: dict[str, Any],
        optimizer: dict[str, Any],
        scheduler: dict[str, Any] | None,
        codec: Codec,
        warmup: int,
        ema_half_life: float,
        ema_ramp: float,
        seed: int,
        loss: Loss | None,
        built_with: dict[str, Any],
    ) -> None:
        super().__init__(
            network=network, optimizer=optimizer, scheduler=scheduler, loss=loss, seed=seed, built_with=built_with
        )
        self.codec = frozen(codec)
        self.warmup = warmup
        self.ema_half_life = ema_half_life
        self.ema_ramp = ema_ramp
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.averaged = 0  # images seen at the last update of the EMA
        self.train_bins, self.val_bins = TimeBins(prefix="train"), TimeBins(prefix="val")
        self.validated = 0

    def train(self, mode: bool = True) -> Self:
        """As in Lightning, but frozen modules stay in evaluation mode, without dropout."""
        super().train(mode)
        for module in self.children():
            if not any(weight.requires_grad for weight in module.parameters()):
                module.eval()
        return self

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:  # when Lightning logs as well
            self._log_bins(self.train_bins)

    @property
    def grid_takes_all_ranks(self) -> bool:
        return False  # each rank has the whole EMA, which paints

    def on_validation_epoch_start(self) -> None:
        self.validated = 0

    def noted(self, denoised: Denoised, bins: TimeBins) -> Losses:
        """Add the terms of a batch to the means by time bin; returns its losses."""
        bins.update(denoised.time, denoised.terms)
        return Losses(denoised.loss, denoised.terms)

    def fixed_numbers(self, image: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Times (B,) and noise (B,*shape) for the next pictures (B,3,H,W); the same in every validation."""
        numbers = self.next_validated(len(image))
        self.validated += len(image)
        time = torch.tensor(numbers, device=image.device) * GOLDEN % 1
        return time, seeded_noise(numbers, shape).to(image.device)

    def next_validated(self, count: int) -> range:
        """The indices, over all ranks, of the next pictures that this rank validates."""
        world, first = self.trainer.world_size, self.validated
        return range(first * world + self.global_rank, (first + count) * world + self.global_rank, world)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._log_bins(self.val_bins)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the EMA right after each step, before a checkpoint can be saved."""
        super().optimizer_step(*args, **kwargs)
        new = self.seen - self.averaged
        share = ema.share(new, seen=self.seen, half_life=self.ema_half_life, ramp=self.ema_ramp)
        ema.update(self.ema, self.network, share)
        self.averaged = self.seen

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["artdiff"] |= {"averaged": self.averaged}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.averaged = checkpoint["artdiff"]["averaged"]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = instantiate(self.optimizer)(self.network.named_parameters())
        rises = LinearLR(optimizer, start_factor=1 / (self.warmup + 1), total_iters=self.warmup)
        schedulers: list[Any] = [{"scheduler": rises, "interval": "step"}]
        if self.scheduler is not None:
            schedulers.append({"scheduler": instantiate(self.scheduler)(optimizer), "interval": "epoch"})
        return [optimizer], schedulers

    def _log_bins(self, bins: TimeBins) -> None:
        if bins.update_called:  # a validation may log no losses by time bin
            self.log_dict(bins.compute())
            bins.reset()


def check_takes(network: dict[str, Any], argument: str, *, otherwise: str) -> None:
    """Raise `UserError` unless the class of a network accepts this argument; `otherwise` ends the message."""
    known = inspect.signature(get_class(network["_target_"])).parameters
    if argument not in known and not any(one.kind is one.VAR_KEYWORD for one in known.values()):
        raise UserError(f"{network['_target_']} {otherwise}")


def frozen(part: Part) -> Part:
    """A codec or a refiner, frozen and in evaluation mode if it is a module."""
    if isinstance(part, torch.nn.Module):
        part.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return part
