"""Crops and flips on the accelerator. Their random numbers come with the batch."""

import torch
from torch import Tensor


def crop(image: Tensor, size: int, chance: Tensor | None) -> Tensor:
    """Crop each picture at its own position: (B,C,H,W) → (B,C,size,size).

    `chance` (B,2) in [0,1) is the vertical and horizontal position; None crops the centre.
    """
    down, right = image.shape[-2] - size, image.shape[-1] - size
    if not (down or right):
        return image
    if chance is None:
        return image[..., down // 2 : down // 2 + size, right // 2 : right // 2 + size]
    along = torch.arange(size, device=image.device)
    top, left = (chance[:, 0] * (down + 1)).long(), (chance[:, 1] * (right + 1)).long()  # (B,) each
    vertical = (top[:, None] + along)[:, :, None]  # (B,size,1)
    horizontal = (left[:, None] + along)[:, None, :]  # (B,1,size)
    picture = torch.arange(len(image), device=image.device)[:, None, None]
    return image.permute(0, 2, 3, 1)[picture, vertical, horizontal].permute(0, 3, 1, 2)  # channels last in memory


def flip(image: Tensor, share: float, chance: Tensor) -> Tensor:
    """Flip pictures (B,C,H,W) left to right where `chance` (B,) in [0,1) is below `share`."""
    return torch.where((chance < share)[:, None, None, None], image.flip(-1), image)
