"""Learn to paint new pictures: denoise pictures at random times, under the loss weighted and gated by time."""

import copy
from typing import Any, Self

import torch
from hydra.utils import instantiate
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR

from artdiff import hardware
from artdiff.data.loader import Batch
from artdiff.diffusion import ema, samplers
from artdiff.diffusion.codec import Codec
from artdiff.diffusion.conditioning import NO_LABEL
from artdiff.diffusion.guidance import Denoiser, guided
from artdiff.diffusion.noise import PictureRandom, seeded_noise
from artdiff.diffusion.objective import Objective
from artdiff.diffusion.path import Preconditioned
from artdiff.evaluation.metrics import TimeBands
from artdiff.losses import Loss, Losses
from artdiff.tasks.base import Task

GOLDEN = 0.618034
"""The fractional parts of its multiples fill [0,1] evenly, however many there are."""

PREVIEW_STEPS = 12
"""Sampling steps for the grids shown in training: fewer than for pictures to keep."""

PREVIEW_CLASSES = 10
"""Classes shown in these grids, at most."""


class Generation(Task):
    """Denoise pictures at times between noise (0) and picture (1), and so learn to paint from noise.

    Random numbers are a function of the seed, the images seen and the rank: accumulated batches, several ranks and a
    resumed run draw what one large batch of an uninterrupted run draws.

    Args:
        network: called `net(noisy, time, label) -> output`, built with `classes` and `in_channels`.
        optimizer: for the network's weights.
        scheduler: of the learning rate, once an epoch; None keeps it constant.
        codec: between pictures and what the network denoises.
        warmup: steps over which the learning rate rises linearly.
        classes: names of the labels 0, 1, …; empty for pictures without, which are painted unconditionally.
        data_std: standard deviation of what is denoised, for the preconditioning.
        time_mean, time_std: of the normal distribution whose sigmoid gives the training times.
        gate: the time from which on the perceptual term counts.
        label_dropout: share of the labels that are replaced by the null label, for guidance.
        ema_half_life: of the moving average of the weights, in images.
        ema_ramp: the half-life is at most this share of the images seen.
        seed: of noise, times and dropout.
        loss: only needed to train.
    """

    def __init__(
        self,
        *,
        network: dict[str, Any],
        optimizer: dict[str, Any],
        scheduler: dict[str, Any] | None,
        codec: dict[str, Any],
        warmup: int,
        classes: list[str],
        data_std: float,
        time_mean: float,
        time_std: float,
        gate: float,
        label_dropout: float,
        ema_half_life: float,
        ema_ramp: float,
        seed: int = 0,
        loss: Loss | None = None,
    ) -> None:
        coder: Codec = instantiate(codec, _convert_="all")
        built_with: dict[str, Any] = {"classes": len(classes), "in_channels": coder.channels}
        if coder.factor > 1 and "image_size" in network:
            built_with["image_size"] = network["image_size"] // coder.factor
        super().__init__(
            network=network, optimizer=optimizer, scheduler=scheduler, loss=loss, seed=seed, built_with=built_with
        )
        self.save_hyperparameters(ignore=["loss", "seed"], logger=False)
        self.codec = coder
        self.warmup = warmup
        self.classes = classes
        self.ema_half_life = ema_half_life
        self.ema_ramp = ema_ramp
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.averaged = 0  # images seen when the average was updated last
        self.objective = Objective(coder, time_mean, time_std, gate, label_dropout)
        self.train_denoiser = Preconditioned(self.train_network, data_std=data_std)
        self.ema_denoiser = Preconditioned(self.ema, data_std=data_std)
        self.train_bands, self.val_bands = TimeBands(prefix="train"), TimeBands(prefix="val")

    def train(self, mode: bool = True) -> Self:
        """The average is never in training mode: it has no dropout."""
        super().train(mode)
        self.ema.eval()
        return self

    def losses(self, batch: Batch) -> Losses:
        world, count = self.trainer.world_size, len(batch.image)
        numbers = torch.arange(count, device=batch.image.device) * world + (self.seen + self.global_rank)
        rng = PictureRandom(self.seed, numbers)
        loss, terms, time = self.objective(self.train_denoiser, batch, rng, self.needed_loss)
        self.train_bands.update(time, terms)
        return Losses(loss, terms)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:  # when Lightning logs as well
            self._log_bands(self.train_bands)

    def on_validation_epoch_start(self) -> None:
        self.validated = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The losses of the averaged weights, each picture with its own time and noise, the same every time."""
        count = len(batch.image)
        numbers = range(self.validated, self.validated + count)
        self.validated += count
        time = torch.tensor(numbers, device=batch.image.device) * GOLDEN % 1
        noise = seeded_noise(numbers, self._latent_shape(batch.image)).to(batch.image.device)
        denoised = self.objective.at(self.ema_denoiser, batch, time=time, noise=noise, loss=self.needed_loss)
        self.log_validation(Losses(denoised.loss, denoised.terms), count)
        self.val_bands.update(time, denoised.terms)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._log_bands(self.val_bands)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Average the weights right after each step, before anything can be saved."""
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
        optimizer = instantiate(self.optimizer)(self.network.parameters())
        rises = LinearLR(optimizer, start_factor=1 / (self.warmup + 1), total_iters=self.warmup)
        schedulers: list[Any] = [{"scheduler": rises, "interval": "step"}]
        if self.scheduler is not None:
            schedulers.append({"scheduler": instantiate(self.scheduler)(optimizer), "interval": "epoch"})
        return [optimizer], schedulers

    def denoiser(self, label: Tensor, *, guidance: float, interval: tuple[float, float]) -> Denoiser:
        """The averaged network guided to `label` int64 (B,), which pictures are painted with."""
        return guided(self._denoise_in_groups, label, guidance=guidance, interval=interval)

    def shown_labels(self) -> list[int]:
        """The classes that grids show, a line each."""
        return [*range(len(self.classes))][:PREVIEW_CLASSES] or [NO_LABEL]

    @torch.no_grad()
    def sample_grid(self, image: Tensor) -> list[Tensor]:
        """As many pictures of each class as `image` has, from the same noise every time."""
        labels, count = self.shown_labels(), len(image)
        noise = seeded_noise(range(count), self._latent_shape(image)).to(image.device).repeat(len(labels), 1, 1, 1)
        label = torch.tensor(labels, device=image.device).repeat_interleave(count)
        denoise = self.denoiser(label, guidance=1.0, interval=(0, 1))
        *_, painted = samplers.get("heun")(denoise, noise, samplers.times(PREVIEW_STEPS))
        return list(self.codec.decode(painted).clamp(-1, 1).split(count))

    def _latent_shape(self, image: Tensor) -> tuple[int, int, int]:
        """What the codec makes of one of the pictures (B,3,H,W)."""
        factor = self.codec.factor
        return self.codec.channels, image.shape[-2] // factor, image.shape[-1] // factor

    def _denoise_in_groups(self, noisy: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """The averaged network, always called with the same number of pictures; the last one is repeated to fill up.

        Matrix products of other sizes round differently, so a picture would depend on how many are painted with it.
        """
        count, together = len(noisy), hardware.pictures_at_once(noisy.device, noisy.shape[-1])
        padded = torch.arange(-(-count // together) * together, device=noisy.device).clamp(max=count - 1)
        groups = (part[padded].split(together) for part in (noisy, time, label))
        # cloned, since replayed CUDA graphs write every answer to the same place
        return torch.cat([self.ema_denoiser(*group).clone() for group in zip(*groups, strict=True)])[:count]

    def _log_bands(self, bands: TimeBands) -> None:
        self.log_dict(bands.compute())
        bands.reset()
