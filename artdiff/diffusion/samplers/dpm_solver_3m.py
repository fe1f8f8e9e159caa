"""A multistep method of order 3 in the data prediction, after DPM-Solver++ (arXiv:2211.01095)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from artdiff.diffusion.guidance import Denoiser
from artdiff.diffusion.samplers import Estimate, at_least_float32, towards

LONGEST = 0.6
"""Use fewer of the last estimates if a step is longer than this part of the time that they span.

With three estimates, even steps are half of that time. Karras' steps grow towards the middle, and a parabola through
short steps is wrong on a long one.
"""


class DpmSolver3M:
    """Third order with one evaluation per step: extrapolates the estimate along a parabola through the last three.

    The first step has no earlier estimates. It makes a trial step instead, with one more evaluation at its end.
    """

    calls_per_step = 1
    extra_calls = 1

    def __call__(self, denoise: Denoiser, noisy: Tensor, times: Sequence[float]) -> Iterator[Tensor]:
        noisy = at_least_float32(noisy)
        known: list[Estimate] = []
        for now, then in pairwise(times):
            known = [Estimate(now, denoise(noisy, now).to(noisy.dtype)), *known[:2]]
            past = trusted(known, now, then)
            if len(known) == 1 and then < 1:
                there = towards(noisy, known, now, then)
                past = [*known, Estimate(then, denoise(there, then).to(noisy.dtype))]
            noisy = towards(noisy, past, now, then)
            yield noisy


def trusted(known: list[Estimate], now: float, then: float) -> list[Estimate]:
    """The last estimates that may be extrapolated for a step from `now` to `then`: fewer for a long step."""
    for count in range(len(known), 1, -1):
        even_steps = (now - known[count - 1].time) / (count - 1)
        if then - now <= 2 * LONGEST * even_steps:
            return known[:count]
    return known[:1]
