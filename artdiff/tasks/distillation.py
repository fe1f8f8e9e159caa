"""Learn to paint in few steps: straighten the paths of a painter, so that a few steps reach their ends."""

import copy
from typing import Any

import torch
from torch import Tensor

from artdiff import images
from artdiff.data.loader import Batch
from artdiff.diffusion import samplers
from artdiff.diffusion.codec import Identity
from artdiff.diffusion.conditioning import Asked, asked
from artdiff.diffusion.guidance import guided
from artdiff.diffusion.noise import NOISE, TIMES, PictureRandom
from artdiff.diffusion.objective import Denoised, LatentLoss, Target
from artdiff.diffusion.path import Preconditioned, interpolated
from artdiff.losses import Losses
from artdiff.settings.base import defaults
from artdiff.tasks.denoising import Denoising
from artdiff.tasks.generation import Generation

TEACHER_SOLVER = "dpm_solver_3m"


class Distillation(Generation):
    """A painter that learns where another one's paths lead (reflow: arXiv:2209.03003, arXiv:2309.06380).

    The teacher, frozen, paints from noise. The straight line from that noise to that picture is then learned like any
    other path, at the times at which few steps look and between them. Noise and picture belong together, so the lines
    do not cross, and one step along them goes far. The pictures of the batch only lend their labels and captions.

    Args:
        steps: of Euler's method that it is made for, and is painted with unless others are asked for.
        teacher_steps: that the teacher takes from noise to picture.
        views: times at which each of the teacher's pictures is learned from.
        teacher_guidance: what the teacher paints with, and what the painter then does without guidance.
        generation: all others are those of `Generation`.
    """

    def __init__(
        self, *, steps: int, teacher_steps: int, views: int, teacher_guidance: float = 1.0, **generation: Any
    ) -> None:
        super().__init__(**generation)
        self.steps = steps
        self.teacher_steps = teacher_steps
        self.views = views
        self.teacher_guidance = teacher_guidance
        self.interval = defaults("generate")["guidance_interval"]
        self.teacher = copy.deepcopy(self.ema)
        self.teacher_denoiser = Preconditioned(self.teacher, data_std=self.train_denoiser.data_std)

    @property
    def made_for(self) -> dict[str, Any]:
        return {"steps": self.steps, "solver": "euler", "spacing": "uniform", "guidance": 1.0}

    @torch.no_grad()
    def taught(self, noise: Tensor, given: Asked) -> Tensor:
        """What the teacher paints from noise (B,C,h,w) of what is asked for: latents of the same shape."""
        denoise = guided(self.teacher_denoiser, given, guidance=self.teacher_guidance, interval=self.interval)
        *_, clean = samplers.get(TEACHER_SOLVER)(denoise, noise, samplers.times(self.teacher_steps, spacing="karras"))
        return clean

    @torch.no_grad()
    def painted(self, noise: Tensor, given: Asked) -> Tensor:
        denoise = self.denoiser(given, guidance=1.0, interval=(0, 1))
        *_, painted = samplers.get("euler")(denoise, noise, samplers.times(self.steps))
        return painted

    def losses(self, batch: Batch) -> Losses:
        rng = PictureRandom(self.seed, self.picture_numbers(batch))
        given = self.objective.dropped(batch, rng)
        noise = rng.normal(NOISE, self._latent_shape(batch.image))
        clean = self.taught(noise, given)
        batch = batch._replace(image=self.codec.decode(clean) if self._sees_pictures else batch.image, index=None)
        seen = [self._view(batch, given, noise, clean, chance) for chance in rng.uniform(TIMES, self.views).T]
        losses = [self.noted(one, self.train_bands) for one in seen]
        terms = {name: torch.stack([one.terms[name] for one in losses]).mean(dim=0) for name in losses[0].terms}
        return Losses(torch.stack([one.loss for one in losses]).mean(), terms)

    @property
    def _sees_pictures(self) -> bool:
        """Whether the loss looks at pictures, and not at latents alone: decoding may cost more than denoising."""
        loss: object = self.loss
        return isinstance(self.codec, Identity) or self.perceptual is not None or not isinstance(loss, LatentLoss)

    def _view(self, batch: Batch, given: Asked, noise: Tensor, clean: Tensor, chance: Tensor) -> Denoised:
        """The loss at one time of each line; `chance` (B,) in [0,1) chooses it."""
        at_step = (2 * self.steps * chance).floor() / self.steps
        time = torch.where(chance < 0.5, at_step, 2 * chance - 1)
        denoised = self.train_denoiser(interpolated(clean, noise, time), time, *given)
        return self.objective.compare(denoised, clean, batch, time, self.needed_loss)

    def on_validation_epoch_start(self) -> None:
        Denoising.on_validation_epoch_start(self)  # there is no gap to measure: no picture of the folder is learned

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """How far its pictures are from the teacher's, for the labels and captions of held-out pictures."""
        _, noise = self.fixed_numbers(batch.image, self._latent_shape(batch.image))
        given = asked(batch)
        target, output = (
            images.signed_to_imagenet(self.codec.decode(latent))
            for latent in (self.taught(noise, given), self.painted(noise, given))
        )
        self.log_validation(self.needed_loss(output, Target(target)), len(batch.image))
