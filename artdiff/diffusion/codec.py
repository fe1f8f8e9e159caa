"""Codecs: between pictures and what the network denoises."""

from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """Pictures are signed float32 (B,3,H,W); latents are (B,channels,H/factor,W/factor), standardised."""

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
