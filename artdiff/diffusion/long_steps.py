"""Targets for distillation: the estimate with which one long step ends where a teacher's several small ones end.

The path from noise to picture is cut into equal long steps. From the start of one, the teacher samples to its end in
several smaller steps. The student learns the estimate that leads there in one Euler step. This is progressive
distillation (arXiv:2202.00512), but it trains all long steps together and does not halve their number repeatedly.

Pictures (or latents) and noise are (B,C,H,W), times are (B,) in [0,1].
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from artdiff.diffusion.guidance import Denoiser
from artdiff.diffusion.path import broadcast, interpolated
from artdiff.diffusion.samplers import Sampler


class LongStep(NamedTuple):
    """A state `noisy` (B,C,H,W), its time (B,), and the `estimate` (B,C,H,W) with which an Euler step ends where the
    teacher ends.
    """

    noisy: Tensor
    time: Tensor
    estimate: Tensor


@torch.no_grad()
def long_step(
    teacher: Callable[[Tensor], Denoiser],
    clean: Tensor,
    noise: Tensor,
    chance: Tensor,
    *,
    steps: int,
    teacher_steps: int,
    solver: Sampler,
) -> LongStep:
    """Draw one of `steps` long steps for each picture; return its initial state and the estimate to learn.

    Args:
        teacher: returns the denoiser for some of the pictures, given their indices int64 (N,) in the batch.
        clean: pictures.
        noise: unit Gaussian.
        chance: (B,) in [0,1), selects the long step.
        steps: long steps from noise to picture.
        teacher_steps: the teacher's steps from noise to picture: a multiple of `steps`.
        solver: the teacher's sampler, which restarts in each long step.
    """
    which = (steps * chance).long().clamp(max=steps - 1)  # (B,)
    time = which / steps
    noisy = interpolated(clean, noise, time)
    arrived, parts = torch.empty_like(noisy), teacher_steps // steps
    for step in range(steps):
        rows = (which == step).nonzero()[:, 0]
        if len(rows):
            times = [(step + part / parts) / steps for part in range(parts + 1)]
            *_, there = solver(teacher(rows), noisy[rows], times)
            arrived[rows] = there
    left, left_then = broadcast(1 - time, noisy), broadcast(1 - (which + 1) / steps, noisy)
    return LongStep(noisy, time, steps * (left * arrived - left_then * noisy))
