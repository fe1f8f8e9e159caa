"""Random numbers: per picture in training, seeded noise for painting, and interpolation of noise."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from artdiff.diffusion.path import broadcast, interpolated

TIMES, NOISE, LABELS, LATENTS, DRAFTS, ENLARGED, CAPTIONS, WORDS = range(8)
"""Streams of independent numbers of `PictureRandom`, for each picture: time, noise, label dropout, scale of the noise
on its latent or draft, noise of a refiner, noise of an enlarger, caption dropout, word dropout."""

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
"""Increment of SplitMix64's counter: odd, and near 2⁶⁴ divided by the golden ratio."""


class PictureRandom:
    """Random numbers for each picture of a batch, a pure function of the seed and the picture's number.

    Counter-based: SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195) and the Box-Muller transform.
    The integers are the same on every device; normal numbers agree up to rounding.

    Args:
        seed: of the run.
        numbers: int64 (B,), each picture's index in the order of training, counting repeated epochs.
    """

    def __init__(self, seed: int, numbers: Tensor) -> None:
        start = _mixed_int(seed * GOLDEN_GAMMA + 1)
        self.keys = _mixed(numbers * _signed(GOLDEN_GAMMA) + _signed(start))  # (B,)

    def uniform(self, stream: int, count: int | None = None) -> Tensor:
        """Uniform float32 (B,) in [0,1), or (B,count) if a count is given."""
        numbers = _shifted(self._bits(stream, count or 1), 40).float() * 2.0**-24
        return numbers[:, 0] if count is None else numbers

    def normal(self, stream: int, shape: Sequence[int] = ()) -> Tensor:
        """Unit Gaussian numbers float32 (B, *shape)."""
        count = math.prod(shape)
        bits = self._bits(stream, -(-count // 2))
        radius = _shifted(bits, 32).float().add_(1).mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle = (bits & 0xFFFFFFFF).float().mul_(2 * math.pi * 2.0**-32)
        pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
        return pairs[:, :count].reshape(-1, *shape)

    def _bits(self, stream: int, count: int) -> Tensor:
        """Random int64 (B,count): the first outputs of a SplitMix64 generator for each picture and stream."""
        start = _mixed(self.keys + _signed((stream + 1) * GOLDEN_GAMMA))
        counter = torch.arange(1, count + 1, device=start.device) * _signed(GOLDEN_GAMMA)
        return _mixed(start[:, None] + counter)


def from_muse(muse: Tensor, noise: Tensor, *, strength: float) -> tuple[Tensor, float]:
    """The initial state and time for painting from a muse (SDEdit, arXiv:2108.01073).

    `strength` 0 is the muse itself, 1 is pure noise.
    """
    start = 1 - strength
    return interpolated(muse, noise, muse.new_full((len(muse),), start)), start


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Unit Gaussian noise (B,*shape), one seed each. Drawn on the CPU, so that it is the same on every machine."""
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def between(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Interpolate noise (B,C,H,W) spherically, so that it keeps its norm (Shoemake 1985, doi:10.1145/325334.325242).

    `share` (B,) in [0,1]: exactly 0 gives `one`, exactly 1 gives `other`.
    """
    cosine = torch.cosine_similarity(one.flatten(1).double(), other.flatten(1).double()).clamp(-1, 1)
    angle = torch.arccos(cosine)
    sine = torch.sin(angle).clamp(min=1e-9)
    first, second = (torch.sin(part * angle) / sine for part in (1 - share.double(), share.double()))
    way = broadcast(first, one) * one + broadcast(second, one) * other
    way = torch.where(broadcast(angle < 1e-6, one), one.double(), way)  # the same noise twice
    ends = torch.where(broadcast(share, one) == 1, other.double(), way)
    return torch.where(broadcast(share, one) == 0, one.double(), ends).to(one.dtype)


def _mixed(z: Tensor) -> Tensor:
    """The output function of SplitMix64, on int64 whose products wrap around."""
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """Shift int64 to the right, filling with zeros: torch repeats the sign bit."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _mixed_int(z: int) -> int:
    """`_mixed` of one number in [0, 2⁶⁴)."""
    mask = 2**64 - 1
    z &= mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return z ^ (z >> 31)


def _signed(z: int) -> int:
    """The int64 with the same bits as the lowest 64 bits of `z`."""
    z &= 2**64 - 1
    return z - 2**64 if z >= 2**63 else z
