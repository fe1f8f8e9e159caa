"""Learn to paint the detail that a codec loses: denoise the difference between pictures and their drafts."""

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
from artdiff.diffusion.refiner import CHANNELS, Residual, given, refined, shrunk
from artdiff.losses import Loss, Losses
from artdiff.tasks.denoising import NO_REFINER, PREVIEW_STEPS, Denoising, check_takes

MEASURED = 64
"""Training pictures that the scale of the differences is measured on."""


class Refinement(Denoising):
    """Train a refiner: what it is given as a draft is what `codec` decodes of a picture, with some noise.

    Args:
        network: called `net(noisy ⊕ draft, time, label) -> output`, built with `classes` and the numbers of channels.
        optimizer: for its weights.
        scheduler: of the learning rate, once an epoch; None keeps it constant.
        codec: makes the drafts; not trained here.
        draft_noise: drafts get noise of a standard deviation between 0 and this, drawn for each picture, so that the
            refiner does not rely on what a painter's drafts lack (arXiv:2106.15282).
        time_mean, time_std, gate, label_dropout, warmup, classes, ema_half_life, ema_ramp: as in `Generation`.
        trains: what becomes of it, the painter's `refiner` or its `enlarger`.
        shrink: learns at a `shrink`-th of the pictures' sides: 2 for a refiner that an enlarger follows.
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
        """Measure the scale of the differences on some training pictures, unless the checkpoint has it."""
        data: PictureDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        multiple = self.shrink * getattr(self.network, "multiple", 1)
        if data.settings.image_size % multiple:
            remedy = {"refiner": "refiner=none stages.refine.share=0", "enlarger": "enlarger=none stages=cascade"}
            raise UserError(
                f"the {self.trains} needs image sides that are multiples of {multiple}, got "
                f"data.image_size={data.settings.image_size}; or set {remedy[self.trains]}"
            )
        if self.std == 0:
            image = data.trained(MEASURED).to(self.device)
            self.std.copy_((shrunk(image, self.shrink) - self.draft(image)).std())
            if self.std == 0:
                raise UserError("this codec loses no detail that a refiner could paint: set codec=f4 or codec=f8")

    @torch.no_grad()
    def draft(self, image: Tensor) -> Tensor:
        """Signed pictures (B,3,H,W) → what the codec makes of them, float32 (B,3,h,w); h = H/shrink."""
        return shrunk(self.codec.decode(self.codec.encode(image)).float(), self.shrink)

    def objective(self, draft: Tensor) -> Objective:
        """How pictures with these drafts (B,3,H,W) are denoised."""
        return Objective(Residual(draft, self.std), **self.schedule)

    def losses(self, batch: Batch) -> Losses:
        rng = PictureRandom(self.seed, self.picture_numbers(batch))
        draft, batch = self.draft(batch.image), self._shrunk(batch)
        std = broadcast(rng.uniform(LATENTS) * self.draft_noise, draft)
        network = given(draft + std * rng.normal(DRAFTS, draft.shape[1:]), self.train_network)
        return self.noted(self.objective(draft)(network, batch, rng, self.needed_loss), self.train_bands)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The losses of the averaged weights on whole pictures, each with its own time and noise, always the same."""
        draft, batch = self.draft(batch.image), self._shrunk(batch)
        time, noise = self.fixed_numbers(batch.image, batch.image.shape[1:])
        found = self.objective(draft).at(given(draft, self.ema), batch, time=time, noise=noise, loss=self.needed_loss)
        self.log_validation(self.noted(found, self.val_bands), len(batch.image))

    @torch.no_grad()
    def sample_grid(self, image: Tensor) -> list[Tensor]:
        """Pictures, their drafts, and what is made of these without a label."""
        draft, label = self.draft(image), torch.full((len(image),), NO_LABEL, device=image.device)
        image = shrunk(image, self.shrink)
        noise = seeded_noise(range(len(image)), tuple(image.shape[1:])).to(image.device)
        made = refined(self.ema, Residual(draft, self.std), label, noise, steps=PREVIEW_STEPS)
        return [image, draft.clamp(-1, 1), made.clamp(-1, 1)]

    def captions(self) -> list[str]:
        return ["pictures", "drafts of them", "detail painted on the drafts"]

    def _shrunk(self, batch: Batch) -> Batch:
        """The batch as it is learned from, without captions: detail does not need them. Smaller pictures have no place
        in the caches of the whole ones.
        """
        batch = batch._replace(words=None)
        if self.shrink == 1:
            return batch
        return batch._replace(image=shrunk(batch.image, self.shrink), index=None)
