"""Paint new pictures: denoise what was noised, under the hybrid loss weighed and gated by time."""

import copy
from typing import Any, Self

import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR

from artdiff import hardware
from artdiff.data.datamodule import NO_LABEL, Batch
from artdiff.diffusion import guidance as guiding
from artdiff.diffusion import noise as noises
from artdiff.diffusion import path, samplers
from artdiff.evaluation.metrics import TimeBands
from artdiff.losses import HybridLoss, Terms
from artdiff.tasks.task import Task, normalised

GOLDEN = 0.618034
"""Multiples of the golden ratio, less the whole, fill the range from 0 to 1 evenly, however many there are."""

PREVIEW_STEPS = 12
"""Steps of the grids that training is watched by: fewer than for pictures to keep."""

PREVIEW_ROWS = 10
"""Classes that these grids show, at most."""


class Generation(Task):
    """Denoise pictures at times between noise (0) and picture (1), and so learn to paint from noise.

    What chance decides in a step is a function of (seed, step), and a run that is carried on goes on exactly.

    Args:
        network: called `net(noisy, time, label) -> picture`, built with the number of classes.
        optimizer: of the network's weights.
        scheduler: of the learning rate, once an epoch; None keeps it.
        warmup: steps over which the learning rate rises from nothing.
        classes: names of the labels 0, 1, …; empty for pictures without, which are painted unconditionally.
        time_mean, time_std: of the normal distribution whose sigmoid the training times are.
        gate: the time from which on the perceptual term counts.
        label_dropout: share of the labels that are replaced by the null label, which guidance needs.
        ema_half_life: of the weights' moving average, in pictures trained on.
        ema_ramp: the half-life is at most this share of the pictures so far, so that a young average is no old one.
        seed: of noise, times and dropout.
        loss: only needed to train.
    """

    def __init__(
        self,
        *,
        network: dict[str, Any],
        optimizer: dict[str, Any],
        scheduler: dict[str, Any] | None,
        warmup: int,
        classes: list[str],
        time_mean: float,
        time_std: float,
        gate: float,
        label_dropout: float,
        ema_half_life: float,
        ema_ramp: float,
        seed: int = 0,
        loss: HybridLoss | None = None,
    ) -> None:
        super().__init__(network=network, optimizer=optimizer, scheduler=scheduler, loss=loss, classes=len(classes))
        self.save_hyperparameters(ignore=["loss", "seed"], logger=False)
        self.warmup = warmup
        self.classes = classes
        self.time_mean = time_mean
        self.time_std = time_std
        self.gate = gate
        self.label_dropout = label_dropout
        self.ema_half_life = ema_half_life
        self.ema_ramp = ema_ramp
        self.seed = seed
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.seen = self.averaged = 0  # pictures that were trained on, and those of them that are in the average
        terms = ("mse",) if loss is None or loss.perceptual is None else ("mse", "perceptual")
        self.train_bands, self.val_bands = TimeBands(terms, prefix="train"), TimeBands(terms, prefix="val")

    def train(self, mode: bool = True) -> Self:
        """The average is never in training mode: it drops nothing out."""
        super().train(mode)
        self.ema.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label, row = batch
        torch.manual_seed(int(np.random.SeedSequence((self.seed, self.global_step)).generate_state(1)[0]))
        time = path.draw_times(len(image), mean=self.time_mean, std=self.time_std, device=image.device)
        noise = torch.randn_like(image)
        dropped = torch.rand(len(label), device=label.device) < self.label_dropout
        label = torch.where(dropped, NO_LABEL, label)
        denoised = self.train_network(path.noised(image, noise, time), time, label)
        terms = self.weighed(denoised, image, time, row)
        _note(self.train_bands, time, terms)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:  # when Lightning logs as well
            self._log_bands(self.train_bands)
        self.seen += len(image)
        return self.logged(terms)

    def on_validation_epoch_start(self) -> None:
        self.validated = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The average's losses, each picture at a time and with noise of its own, the same at every validation."""
        image, label, row = batch
        numbers = range(self.validated, self.validated + len(image))
        self.validated += len(image)
        time = torch.tensor(numbers, device=image.device) * GOLDEN % 1
        noise = noises.seeded_noise(numbers, image.shape[1:]).to(image.device)
        terms = self.weighed(self.ema(path.noised(image, noise, time), time, label), image, time, row)
        self.log_terms("val", terms)
        _note(self.val_bands, time, terms)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._log_bands(self.val_bands)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Average the weights right behind each step, before anything can be saved."""
        super().optimizer_step(*args, **kwargs)
        half_life = min(self.ema_half_life, self.ema_ramp * self.seen)
        share = 1 - 0.5 ** ((self.seen - self.averaged) / half_life)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.network.parameters()), share)
        self.averaged = self.seen

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["artdiff"] |= {"seen": self.seen, "averaged": self.averaged}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seen, self.averaged = (checkpoint["artdiff"][name] for name in ("seen", "averaged"))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = instantiate(self.optimizer)(self.network.parameters())
        rises = LinearLR(optimizer, start_factor=1 / (self.warmup + 1), total_iters=self.warmup)
        schedulers: list[Any] = [{"scheduler": rises, "interval": "step"}]
        if self.scheduler is not None:
            schedulers.append({"scheduler": instantiate(self.scheduler)(optimizer), "interval": "epoch"})
        return [optimizer], schedulers

    def denoiser(self, label: Tensor, *, guidance: float, interval: tuple[float, float]) -> guiding.Denoiser:
        """The averaged network, guided to `label` int64 (B,): what pictures are painted with."""
        return guiding.guided(self._steady, label, guidance=guidance, interval=interval, null=NO_LABEL)

    def shown_labels(self) -> list[int]:
        """The classes that grids have rows of."""
        return [*range(len(self.classes))][:PREVIEW_ROWS] or [NO_LABEL]

    @torch.no_grad()
    def sample_rows(self, image: Tensor) -> list[Tensor]:
        """As many pictures of each class as `image` has, from the same noise every time."""
        labels, count = self.shown_labels(), len(image)
        noise = noises.seeded_noise(range(count), image.shape[1:]).to(image.device).repeat(len(labels), 1, 1, 1)
        label = torch.tensor(labels, device=image.device).repeat_interleave(count)
        denoise = self.denoiser(label, guidance=1.0, interval=(0, 1))
        *_, painted = samplers.follow(denoise, noise, samplers.times(PREVIEW_STEPS), solver="heun")
        return list(painted.clamp(-1, 1).split(count))

    def weighed(self, denoised: Tensor, image: Tensor, time: Tensor, row: Tensor | None = None) -> Terms:
        """The loss of estimates (B,3,H,W) of signed pictures, made at `time` (B,): weighed and gated."""
        how = {"weight": path.weight(time), "gate": path.gate(time, opens=self.gate)}
        return self.compared(normalised(denoised), normalised(image), row, **how)

    def _steady(self, noisy: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """The averaged network, always called with as many pictures, the last one again and again if need be.

        Matrix products of other sizes are rounded differently: a picture would depend on how many are painted with it.
        """
        count, together = len(noisy), hardware.pictures_at_once(noisy.device, noisy.shape[-1])
        among = torch.arange(-(-count // together) * together, device=noisy.device).clamp(max=count - 1)
        groups = (part[among].split(together) for part in (noisy, time, label))
        # clones, since replayed CUDA graphs write each answer to the same place
        return torch.cat([self.ema(*group).clone() for group in zip(*groups, strict=True)])[:count]

    def _log_bands(self, bands: TimeBands) -> None:
        self.log_dict(bands.compute())
        bands.reset()


def _note(bands: TimeBands, time: Tensor, terms: Terms) -> None:
    bands.update(time, *(value.detach() for value in (terms.mse, terms.perceptual) if value is not None))
