"""Codecs: encode pictures to the latents that the network denoises, and decode them."""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class Codec(Protocol):
    """Pictures are signed float32 (B,3,H,W); latents are (B,channels,H/factor,W/factor)."""

    channels: int
    factor: int
    """Width and height in pixels of a latent position."""

    def encode(self, image: Tensor) -> Tensor:
        """Pictures → latents."""

    def decode(self, latent: Tensor) -> Tensor:
        """Latents → pictures; gradients pass through."""


class Identity:
    """No codec: the network denoises pixels."""

    channels = 3
    factor = 1

    def encode(self, image: Tensor) -> Tensor:
        return image

    def decode(self, latent: Tensor) -> Tensor:
        return latent


class Resize:
    """Latents are the pictures, downsampled by `factor` in width and height with average pooling.

    A refiner paints the lost detail, as in a cascade (arXiv:2106.15282).
    """

    channels = 3

    def __init__(self, *, factor: int) -> None:
        self.factor = factor

    def encode(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(image, self.factor)

    def decode(self, latent: Tensor) -> Tensor:
        return F.interpolate(latent, scale_factor=float(self.factor), mode="bicubic")
