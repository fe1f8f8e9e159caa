"""Where a long step should lead: what a denoiser has to learn so that one call goes as far as several of a teacher's.

The way from noise to picture is cut into equal steps. From the beginning of one, the teacher goes to its end in several
smaller ones. The estimate that would lead there at once is what the denoiser learns: progressive distillation
(arXiv:2202.00512), for all steps together and without halving their number again and again.

Pictures (or latents) and noise are (B,C,H,W), times are (B,) in [0,1].
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from artdiff.diffusion.guidance import Denoiser
from artdiff.diffusion.path import broadcast, interpolated
from artdiff.diffusion.samplers import Sampler


class Leap(NamedTuple):
    """A place on the way (B,C,H,W), its time (B,), and the `estimate` (B,C,H,W) with which a step of Euler's leads
    where the teacher arrives.
    """

    noisy: Tensor
    time: Tensor
    estimate: Tensor


@torch.no_grad()
def leap(
    teacher: Callable[[Tensor], Denoiser],
    clean: Tensor,
    noise: Tensor,
    chance: Tensor,
    *,
    steps: int,
    teacher_steps: int,
    solver: Sampler,
) -> Leap:
    """The beginning of one of `steps` long steps for each picture, and where it should lead.

    Args:
        teacher: gives the denoiser for some of the pictures, by their places int64 (N,) in the batch.
        clean: pictures.
        noise: unit Gaussian.
        chance: (B,) in [0,1), which of the steps it is.
        steps: of the whole way.
        teacher_steps: of the teacher, for the whole way: a multiple of `steps`.
        solver: of the teacher, which begins anew in each of `steps`.
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
    return Leap(noisy, time, steps * (left * arrived - left_then * noisy))
