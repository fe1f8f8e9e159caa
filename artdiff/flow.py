"""Time 0 is noise and time 1 a picture: the straight path between them, what training asks of it, and ways along it.

`noisy = time · image + (1 − time) · noise`, with unit Gaussian noise (rectified flow, arXiv:2209.03003). A *denoiser*
answers `denoise(noisy, time)` with its estimate of the clean picture, whatever the time. Training weighs that estimate
as arXiv:2511.13720 does. Where that paper scales the noise with the picture's size, the times are shifted here, which
is the same path at another pace.

Pictures and noise are (B,C,H,W), signed where they are pictures; times are (B,) in [0,1].
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

NEAREST = 0.05
"""How near to a picture, in time, errors are still weighed as velocities: the weight grows no further from there."""

Denoiser = Callable[[Tensor, float], Tensor]
"""(noisy (B,C,H,W), the time of them all) → the estimate of the clean picture, (B,C,H,W)."""

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy (B,C,H,W), time (B,), label int64 (B,)) → the estimate of the clean picture, (B,C,H,W)."""

Solver = Literal["euler", "heun"]


def noised(image: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """The place on the path from `noise` to `image`, both (B,C,H,W), at `time` (B,)."""
    time = _beside(time, image)
    return time * image + (1 - time) * noise


def draw_times(count: int, *, mean: float, std: float, device: torch.device | str = "cpu") -> Tensor:
    """Times (count,) to train at, from torch's global generator: the sigmoid of a normal distribution
    (arXiv:2403.03206, eq. 19). A higher `mean` trains nearer to the picture.
    """
    return torch.sigmoid(mean + std * torch.randn(count, device=device))


def weight(time: Tensor) -> Tensor:
    """What makes a squared error of the picture one of the velocity: `1 / max(1 − time, NEAREST)²`."""
    return (1 - time).clamp(min=NEAREST) ** -2


def gate(time: Tensor, *, opens: float) -> Tensor:
    """1 where `time` has reached `opens`, else 0: near the noise the estimate is a blur by right, in which features say
    nothing yet (PixelGen, arXiv:2602.02493).
    """
    return (time >= opens).to(time.dtype)


def guided(network: Network, label: Tensor, *, guidance: float, interval: tuple[float, float], null: int) -> Denoiser:
    """The denoiser for `label` int64 (B,), moved away from the one for no label in particular (arXiv:2207.12598).

    `guidance` 1.0 is off; more is closer to the label and less varied. It acts at times within `interval` alone
    (arXiv:2404.07724). Where it acts, and any picture has a label other than `null`, the network sees each picture
    twice, in one call.
    """
    has_label = bool((label != null).any())

    def at(noisy: Tensor, time: float, label: Tensor) -> Tensor:
        return network(noisy, noisy.new_full((len(noisy),), time), label)

    def denoise(noisy: Tensor, time: float) -> Tensor:
        acts = guidance != 1 and interval[0] <= time <= interval[1] and has_label
        if not acts:
            return at(noisy, time, label)
        labels = torch.cat([label, torch.full_like(label, null)])
        with_label, without = at(noisy.repeat(2, 1, 1, 1), time, labels).chunk(2)
        return without + guidance * (with_label - without)

    return denoise


def blended(one: Denoiser, other: Denoiser, share: Tensor) -> Denoiser:
    """A denoiser between two: `share` (B,) in [0,1] of the `other`."""

    def denoise(noisy: Tensor, time: float) -> Tensor:
        return torch.lerp(one(noisy, time), other(noisy, time), _beside(share, noisy))

    return denoise


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


def from_muse(muse: Tensor, noise: Tensor, *, strength: float) -> tuple[Tensor, float]:
    """Where to start from a `muse`, and at what time: the muse itself at strength 0, pure noise at strength 1 (SDEdit,
    arXiv:2108.01073).
    """
    start = 1 - strength
    return noised(muse, noise, muse.new_full((len(muse),), start)), start


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Noise (B,C,H,W) for pictures of `shape`, each from its own seed alone, drawn on the CPU."""
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def between(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Noise (B,C,H,W) between two, `share` (B,) in [0,1] of the way: along the sphere, so that it stays as loud as
    noise is (Shoemake 1985, doi:10.1145/325334.325242). A share of 0 or 1 gives the ends exactly.
    """
    cosine = torch.cosine_similarity(one.flatten(1).double(), other.flatten(1).double()).clamp(-1, 1)
    angle = torch.arccos(cosine)
    sine = torch.sin(angle).clamp(min=1e-9)
    first, second = (torch.sin(part * angle) / sine for part in (1 - share.double(), share.double()))
    way = _beside(first, one) * one + _beside(second, one) * other
    way = torch.where(_beside(angle < 1e-6, one), one.double(), way)  # the same noise twice
    ends = torch.where(_beside(share, one) == 1, other.double(), way)
    return torch.where(_beside(share, one) == 0, one.double(), ends).to(one.dtype)


def _beside(values: Tensor, image: Tensor) -> Tensor:
    """(B,) → (B,1,1,1), to be multiplied with (B,C,H,W)."""
    return values.view(-1, *[1] * (image.ndim - 1))
