"""The hybrid loss."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from artdiff.losses.perceptual import PerceptualLoss, _means


class Terms(NamedTuple):
    """A loss, a scalar, and the unweighted terms it is made of, of each picture: (B,)."""

    loss: Tensor
    mse: Tensor
    perceptual: Tensor | None


class HybridLoss:
    """`mse_weight · MSE + perceptual_weight · perceptual`; without `perceptual`, the first term alone."""

    def __init__(self, *, mse_weight: float, perceptual_weight: float, perceptual: PerceptualLoss | None) -> None:
        self.mse_weight = mse_weight
        self.perceptual_weight = perceptual_weight
        self.perceptual = perceptual

    def __call__(
        self,
        image: Tensor,
        target: Tensor,
        *,
        row: Tensor | None = None,
        weight: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> Terms:
        """`image`, `target` and `row` as `perceptual` takes them.

        `weight` (B,) multiplies each picture's MSE. `gate` (B,), 0 or 1, says which pictures the perceptual term is the
        mean of: none, and it is 0. Without them all count alike.
        """
        mse = _means(F.mse_loss(image, target, reduction="none"))
        loss = self.mse_weight * (mse if weight is None else weight * mse).mean()
        if self.perceptual is None:
            return Terms(loss, mse, None)
        perceptual = self.perceptual(image, target, row)
        counted = perceptual.mean() if gate is None else (gate * perceptual).sum() / gate.sum().clamp(min=1)
        return Terms(loss + self.perceptual_weight * counted, mse, perceptual)
