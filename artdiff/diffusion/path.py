"""The straight path from noise (time 0) to a picture (time 1): training times, loss weights and preconditioning.

`noisy = time · image + (1 − time) · noise` with unit Gaussian noise (rectified flow, arXiv:2209.03003). A denoiser
predicts the clean picture at every time, and its error is weighted as in JiT (arXiv:2511.13720). That paper scales the
noise with the size of the pictures. `sampled_times` shifts the times instead, which is equivalent.

Pictures (or latents) and noise are (B,C,H,W), times are (B,) in [0,1].
"""

from collections.abc import Callable

import torch
from torch import Tensor

MIN_DISTANCE = 0.05
"""The velocity weight `1 / (1 − time)²` is constant within this distance of time 1."""

Network = Callable[..., Tensor]
"""(noisy (B,C,H,W), time (B,), label int64 (B,)) → (B,C,H,W). With captions, words (B,W,P) come after the label."""


def interpolated(image: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """The state at `time` (B,) on the path from `noise` to `image`, both (B,C,H,W)."""
    time = broadcast(time, image)
    return time * image + (1 - time) * noise


def sampled_times(normal: Tensor, *, mean: float, std: float) -> Tensor:
    """Training times from unit Gaussian numbers (B,): `sigmoid(mean + std · normal)` (arXiv:2403.03206, eq. 19).

    A higher `mean` gives times closer to the picture.
    """
    return torch.sigmoid(mean + std * normal)


def weight(time: Tensor) -> Tensor:
    """`1 / max(1 − time, 0.05)²`, which turns a squared error of the picture into one of the velocity; (B,) → (B,)."""
    return (1 - time).clamp(min=MIN_DISTANCE) ** -2


def gate(time: Tensor, *, opens: float) -> Tensor:
    """1 from time `opens` on, else 0; (B,) → (B,).

    At low times the best estimate is a blur, and its perceptual features mean nothing (PixelGen, arXiv:2602.02493).
    """
    return (time >= opens).to(time.dtype)


class Preconditioned:
    """Wraps a network as a denoiser, so that the network's input and its ideal output have unit variance at every time.

    The preconditioning of EDM (arXiv:2206.00364, table 1), for `time · image + (1 − time) · noise`. An output of 0
    gives the best linear estimate from `noisy` alone. `data_std` is the standard deviation of the pictures, about 0.5.

    It is a plain callable and not a module, so that the network keeps its keys in checkpoints.
    """

    def __init__(self, network: Network, *, data_std: float) -> None:
        self.network = network
        self.data_std = data_std

    def __call__(self, noisy: Tensor, time: Tensor, *asked: Tensor) -> Tensor:
        """`noisy` (B,C,H,W), `time` (B,) in [0,1] and conditions → estimated clean pictures, float32 (B,C,H,W)."""
        std, at = self.data_std, broadcast(time.float(), noisy)
        variance = (at * std) ** 2 + (1 - at) ** 2  # of `noisy`
        output = self.network(noisy * variance.rsqrt(), time, *asked)
        skip, scale = at * std**2 / variance, (1 - at) * std * variance.rsqrt()
        return skip * noisy.float() + scale * output.float()


def broadcast(values: Tensor, image: Tensor) -> Tensor:
    """(B,) → (B,1,1,1), to be multiplied with (B,C,H,W)."""
    return values.view(-1, *[1] * (image.ndim - 1))
