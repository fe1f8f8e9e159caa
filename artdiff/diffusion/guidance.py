"""Denoisers as samplers call them: guided to a label or to words, or between two of these."""

from collections.abc import Callable

import torch
from torch import Tensor

from artdiff.diffusion.conditioning import Conditions, null
from artdiff.diffusion.path import Network, broadcast

Denoiser = Callable[[Tensor, float], Tensor]
"""(noisy (B,C,H,W), one time for all) → the estimate of the clean pictures, (B,C,H,W)."""


def guided(
    network: Network,
    conditions: Conditions,
    *,
    guidance: float,
    interval: tuple[float, float],
    negative: Conditions | None = None,
) -> Denoiser:
    """The denoiser under `conditions`, with classifier-free guidance (arXiv:2207.12598).

    `guidance` 1.0 is off; more is closer to the conditions, away from the `negative` ones (the null conditions, unless
    others are given), and less varied. It acts at times within `interval` only (arXiv:2404.07724). Where it acts, and
    the conditions differ from the negative ones, the network sees each picture twice, in one call.
    """
    away = null(conditions) if negative is None else negative
    guides = guidance != 1 and any(bool((part != other).any()) for part, other in zip(conditions, away, strict=True))

    def at(noisy: Tensor, time: float, conditions: Conditions) -> Tensor:
        return network(noisy, noisy.new_full((len(noisy),), time), *conditions)

    def denoise(noisy: Tensor, time: float) -> Tensor:
        if not (guides and interval[0] <= time <= interval[1]):
            return at(noisy, time, conditions)
        both = tuple(torch.cat(parts) for parts in zip(conditions, away, strict=True))
        with_it, without = at(noisy.repeat(2, 1, 1, 1), time, both).chunk(2)
        return without + guidance * (with_it - without)

    return denoise


def blended(one: Denoiser, other: Denoiser, share: Tensor) -> Denoiser:
    """A denoiser between two: `share` (B,) in [0,1] of the `other`."""

    def denoise(noisy: Tensor, time: float) -> Tensor:
        return torch.lerp(one(noisy, time), other(noisy, time), broadcast(share, noisy))

    return denoise
