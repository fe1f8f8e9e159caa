"""Euler's method: the velocity at the start of each step."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from artdiff.diffusion.guidance import Denoiser
from artdiff.diffusion.samplers import at_least_float32, velocity


class Euler:
    """First order: halving the steps halves the error."""

    calls_per_step = 1

    def __call__(self, denoise: Denoiser, noisy: Tensor, times: Sequence[float]) -> Iterator[Tensor]:
        noisy = at_least_float32(noisy)
        for now, then in pairwise(times):
            noisy = noisy + (then - now) * velocity(denoise, noisy, now)
            yield noisy
