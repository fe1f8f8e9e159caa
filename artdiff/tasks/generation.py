"""Train a painter: denoise pictures at random times, with a loss that is weighted and gated by time."""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from torch import Tensor

from artdiff import hardware, images
from artdiff.data.base import PictureDataModule
from artdiff.data.loader import Batch
from artdiff.diffusion import samplers
from artdiff.diffusion.codec import Codec, Identity
from artdiff.diffusion.conditioning import NO_LABEL, Conditions
from artdiff.diffusion.guidance import Denoiser, guided
from artdiff.diffusion.noise import PictureRandom, seeded_noise
from artdiff.diffusion.objective import Objective
from artdiff.diffusion.path import Preconditioned
from artdiff.diffusion.refiner import CHANNELS, Refiner
from artdiff.diffusion.samplers import Solver
from artdiff.files import printable
from artdiff.losses import Loss, Losses
from artdiff.picture_cache import PictureCache
from artdiff.settings.training import refiner_shrink
from artdiff.store import Contents
from artdiff.tasks.denoising import NO_REFINER, PREVIEW_STEPS, Denoising, check_takes, frozen
from artdiff.words import TABLE, numbers

GAP_PICTURES = 256
"""Number of validation pictures for the generalisation gap: whole batches up to this, at least one."""

CPU_GROUP = 16
"""Largest batch of a codec or a refiner on a CPU. Fewer small pictures are padded to it."""

PREVIEW_CLASSES = 10
"""Most classes in a preview."""


class Compared(NamedTuple):
    """Losses, on the device, of training pictures and of as many held-out ones."""

    pictures: int
    train_loss: Tensor
    val_loss: Tensor


