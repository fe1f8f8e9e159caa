"""A multistep method of order 2 in the data prediction, after DPM-Solver++(2M) (arXiv:2211.01095)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from artdiff.diffusion.guidance import Denoiser
from artdiff.diffusion.samplers import Estimate, at_least_float32, towards


class DpmSolver2M:
    """Second order with one evaluation per step: extrapolates the estimate linearly from the last two."""

    calls_per_step = 1

    def __call__(self, denoise: Denoiser, noisy: Tensor, times: Sequence[float]) -> Iterator[Tensor]:
        noisy = at_least_float32(noisy)
        known: list[Estimate] = []
        for now, then in pairwise(times):
            known = [Estimate(now, denoise(noisy, now).to(noisy.dtype)), *known[:1]]
            noisy = towards(noisy, known, now, then)
            yield noisy
