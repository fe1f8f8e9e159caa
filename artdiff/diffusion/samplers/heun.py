"""Heun's method: the mean of the velocities at both ends of each step (EDM, arXiv:2206.00364, algorithm 1)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from artdiff.diffusion.guidance import Denoiser
from artdiff.diffusion.samplers import at_least_float32, velocity


class Heun:
    """Second order: halving the steps divides the error by four. The last step is Euler's: at time 1 the velocity is
    not defined.
    """

    calls_per_step = 2

    def __call__(self, denoise: Denoiser, noisy: Tensor, times: Sequence[float]) -> Iterator[Tensor]:
        noisy = at_least_float32(noisy)
        for now, then in pairwise(times):
            slope = velocity(denoise, noisy, now)
            arrived = noisy + (then - now) * slope
            if then < 1:
                arrived = noisy + (then - now) * (slope + velocity(denoise, arrived, then)) / 2
            noisy = arrived
            yield noisy
