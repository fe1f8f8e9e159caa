"""Samplers: from noise to a picture, along the path."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from artdiff.diffusion.guidance import Denoiser

Solver = Literal["euler", "heun"]


def times(steps: int, *, start: float = 0.0) -> list[float]:
    """Evenly spaced times from `start` to 1, `steps` being what the whole way from 0 would take; [1.0] from 1."""
    taken = 0 if start >= 1 else max(1, round(steps * (1 - start)))
    return [start + (1 - start) * step / taken for step in range(taken)] + [1.0]


def follow(denoise: Denoiser, noisy: Tensor, along: Sequence[float], *, solver: Solver) -> Iterator[Tensor]:
    """Follow the path from `noisy`, at the first of the times `along`, and yield the place at each of the later ones.

    Places are float32, or float64 if `noisy` is. The velocity is `(denoised − noisy) / (1 − time)`; it needs no
    clipping, since no step leads beyond the estimate. `euler` takes it where a step begins: one call of `denoise` a
    step. `heun` takes the mean of that and the one where the step ends (arXiv:2206.00364, algorithm 1), but for the
    last step: the velocity is not defined at time 1.
    """
    noisy = noisy if noisy.dtype == torch.float64 else noisy.float()

    def velocity(at: Tensor, time: float) -> Tensor:
        return (denoise(at, time).to(at.dtype) - at) / (1 - time)

    for now, then in pairwise(along):
        slope = velocity(noisy, now)
        arrived = noisy + (then - now) * slope
        if solver == "heun" and then < 1:
            arrived = noisy + (then - now) * (slope + velocity(arrived, then)) / 2
        noisy = arrived
        yield noisy
