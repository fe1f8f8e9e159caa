"""Distil a painter into one that paints in few steps: one step covers several of the teacher's."""

import copy
from typing import Any

import torch
from torch import Tensor

from artdiff import UserError, images
from artdiff.data.loader import Batch
from artdiff.diffusion import samplers
from artdiff.diffusion.codec import Identity
from artdiff.diffusion.conditioning import Conditions, conditions
from artdiff.diffusion.guidance import Denoiser, guided
from artdiff.diffusion.long_steps import long_step
from artdiff.diffusion.noise import NOISE, TIMES, PictureRandom
from artdiff.diffusion.objective import LatentLoss, Target
from artdiff.diffusion.path import Preconditioned
from artdiff.losses import Losses
from artdiff.settings.base import defaults
from artdiff.tasks.denoising import Denoising
from artdiff.tasks.generation import Generation


class Distillation(Generation):
    """Learn to cover in one step what a teacher covers in several (`artdiff.diffusion.long_steps`).

    The teacher is frozen. It starts from noisy pictures of the folder, as in training.

    Args:
        steps: number of Euler steps that the student is trained for, its default for painting.
        teacher_steps: the teacher's number of steps from noise to picture, a multiple of `steps`.
        teacher_guidance: guidance scale of the teacher; the student then needs none.
        teacher_solver: the teacher's sampler. A teacher that is a few-step model itself needs `euler`, and its own
            number of steps.
        generation: see `Generation`.

    Raises `UserError` if it was built to train and `teacher_steps` is not a multiple of `steps`.
    """

    def __init__(
        self,
        *,
        steps: int,
        teacher_steps: int,
        teacher_guidance: float = 1.0,
        teacher_solver: str = "dpm_solver_3m",
        **generation: Any,
    ) -> None:
        super().__init__(**generation)
        is_trained = self.loss is not None  # else it only paints, or the teacher's settings are not known yet
        if is_trained and teacher_steps % steps:
            fits = max(1, round(teacher_steps / steps)) * steps
            raise UserError(
                f"task.teacher_steps must be a multiple of task.steps={steps}, got {teacher_steps}: "
                f"set task.teacher_steps={fits}"
            )
        self.steps = steps
        self.teacher_steps = teacher_steps
        self.teacher_guidance = teacher_guidance
        self.teacher_solver = teacher_solver
        self.interval = defaults("generate")["guidance_interval"]
        self.teacher = copy.deepcopy(self.ema)
        self.teacher_denoiser = Preconditioned(self.teacher, data_std=self.train_denoiser.data_std)

    @property
    def made_for(self) -> dict[str, Any]:
        return {"steps": self.steps, "solver": "euler", "spacing": "uniform", "guidance": 1.0}

    def taught(self, given: Conditions) -> Denoiser:
        """The teacher's denoiser under these conditions, with its guidance."""
        return guided(self.teacher_denoiser, given, guidance=self.teacher_guidance, interval=self.interval)

    @torch.no_grad()
    def painted(self, noise: Tensor, given: Conditions) -> Tensor:
        denoise = self.denoiser(given, guidance=1.0, interval=(0, 1))
        *_, painted = samplers.get("euler")(denoise, noise, samplers.times(self.steps))
        return painted

    def losses(self, batch: Batch) -> Losses:
        rng = PictureRandom(self.seed, self.picture_numbers(batch))
        given, clean = self.objective.dropped(batch, rng), self.encoded(batch)
        noise, chance = rng.normal(NOISE, clean.shape[1:]), rng.uniform(TIMES)
        noisy, time, estimate = long_step(
            lambda rows: self.taught(tuple(part[rows] for part in given)),
            clean,
            noise,
            chance,
            steps=self.steps,
            teacher_steps=self.teacher_steps,
            solver=samplers.get(self.teacher_solver),
        )
        target = batch._replace(image=self.codec.decode(estimate) if self._sees_pictures else batch.image, index=None)
        denoised = self.train_denoiser(noisy, time, *given)
        return self.noted(self.objective.compare(denoised, estimate, target, time, self.needed_loss), self.train_bins)

    @property
    def _sees_pictures(self) -> bool:
        """Whether the loss compares decoded pictures. If not, decoding is skipped: it may cost more than denoising."""
        loss: object = self.loss
        return isinstance(self.codec, Identity) or self.perceptual is not None or not isinstance(loss, LatentLoss)

    def on_validation_epoch_start(self) -> None:
        Denoising.on_validation_epoch_start(self)  # without the generalisation gap: targets come from the teacher

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Compare its samples with the teacher's, for the labels and captions of held-out pictures."""
        _, noise = self.fixed_numbers(batch.image, self._latent_shape(batch.image))
        given, times = conditions(batch), samplers.times(self.teacher_steps)
        *_, taught = samplers.get(self.teacher_solver)(self.taught(given), noise, times)
        target, output = (
            images.signed_to_imagenet(self.codec.decode(latent)) for latent in (taught, self.painted(noise, given))
        )
        self.log_validation(self.needed_loss(output, Target(target)), len(batch.image))
