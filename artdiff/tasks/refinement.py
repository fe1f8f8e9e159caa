"""Train a refiner, which paints the detail that a codec loses: denoise the difference of pictures and drafts."""

from typing import Any, Literal

import torch
from hydra.utils import instantiate
from torch import Tensor

from artdiff import UserError
from artdiff.data.base import PictureDataModule
from artdiff.data.loader import Batch
from artdiff.diffusion.conditioning import NO_LABEL
from artdiff.diffusion.noise import DRAFTS, LATENTS, PictureRandom, seeded_noise
from artdiff.diffusion.objective import Objective
from artdiff.diffusion.path import broadcast
from artdiff.diffusion.refiner import CHANNELS, Residual, conditioned, refined, shrunk
from artdiff.losses import Loss, Losses
from artdiff.tasks.denoising import NO_REFINER, PREVIEW_STEPS, Denoising, check_takes

MEASURED = 64
"""Number of training pictures to measure the standard deviation of the differences on."""


class Refinement(Denoising):
    """Train a refiner. Its drafts are pictures that `codec` encoded and decoded, with some noise added.

    Args:
        network: called `net(noisy ⊕ draft, time, label) -> output`, built with `classes` and the numbers of channels.
        optimizer: for its weights.
        scheduler: of the learning rate, once an epoch; None keeps it constant.
        codec: makes the drafts; frozen.
        draft_noise: drafts get noise of a standard deviation between 0 and this, drawn for each picture. A painter's
            drafts lack some of the true drafts' detail, and the refiner must not rely on it (arXiv:2106.15282).
        time_mean, time_std, gate, label_dropout, warmup, classes, ema_half_life, ema_ramp: as in `Generation`.
        trains: how the painter will use it: as its `refiner` or its `enlarger`.
        shrink: trains on pictures whose width and height are divided by this: 2 for a refiner before an enlarger.
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
        draft_noise: float,
        warmup: int,
        classes: list[str],
        time_mean: float,
        time_std: float,
        gate: float,
        label_dropout: float,
        ema_half_life: float,
        ema_ramp: float,
        trains: Literal["refiner", "enlarger"] = "refiner",
        shrink: int = 1,
        seed: int = 0,
        loss: Loss | None = None,
    ) -> None:
        check_takes(network, "out_channels", otherwise=NO_REFINER)
        super().__init__(
            network=network,
            optimizer=optimizer,
            scheduler=scheduler,
            codec=instantiate(codec, _convert_="all"),
            warmup=warmup,
            ema_half_life=ema_half_life,
            ema_ramp=ema_ramp,
            seed=seed,
            loss=loss,
            built_with={"classes": len(classes), **CHANNELS},
        )
        self.save_hyperparameters(ignore=["loss", "seed"], logger=False)
        self.classes = classes
        self.trains = trains
        self.shrink = shrink
        self.draft_noise = draft_noise
        self.schedule = {"time_mean": time_mean, "time_std": time_std, "gate": gate, "label_dropout": label_dropout}
        self.std: Tensor
        self.register_buffer("std", torch.tensor(0.0))  # of the differences; 0 until it has been measured

    def on_fit_start(self) -> None:
        """Measure the standard deviation of the differences on training pictures, unless the checkpoint has it."""
        data: PictureDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        multiple = self.shrink * getattr(self.network, "multiple", 1)
        if data.settings.image_size % multiple:
            remedy = {"refiner": "refiner=none stages.refine.share=0", "enlarger": "enlarger=none stages=cascade"}
            raise UserError(
                f"the {self.trains} needs an image size that is a multiple of {multiple}, got "
                f"data.image_size={data.settings.image_size}; or set {remedy[self.trains]}"
            )
        if self.std == 0:
            image = data.trained(MEASURED).to(self.device)
            self.std.copy_((shrunk(image, self.shrink) - self.draft(image)).std())
            if self.std == 0:
                raise UserError("this codec loses no detail that a refiner could paint: set codec=f4 or codec=f8")

    @torch.no_grad()
    def draft(self, image: Tensor) -> Tensor:
        """Signed pictures (B,3,H,W) → drafts, float32 (B,3,h,w) with h = H/shrink: encoded, decoded and shrunk."""
        return shrunk(self.codec.decode(self.codec.encode(image)).float(), self.shrink)

    def objective(self, draft: Tensor) -> Objective:
        """The training objective for pictures with these drafts (B,3,H,W)."""
        return Objective(Residual(draft, self.std), **self.schedule)

    def losses(self, batch: Batch) -> Losses:
        rng = PictureRandom(self.seed, self.picture_numbers(batch))
        draft, batch = self.draft(batch.image), self._shrunk(batch)
        std = broadcast(rng.uniform(LATENTS) * self.draft_noise, draft)
        network = conditioned(self.train_network, draft + std * rng.normal(DRAFTS, draft.shape[1:]))
        return self.noted(self.objective(draft)(network, batch, rng, self.needed_loss), self.train_bins)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Compute the losses of the EMA weights. Each picture has its own time and noise, the same every time."""
        draft, batch = self.draft(batch.image), self._shrunk(batch)
        time, noise = self.fixed_numbers(batch.image, batch.image.shape[1:])
        found = self.objective(draft).at(
            conditioned(self.ema, draft), batch, time=time, noise=noise, loss=self.needed_loss
        )
        self.log_validation(self.noted(found, self.val_bins), len(batch.image))

    @torch.no_grad()
    def sample_grid(self, image: Tensor) -> list[Tensor]:
        """Rows of pictures, their drafts, and these drafts refined without a label."""
        draft, label = self.draft(image), torch.full((len(image),), NO_LABEL, device=image.device)
        image = shrunk(image, self.shrink)
        noise = seeded_noise(range(len(image)), tuple(image.shape[1:])).to(image.device)
        made = refined(self.ema, Residual(draft, self.std), label, noise, steps=PREVIEW_STEPS)
        return [image, draft.clamp(-1, 1), made.clamp(-1, 1)]

    def captions(self) -> list[str]:
        return ["pictures", "drafts of them", "detail painted on the drafts"]

    def _shrunk(self, batch: Batch) -> Batch:
        """The batch at the refiner's resolution, without captions, which detail does not need.

        A smaller batch has no `index`, since caches hold features of the full-size pictures.
        """
        batch = batch._replace(words=None)
        if self.shrink == 1:
            return batch
        return batch._replace(image=shrunk(batch.image, self.shrink), index=None)
