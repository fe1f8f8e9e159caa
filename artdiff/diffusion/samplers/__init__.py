"""Samplers: ways to follow the path from noise to a picture, one file each.

The velocity is `(denoised − noisy) / (1 − time)`. It needs no clipping, since no step leads beyond the estimate.
Places are float32, or float64 if the noise is.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from artdiff.diffusion.guidance import Denoiser
from artdiff.settings import Spacing

RHO = 7
"""How much finer the steps of `karras` get towards the picture."""

MOST_NOISE, LEAST_NOISE = 50.0, 0.02
"""The first and the last ratio of noise to picture between which `karras` spaces the steps."""


class Sampler(Protocol):
    """Follows the path from `noisy` (B,C,H,W), at the first of `times`, and yields the place at each later time."""

    calls_per_step: int
    """How often a step calls the denoiser, at most."""

    def __call__(self, denoise: Denoiser, noisy: Tensor, times: Sequence[float]) -> Iterator[Tensor]: ...


def times(steps: int, start: float = 0.0, spacing: Spacing = "uniform") -> list[float]:
    """Times from `start` to 1, where the whole way from 0 would take `steps`; [1.0] if `start` is 1.

    `karras` takes finer steps towards both ends: the ratios of noise to picture are spaced as in EDM
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
    """Whether a solver is named by a file of this folder, and not a class from elsewhere, which would be run."""
    return isinstance(solver, str) and solver.isidentifier()


def get(solver: str | Mapping[str, Any]) -> Sampler:
    """The sampler of a name, that is a file of this folder, of a dotted path, or of a mapping with `_target_`.

    The file `NAME.py` holds the class `Name`.
    """
    if isinstance(solver, str) and "." not in solver:
        return getattr(import_module(f"{__name__}.{solver}"), solver.title().replace("_", ""))()
    from hydra.utils import instantiate

    return instantiate({"_target_": solver} if isinstance(solver, str) else dict(solver))


def velocity(denoise: Denoiser, noisy: Tensor, time: float) -> Tensor:
    """The direction of the path at a place (B,C,H,W) and time."""
    return (denoise(noisy, time).to(noisy.dtype) - noisy) / (1 - time)


def at_least_float32(noisy: Tensor) -> Tensor:
    """Where a sampler starts: steps are small, and half precision would lose them."""
    return noisy if noisy.dtype == torch.float64 else noisy.float()
