"""Samplers: solvers of the path from noise to a picture, one file each.

The velocity is `(denoised − noisy) / (1 − time)`. It needs no clipping, since no step goes beyond the estimate.
States are float32, or float64 if the noise is.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from artdiff.diffusion.guidance import Denoiser
from artdiff.settings.painting import Spacing

RHO = 7
"""Exponent ρ of the spacing `karras`: larger means finer steps close to the picture."""

MOST_NOISE, LEAST_NOISE = 50.0, 0.02
"""The largest and the smallest ratio of noise to picture in the spacing `karras`."""


Solver = str | Mapping[str, Any]
"""A sampler: the name of a file in this folder, a dotted path of a class, or a mapping with `_target_`."""

EARLIER: Solver = "heun"
"""The sampler of earlier versions, for pictures and stored settings that name none."""


class Sampler(Protocol):
    """Starts from the state `noisy` (B,C,H,W) at the first of `times`, and yields the state at each later time."""

    calls_per_step: int
    """Most evaluations of the denoiser per step. An optional attribute `extra_calls` counts those made only once."""

    def __call__(self, denoise: Denoiser, noisy: Tensor, times: Sequence[float]) -> Iterator[Tensor]: ...


def times(steps: int, start: float = 0.0, spacing: Spacing = "uniform") -> list[float]:
    """Times of the steps from `start` to 1; [1.0] if `start` is 1. From 0 there would be `steps` steps.

    With `karras`, steps are finer towards both ends: the ratios of noise to picture are spaced as in EDM
    (arXiv:2206.00364, eq. 5).
    """
    taken = 0 if start >= 1 else max(1, round(steps * (1 - start)))
    if spacing == "uniform" or taken < 2:
        return [start + (1 - start) * step / taken for step in range(taken)] + [1.0]
    most = min(MOST_NOISE, (1 - start) / start) if start else MOST_NOISE
    first, last = most ** (1 / RHO), min(LEAST_NOISE, most / 10) ** (1 / RHO)
    ratios = [(first + (last - first) * step / (taken - 1)) ** RHO for step in range(1, taken)]
    return [start, *(1 / (1 + ratio) for ratio in ratios), 1.0]


def is_ours(solver: object) -> bool:
    """Whether a solver is a file of this folder, and not a class from elsewhere, whose code would be run."""
    return isinstance(solver, str) and solver.isidentifier()


def get(solver: Solver) -> Sampler:
    """Create the sampler that `solver` names. The file `NAME.py` holds the class `Name`."""
    if isinstance(solver, str) and "." not in solver:
        return getattr(import_module(f"{__name__}.{solver}"), solver.title().replace("_", ""))()
    from hydra.utils import instantiate

    return instantiate({"_target_": solver} if isinstance(solver, str) else dict(solver))


def calls(solver: Solver, steps: int) -> int:
    """Most evaluations of the denoiser in so many steps."""
    sampler = get(solver)
    return steps * sampler.calls_per_step + getattr(sampler, "extra_calls", 0)


def velocity(denoise: Denoiser, noisy: Tensor, time: float) -> Tensor:
    """The velocity at a state `noisy` (B,C,H,W) and time."""
    return (denoise(noisy, time).to(noisy.dtype) - noisy) / (1 - time)


class Estimate(NamedTuple):
    """A denoiser's estimate of the clean pictures (B,C,H,W) at a time."""

    time: float
    clean: Tensor


def towards(noisy: Tensor, known: Sequence[Estimate], now: float, then: float) -> Tensor:
    """Take one step from the state `noisy` (B,C,H,W) at time `now` to time `then`, with the estimate extrapolated.

    The estimate is a polynomial in time: a constant, a line or a parabola through one, two or three `known` ones, the
    first of which is that at `now`. For it, the ODE is solved exactly (variation of constants). DPM-Solver++ uses
    polynomials in log(time / (1 − time)), which is undefined at time 0. Polynomials in time are defined at both ends.
    """
    start, end = 1 - now, 1 - then
    log = math.log(start / end) if end else 0.0
    constant, line = 1 - end / start, start - end - end * log  # `end` · integrals of 1 and (t − now), over (1 − t)²
    place = (end / start) * noisy + constant * known[0].clean
    if len(known) == 1:
        return place
    slope = _slope(known[0], known[1])
    place = place + line * slope
    if len(known) == 2:
        return place
    bend = (slope - _slope(known[1], known[2])) / (now - known[2].time)
    square = start**2 - start * end - 2 * start * end * log + end * (start - end)  # … and of (t − now)²
    return place + (square + (now - known[1].time) * line) * bend


def _slope(one: Estimate, other: Estimate) -> Tensor:
    return (one.clean - other.clean) / (one.time - other.time)


def at_least_float32(noisy: Tensor) -> Tensor:
    """The initial state in float32 or float64: half precision would lose small steps."""
    return noisy if noisy.dtype == torch.float64 else noisy.float()