class Generation(Denoising):
    """Learn to paint from noise: denoise pictures at times between noise (0) and picture (1).

    Args:
        network: called `net(noisy, time, label) -> output`, built with `classes` and `in_channels`. With captions it is
            called `net(noisy, time, label, words)` and built with `words`, the rows of its embedding table.
        optimizer: for the network's weights.
        scheduler: of the learning rate, once an epoch; None keeps it constant.
        codec: between pictures and the latents that the network denoises; frozen.
        refiner: a network that paints the detail that the codec loses (`Refinement`); None for none. Frozen.
        enlarger: another one, after the refiner, which then works at half the width and height; None for none. Frozen.
        warmup: steps over which the learning rate rises linearly.
        classes: names of the labels 0, 1, …; empty for unconditional painting.
        data_std: standard deviation of the latents, for the preconditioning: 0.5 for pixels, 1 for a codec's latents.
        time_mean, time_std: mean and standard deviation of the normal distribution whose sigmoid gives training times.
        gate: the perceptual term counts from this time on.
        label_dropout: share of the pictures that lose label and caption, for guidance.
        vocabulary: words of the captions, the most frequent first; empty for pictures without captions.
        caption_dropout, word_dropout: see `conditioning.dropped`.
        ema_half_life: half-life of the EMA, in images.
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
        refiner: dict[str, Any] | None = None,
        enlarger: dict[str, Any] | None = None,
        vocabulary: Sequence[str] = (),
        caption_dropout: float = 0.1,
        word_dropout: float = 0.1,
        seed: int = 0,
        loss: Loss | None = None,
    ) -> None:
        coder: Codec = instantiate(codec, _convert_="all")
        built_with: dict[str, Any] = {"classes": len(classes), "in_channels": coder.channels}
        if vocabulary:
            check_takes(network, "words", otherwise="takes no captions: set data.captions=none, or network=unet or vit")
            built_with["words"] = TABLE
        if coder.factor > 1 and "image_size" in network:
            built_with["image_size"] = network["image_size"] // coder.factor
        super().__init__(
            network=network,
            optimizer=optimizer,
            scheduler=scheduler,
            codec=coder,
            warmup=warmup,
            ema_half_life=ema_half_life,
            ema_ramp=ema_ramp,
            seed=seed,
            loss=loss,
            built_with=built_with,
        )
        self.save_hyperparameters(ignore=["loss", "seed"], logger=False)
        self.refiner = _refiner(refiner, len(classes), shrink=refiner_shrink(enlarger))
        self.enlarger = _refiner(enlarger, len(classes), shrink=1)
        self.to_cache: tuple[Contents, float] | None = None
        self.latents: PictureCache | None = None  # created with the first batch, after a checkpoint is restored
        self.classes = classes
        self.vocabulary = list(vocabulary)
        self.objective = Objective(coder, time_mean, time_std, gate, label_dropout, caption_dropout, word_dropout)
        self.train_denoiser = Preconditioned(self.train_network, data_std=data_std)
        self.ema_denoiser = Preconditioned(self.ema, data_std=data_std)
        self.trained_sample: Batch | None = None
        self.compared: list[Compared] = []
        self.compared_pictures = 0
        """Number of pictures from each split in the generalisation gap of the latest validation."""

    def cache_latents(self, contents: Contents, gigabytes: float) -> None:
        """Cache the latents of these pictures, up to so many gigabytes; a batch's `index` points into them."""
        if isinstance(self.codec, torch.nn.Module):
            self.to_cache = (contents, gigabytes)

    @torch.no_grad()
    def encoded(self, batch: Batch) -> Tensor:
        """The latents of a batch (B,C,H/F,W/F), cached if possible.

        Pictures for the cache are encoded in groups of fixed size, so that latents do not depend on how many of a batch
        are missing from it.
        """
        if self.to_cache is None or batch.index is None:
            return self.codec.encode(batch.image)
        if self.latents is None:
            self.latents = PictureCache(self.to_cache[0], self._recipe(), self.to_cache[1], room="latents")
        return self.latents(batch.index, lambda places: self.encode_in_groups(batch.image[places]))

    def _recipe(self) -> str:
        """The cache key of latents: the codec, a hash of its weights, and the precision."""
        assert isinstance(self.codec, torch.nn.Module)
        weights = b"".join(weight.cpu().numpy().tobytes() for weight in self.codec.state_dict().values())
        precision = torch.get_autocast_dtype(self.device.type) if torch.is_autocast_enabled(self.device.type) else None
        return f"{type(self.codec).__name__} {hashlib.sha256(weights).hexdigest()} {precision}"

    def losses(self, batch: Batch) -> Losses:
        rng = PictureRandom(self.seed, self.picture_numbers(batch))
        clean = self.encoded(batch)
        denoised = self.objective(self.train_denoiser, batch, rng, self.needed_loss, clean=clean)
        return self.noted(denoised, self.train_bins)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.compared = []
        if self.trained_sample is None and not self.trainer.sanity_checking:
            self.trained_sample = self._choose_trained()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Compute the losses of the EMA weights. Each picture has its own time and noise, the same every time.

        The generalisation gap measures memorisation: `gap/relative` is by how much `gap/val_loss` exceeds
        `gap/train_loss`, the loss of training pictures without augmentation. It opens when memorisation sets in
        (arXiv:2505.16959). Both losses use equally many pictures with the same labels, times, noise and batch sizes,
        since each of these changes a loss by more than a small gap.
        """
        places, count = self.next_validated(len(batch.image)), len(batch.image)
        time, noise = self.fixed_numbers(batch.image, self._latent_shape(batch.image))
        denoised = self.objective.at(
            self.ema_denoiser, batch, time=time, noise=noise, loss=self.needed_loss, clean=self.encoded(batch)
        )
        self.log_validation(self.noted(denoised, self.val_bins), count)
        if self.trained_sample is not None and places[-1] < len(self.trained_sample.label):
            trained = self._trained(places, time.device)
            learned = self.objective.at(self.ema_denoiser, trained, time=time, noise=noise, loss=self.needed_loss)
            self.compared.append(Compared(count, learned.loss, denoised.loss))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.trained_sample is None:
            return
        total = sum(pair.pictures for pair in self.compared)
        if self.trainer.world_size > 1:
            total = int(self.on_all_ranks(torch.tensor(total, device=self.device), "sum"))
        self.compared_pictures = total
        if total:
            none = torch.zeros((), device=self.device)
            train = sum((pair.pictures / total * pair.train_loss for pair in self.compared), none)
            val = sum((pair.pictures / total * pair.val_loss for pair in self.compared), none)
            train, val = (self.on_all_ranks(loss, "sum") for loss in (train, val))
            self.log_dict({"gap/train_loss": train, "gap/val_loss": val, "gap/relative": (val - train) / train})

    def _choose_trained(self) -> Batch:
        """Choose the training pictures for the generalisation gap, uint8 on the CPU.

        They have no `index`, so nothing about them is cached: features computed in other batches than those of training
        could differ in the last bit.
        """
        data: PictureDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        (batches,) = self.trainer.num_val_batches
        batches = min(batches, max(1, GAP_PICTURES // data.batch_size))
        return data.training_matches(int(batches * data.batch_size))

    def _trained(self, places: range, device: torch.device) -> Batch:
        """A batch of these training pictures, signed, on the device."""
        assert self.trained_sample is not None
        image, label, _, _, words = self.trained_sample
        chosen = slice(places.start, places.stop, places.step)
        return Batch(
            images.to_signed(image[chosen].to(device)),
            label[chosen].to(device),
            words=None if words is None else words[chosen].to(device),
        )

    def conditions(self, label: Tensor, prompts: Sequence[str | None] | None = None) -> Conditions:
        """The conditions for labels int64 (B,) and as many prompts. A model without captions ignores the prompts."""
        if not self.vocabulary:
            return (label,)
        return label, torch.from_numpy(numbers(prompts or [None] * len(label))).to(label.device)

    def denoiser(
        self,
        conditions: Conditions,
        *,
        guidance: float,
        interval: tuple[float, float],
        negative: Conditions | None = None,
    ) -> Denoiser:
        """The denoiser with EMA weights for sampling, guided towards `conditions` and away from `negative`."""
        return guided(self._denoise_in_groups, conditions, guidance=guidance, interval=interval, negative=negative)

    @property
    def made_for(self) -> dict[str, Any]:
        """Painting settings, by name, that this model was trained for; empty if it works with any."""
        return {}

    def shown_labels(self) -> list[int]:
        """The labels of the rows of a preview."""
        return [*range(len(self.classes))][:PREVIEW_CLASSES] or [NO_LABEL]

    @torch.no_grad()
    def sample_grid(self, image: Tensor) -> list[Tensor]:
        """A row for each class, with as many pictures as `image` has, from the same noise every time."""
        labels, count = self.shown_labels(), len(image)
        noise = seeded_noise(range(count), self._latent_shape(image)).to(image.device).repeat(len(labels), 1, 1, 1)
        label = torch.tensor(labels, device=image.device).repeat_interleave(count)
        painted = self.painted(noise, self.conditions(label))
        return list(self.decode_in_groups(painted).clamp(-1, 1).split(count))

    @torch.no_grad()
    def painted(self, noise: Tensor, given: Conditions) -> Tensor:
        """Sample latents for a preview with the EMA weights, from noise under conditions; (B,C,h,w) → (B,C,h,w)."""
        denoise = self.denoiser(given, guidance=1.0, interval=(0, 1))
        *_, painted = samplers.get("heun")(denoise, noise, samplers.times(PREVIEW_STEPS))
        return painted

    def captions(self) -> list[str]:
        return [printable(self.classes[label]) if self.classes else "painted" for label in self.shown_labels()]

    def encode_in_groups(self, image: Tensor) -> Tensor:
        """Signed pictures (B,3,H,W) → latents (B,C,H/F,W/F), independent of the rest of the batch."""
        return self._code_in_groups(self.codec.encode, image, image.shape[-2:])

    def decode_in_groups(self, latent: Tensor) -> Tensor:
        """Latents (B,C,H/F,W/F) → signed pictures (B,3,H,W), not clamped, independent of the rest of the batch."""
        height, width = latent.shape[-2:]
        factor = self.codec.factor
        return self._code_in_groups(self.codec.decode, latent, (factor * height, factor * width))

    @property
    def refiners(self) -> list[Refiner]:
        """The refiner and the enlarger, as far as there are any, in the order in which they are applied."""
        return [one for one in (self.refiner, self.enlarger) if one is not None]

    @property
    def multiple(self) -> int | None:
        """Width and height in pixels must be multiples of this; None if the network only paints the training size."""
        found: int | None = getattr(self.ema, "multiple", None)
        if found is None:
            return None
        of_refiners = (refiner.shrink * getattr(refiner.network, "multiple", 1) for refiner in self.refiners)
        return math.lcm(found * self.codec.factor, *of_refiners)

    def refine_in_groups(
        self, refiner: Refiner, draft: Tensor, label: Tensor, noise: Tensor, *, steps: int, solver: Solver
    ) -> Tensor:
        """Drafts (B,3,H,W), labels int64 (B,) and noise (B,3,h,w) → pictures (B,3,H,W) with the refiner's detail."""

        def refine(*group: Tensor) -> Tensor:
            return refiner.refine(*group, steps=steps, solver=solver)

        together = _together(refiner.network, draft, noise.shape[-2:])
        return hardware.in_groups(refine, draft, label, noise, together=together)

    def _latent_shape(self, image: Tensor) -> tuple[int, int, int]:
        """Shape of the latents of one picture of `image` (B,3,H,W)."""
        factor = self.codec.factor
        return self.codec.channels, image.shape[-2] // factor, image.shape[-1] // factor

    def _code_in_groups(self, compute: Callable[[Tensor], Tensor], part: Tensor, sides: Sequence[int]) -> Tensor:
        """Encode or decode in groups; `sides` are height and width of the pictures in pixels."""
        if isinstance(self.codec, Identity):
            return compute(part)
        return hardware.in_groups(compute, part, together=_together(self.codec, part, sides))

    def _denoise_in_groups(self, noisy: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        """Denoise with the EMA weights. A picture does not depend on the rest of the batch."""

        def denoise(*group: Tensor) -> Tensor:
            return self.ema_denoiser(*group).clone()  # replayed CUDA graphs reuse the memory of the output

        together = hardware.pictures_at_once(noisy.device, *noisy.shape[-2:])
        return hardware.in_groups(denoise, noisy, time, *conditions, together=together)


def _refiner(settings: dict[str, Any] | None, classes: int, *, shrink: int) -> Refiner | None:
    """Build the refiner that `settings` describe, frozen."""
    if settings is None:
        return None
    check_takes(settings, "out_channels", otherwise=NO_REFINER)
    return frozen(Refiner(instantiate(settings, _convert_="all", classes=classes, **CHANNELS), shrink=shrink))


def _together(module: object, part: Tensor, sides: Sequence[int]) -> int:
    """Batch size of a codec or a refiner for pictures of these `sides` (height, width).

    A module that first turns squares of `patch` pixels into channels needs as much memory as one without patches on a
    picture `patch` times smaller in width and height.
    """
    patch = getattr(module, "patch", 1)
    together = hardware.pictures_at_once(part.device, *(max(1, side // patch) for side in sides))
    return together if part.device.type == "cuda" else min(together, CPU_GROUP)
