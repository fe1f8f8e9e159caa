"""The moving average of the weights, which is what paints.

Its half-life is counted in images, so it does not depend on the batch size, and is at most a share of the images seen,
so that the first weights are forgotten soon (EDM, arXiv:2206.00364, table 7).
"""

import torch
from torch import nn

from artdiff.sharding import is_shared_out, whole


def share(images: int, *, seen: int, half_life: float, ramp: float) -> float:
    """How much of the new weights to take in after `images` more images, `seen` in all.

    The half-life is `half_life` images, and at most `ramp · seen`.
    """
    return 1 - 0.5 ** (images / min(half_life, ramp * seen))


@torch.no_grad()
def update(average: nn.Module, network: nn.Module, share: float) -> None:
    """Move the weights of `average` by `share` towards those of `network`; buffers such as running means are copied."""
    if is_shared_out(network):
        for weight, new in zip(average.parameters(), network.parameters(), strict=True):  # all at once would not fit
            weight.lerp_(whole(new), share)
    else:
        torch._foreach_lerp_([*average.parameters()], [*network.parameters()], share)
    for ours, theirs in zip(average.buffers(), network.buffers(), strict=True):
        ours.copy_(theirs)
