"""The EMA (exponential moving average) of the weights, which is used to paint.

Its half-life is counted in images, so it does not depend on the batch size. It is at most a share of the images seen,
so that the initial weights soon stop mattering (EDM, arXiv:2206.00364, table 7).
"""

import torch
from torch import nn

from artdiff.sharding import is_sharded, whole


def share(images: int, *, seen: int, half_life: float, ramp: float) -> float:
    """The weight of the new weights in the EMA update after `images` more images, `seen` in all.

    The half-life is `half_life` images, and at most `ramp · seen`.
    """
    return 1 - 0.5 ** (images / min(half_life, ramp * seen))


@torch.no_grad()
def update(average: nn.Module, network: nn.Module, share: float) -> None:
    """Move the weights of `average` by `share` towards those of `network`. Copies buffers, such as running means."""
    if is_sharded(network):
        for weight, new in zip(average.parameters(), network.parameters(), strict=True):  # one by one, to save memory
            weight.lerp_(whole(new), share)
    else:
        torch._foreach_lerp_([*average.parameters()], [*network.parameters()], share)
    for ours, theirs in zip(average.buffers(), network.buffers(), strict=True):
        ours.copy_(theirs)
