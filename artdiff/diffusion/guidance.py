"""Denoisers for samplers: with classifier-free guidance, and blends of two denoisers."""

from collections.abc import Callable

import torch
from torch import Tensor

from artdiff.diffusion.conditioning import Conditions, null
from artdiff.diffusion.path import Network, broadcast

Denoiser = Callable[[Tensor, float], Tensor]
"""(noisy (B,C,H,W), time, the same for all) → the estimate of the clean pictures, (B,C,H,W)."""


def guided(
    network: Network,
    conditions: Conditions,
    *,
    guidance: float,
    interval: tuple[float, float],
    negative: Conditions | None = None,
) -> Denoiser:
    """The denoiser under `conditions`, with classifier-free guidance (arXiv:2207.12598).

    `guidance` 1.0 is off. A larger value moves pictures towards the conditions and away from the `negative` ones (by
    default the null conditions), and makes them less varied. It acts only at times within `interval`
    (arXiv:2404.07724). Where it acts, and conditions and negative ones differ, both are evaluated in one call of twice
    the batch.
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
    """A denoiser that interpolates the estimates of two, with the weight `share` (B,) in [0,1] for the `other`."""

    def denoise(noisy: Tensor, time: float) -> Tensor:
        return torch.lerp(one(noisy, time), other(noisy, time), broadcast(share, noisy))

    return denoise
