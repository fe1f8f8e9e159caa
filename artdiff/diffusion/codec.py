"""Codecs: between pictures and what the network denoises."""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class Codec(Protocol):
    """Pictures are signed float32 (B,3,H,W); latents are (B,channels,H/factor,W/factor)."""

    channels: int
    factor: int
    """Pixels along a side of a latent position."""

    def encode(self, image: Tensor) -> Tensor:
        """Pictures → latents."""

    def decode(self, latent: Tensor) -> Tensor:
        """Latents → pictures; gradients pass through."""


class Identity:
    """The network denoises the pixels themselves."""

    channels = 3
    factor = 1

    def encode(self, image: Tensor) -> Tensor:
        return image

    def decode(self, latent: Tensor) -> Tensor:
        return latent


class Resize:
    """Latents are the pictures themselves at a `factor`-th of the sides: each of their pixels is a mean of pixels.

    What is lost is left to a refiner, as in a cascade (arXiv:2106.15282).
    """

    channels = 3

    def __init__(self, *, factor: int) -> None:
        self.factor = factor

    def encode(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(image, self.factor)

    def decode(self, latent: Tensor) -> Tensor:
        return F.interpolate(latent, scale_factor=float(self.factor), mode="bicubic")
