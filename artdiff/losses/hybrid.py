"""The weighted sum of the pixel MSE and the perceptual term."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from artdiff.diffusion.objective import Losses, Target
from artdiff.losses.perceptual import PerceptualLoss, picture_means


class HybridLoss:
    """`mse_weight · MSE + perceptual_weight · perceptual`, or the MSE alone without `perceptual`."""

    def __init__(self, *, mse_weight: float, perceptual_weight: float, perceptual: PerceptualLoss | None) -> None:
        self.mse_weight = mse_weight
        self.perceptual_weight = perceptual_weight
        self.perceptual = perceptual

    def __call__(
        self, output: Tensor, target: Target, *, weight: Tensor | None = None, gate: Tensor | None = None
    ) -> Losses:
        """Compare `output` (B,3,H,W) with its target, both ImageNet-normalised.

        `weight` (B,) multiplies the MSE of each picture; the term is then named `weighted_mse`. `gate` (B,), 0 or 1,
        selects the pictures that the perceptual term is averaged over; if it selects none, the average is 0. That
        average, and the scale of a relative perceptual loss, are computed over this batch: over each micro-batch if
        gradients are accumulated.
        """
        mse = picture_means(F.mse_loss(output, target.image, reduction="none"))
        name, error = ("mse", mse) if weight is None else ("weighted_mse", weight * mse)
        loss, terms = self.mse_weight * error.mean(), {name: error}
        if self.perceptual is not None:
            terms["perceptual"] = perceptual = self.perceptual(output, target)
            loss = loss + self.perceptual_weight * _mean(perceptual, gate)
        return Losses(loss, terms)

    def of_latents(
        self,
        denoised: Tensor,
        clean: Tensor,
        *,
        decode: Callable[[Tensor], Tensor],
        target: Target,
        weight: Tensor,
        gate: Tensor,
    ) -> Losses:
        """The MSE of latents (B,C,H/F,W/F) and the perceptual term of the decoded pictures.

        If `perceptual_weight` is 0, nothing is decoded: decoding costs more than denoising.
        """
        error = weight * picture_means(F.mse_loss(denoised.float(), clean, reduction="none"))
        loss, terms = self.mse_weight * error.mean(), {"weighted_mse": error}
        if self.perceptual is not None and self.perceptual_weight:
            terms["perceptual"] = perceptual = self.perceptual(decode(denoised), target)
            loss = loss + self.perceptual_weight * _mean(perceptual, gate)
        return Losses(loss, terms)


def _mean(errors: Tensor, gate: Tensor | None) -> Tensor:
    """The mean of (B,) over the pictures that `gate` (B,) selects."""
    return errors.mean() if gate is None else (gate * errors).sum() / gate.sum().clamp(min=1)
