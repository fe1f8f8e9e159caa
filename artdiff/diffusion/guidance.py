"""Denoisers as samplers call them: guided to a label, or between two labels."""

from collections.abc import Callable

import torch
from torch import Tensor

from artdiff.diffusion.conditioning import NO_LABEL
from artdiff.diffusion.path import Network, broadcast

Denoiser = Callable[[Tensor, float], Tensor]
"""(noisy (B,C,H,W), one time for all) → the estimate of the clean pictures, (B,C,H,W)."""


def guided(network: Network, label: Tensor, *, guidance: float, interval: tuple[float, float]) -> Denoiser:
    """The denoiser for `label` int64 (B,) with classifier-free guidance (arXiv:2207.12598).

    `guidance` 1.0 is off; more is closer to the label and less varied. It acts at times within `interval` only
    (arXiv:2404.07724). Where it acts, and unless all labels are null, the network sees each picture twice, in one call.
    """
    has_label = bool((label != NO_LABEL).any())

    def at(noisy: Tensor, time: float, label: Tensor) -> Tensor:
        return network(noisy, noisy.new_full((len(noisy),), time), label)

    def denoise(noisy: Tensor, time: float) -> Tensor:
        acts = guidance != 1 and interval[0] <= time <= interval[1] and has_label
        if not acts:
            return at(noisy, time, label)
        labels = torch.cat([label, torch.full_like(label, NO_LABEL)])
        with_label, without = at(noisy.repeat(2, 1, 1, 1), time, labels).chunk(2)
        return without + guidance * (with_label - without)

    return denoise


def blended(one: Denoiser, other: Denoiser, share: Tensor) -> Denoiser:
    """A denoiser between two: `share` (B,) in [0,1] of the `other`."""

    def denoise(noisy: Tensor, time: float) -> Tensor:
        return torch.lerp(one(noisy, time), other(noisy, time), broadcast(share, noisy))

    return denoise
