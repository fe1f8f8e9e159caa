"""What a picture is conditioned on: its label, or none."""

import torch
from torch import Tensor

NO_LABEL = -1
"""The null label: of pictures without a class, and of those whose label is dropped in training. To a denoiser, any
label outside [0, classes) is the null label."""


def drop_labels(label: Tensor, chance: Tensor, *, share: float) -> Tensor:
    """Replace labels int64 (B,) by the null label where `chance` (B,) in [0,1) is below `share`.

    Classifier-free guidance needs it (arXiv:2207.12598).
    """
    return torch.where(chance < share, NO_LABEL, label)
