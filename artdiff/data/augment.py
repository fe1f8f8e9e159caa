"""Pictures are flipped and cut on the accelerator, as the numbers that come with each say: no chance of its own."""

import torch
from torch import Tensor


def window(image: Tensor, size: int, chance: Tensor | None) -> Tensor:
    """(B,C,H,W) → (B,C,size,size): a window in each picture, at the place that `chance` (B,2) in [0,1) says, down and
    to the right; the middle without it.
    """
    down, right = image.shape[-2] - size, image.shape[-1] - size
    if not (down or right):
        return image
    if chance is None:
        return image[..., down // 2 : down // 2 + size, right // 2 : right // 2 + size]
    along = torch.arange(size, device=image.device)
    top, left = (chance[:, 0] * (down + 1)).long(), (chance[:, 1] * (right + 1)).long()  # (B,) each
    rows = (top[:, None] + along)[:, :, None]  # (B,size,1)
    columns = (left[:, None] + along)[:, None, :]  # (B,1,size)
    picture = torch.arange(len(image), device=image.device)[:, None, None]
    return image.permute(0, 2, 3, 1)[picture, rows, columns].permute(0, 3, 1, 2)  # channels stay last in memory


def flip(image: Tensor, share: float, chance: Tensor) -> Tensor:
    """(B,C,H,W) mirrored left to right where `chance` (B,) in [0,1) is below `share`."""
    return torch.where((chance < share)[:, None, None, None], image.flip(-1), image)
