"""A convolutional autoencoder, whose latents cost far less to denoise than pictures (arXiv:2112.10752).

Shape letters: B pictures, H and W pixels, C latent channels, F the factor, K channels of a level.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artdiff import UserError
from artdiff.networks.layers import group_norm

MOMENTUM = 0.01
"""Momentum of the running statistics of the latents: the weight of each training batch."""


class Autoencoder(nn.Module):
    """A codec: `encode` returns latents of unit variance, `decode` pictures. H and W must be multiples of the factor.

    Squares of pixels first become channels, so no layer runs at full resolution. There is no attention, and no skip
    connection around the bottleneck. Beside the blocks, encoder and decoder each have a linear path. It learns the best
    linear code within minutes, and the blocks learn the rest (after DC-AE, arXiv:2410.10733). Latents are standardised
    per channel by a batch normalisation without weights. Its running statistics are in the state_dict, and so in
    checkpoints.

    Args:
        patch: width and height in pixels of the squares that become channels.
        encoder: channels of each level of the encoder, multiples of 16. Each level after the first halves width and
            height.
        decoder: the same for the decoder, in the same order.
        num_res_blocks: residual blocks in each level, of the encoder and of the decoder.
        latent_channels: channels of the latents.

    Attributes:
        channels: channels of the latents.
        factor: width and height in pixels of a latent position: `patch · 2^(levels − 1)`.
    """

    def __init__(
        self, *, patch: int, encoder: Sequence[int], decoder: Sequence[int], num_res_blocks: int, latent_channels: int
    ) -> None:
        super().__init__()
        if len(encoder) != len(decoder) or not encoder:
            raise UserError(
                f"codec.encoder and codec.decoder need equally many levels, got {list(encoder)} and {list(decoder)}"
            )
        self.patch = patch
        self.channels = latent_channels
        self.factor = patch * 2 ** (len(encoder) - 1)
        down: list[nn.Module] = [nn.PixelUnshuffle(patch), nn.Conv2d(3 * patch**2, encoder[0], 3, padding=1)]
        for level, width in enumerate(encoder):
            if level:
                down.append(nn.Conv2d(encoder[level - 1], width, 3, stride=2, padding=1))
            down += [Block(width) for _ in range(num_res_blocks)]
        down += [group_norm(encoder[-1]), nn.SiLU(), nn.Conv2d(encoder[-1], latent_channels, 1)]
        self.encoder = nn.Sequential(*down)
        squares = 3 * self.factor**2
        self.encoder_linear = nn.Sequential(nn.PixelUnshuffle(self.factor), nn.Conv2d(squares, latent_channels, 1))
        self.standardise = nn.BatchNorm2d(latent_channels, affine=False, momentum=MOMENTUM)
        up: list[nn.Module] = [nn.Conv2d(latent_channels, decoder[-1], 3, padding=1)]
        for level, width in reversed(list(enumerate(decoder))):
            up += [Block(width) for _ in range(num_res_blocks)]
            if level:
                up += [nn.Upsample(scale_factor=2.0), nn.Conv2d(width, decoder[level - 1], 3, padding=1)]
        up += [group_norm(decoder[0]), nn.SiLU(), nn.Conv2d(decoder[0], 3 * patch**2, 3, padding=1)]
        self.decoder = nn.Sequential(*up, nn.PixelShuffle(patch))
        self.decoder_linear = nn.Sequential(nn.Conv2d(latent_channels, squares, 1), nn.PixelShuffle(self.factor))

    def encode(self, image: Tensor) -> Tensor:
        """Signed pictures (B,3,H,W), H and W multiples of the factor → latents float32 (B,C,H/F,W/F).

        In training mode, latents are standardised with the statistics of the batch, which update the running ones.
        """
        image = image.contiguous(memory_format=torch.channels_last)
        return self.standardise((self.encoder(image) + self.encoder_linear(image)).float())

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (B,C,H/F,W/F) → pictures (B,3,H,W), signed but not clamped."""
        latent = latent.contiguous(memory_format=torch.channels_last)
        return self.decoder(latent) + self.decoder_linear(latent)

    def forward(self, image: Tensor) -> Tensor:
        """Signed pictures (B,3,H,W) → reconstructions (B,3,H,W), not clamped."""
        return self.decode(self.encode(image))


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(width), group_norm(width)
        self.conv1 = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B,K,H,W) → (B,K,H,W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))
