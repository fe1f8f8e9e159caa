"""Noise from seeds."""

from collections.abc import Sequence

import torch
from torch import Tensor

from artdiff.diffusion.path import beside, noised


def from_muse(muse: Tensor, noise: Tensor, *, strength: float) -> tuple[Tensor, float]:
    """Where to start from a `muse`, and at what time: the muse itself at strength 0, pure noise at strength 1 (SDEdit,
    arXiv:2108.01073).
    """
    start = 1 - strength
    return noised(muse, noise, muse.new_full((len(muse),), start)), start


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Noise (B,C,H,W) for pictures of `shape`, each from its own seed alone, drawn on the CPU."""
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def between(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Noise (B,C,H,W) between two, `share` (B,) in [0,1] of the way: along the sphere, so that it stays as loud as
    noise is (Shoemake 1985, doi:10.1145/325334.325242). A share of 0 or 1 gives the ends exactly.
    """
    cosine = torch.cosine_similarity(one.flatten(1).double(), other.flatten(1).double()).clamp(-1, 1)
    angle = torch.arccos(cosine)
    sine = torch.sin(angle).clamp(min=1e-9)
    first, second = (torch.sin(part * angle) / sine for part in (1 - share.double(), share.double()))
    way = beside(first, one) * one + beside(second, one) * other
    way = torch.where(beside(angle < 1e-6, one), one.double(), way)  # the same noise twice
    ends = torch.where(beside(share, one) == 1, other.double(), way)
    return torch.where(beside(share, one) == 0, one.double(), ends).to(one.dtype)
