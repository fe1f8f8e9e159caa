"""Time 0 is noise and time 1 a picture: the straight path between them, what training asks of it, and ways along it.

`noisy = time · image + (1 − time) · noise`, with unit Gaussian noise (rectified flow, arXiv:2209.03003). A *denoiser*
answers `denoise(noisy, time)` with its estimate of the clean picture, whatever the time. Training weighs that estimate
as arXiv:2511.13720 does. Where that paper scales the noise with the picture's size, the times are shifted here, which
is the same path at another pace.

Pictures and noise are (B,C,H,W), signed where they are pictures; times are (B,) in [0,1].
"""

import torch
from torch import Tensor

NEAREST = 0.05
"""How near to a picture, in time, errors are still weighed as velocities: the weight grows no further from there."""


def noised(image: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """The place on the path from `noise` to `image`, both (B,C,H,W), at `time` (B,)."""
    time = beside(time, image)
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


def beside(values: Tensor, image: Tensor) -> Tensor:
    """(B,) → (B,1,1,1), to be multiplied with (B,C,H,W)."""
    return values.view(-1, *[1] * (image.ndim - 1))
