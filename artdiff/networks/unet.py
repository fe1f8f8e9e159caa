"""A U-Net that denoises (arXiv:1505.04597), with time and label in every block and attention (arXiv:2105.05233).

Shape letters: B pictures, C channels, H and W pixels, P pixels along a patch, E condition features,
A heads, D features of a head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artdiff import UserError
from artdiff.networks.layers import Condition, attended, estimate, scaled, zeroed

GROUP = 16
"""Channels that are normalised together."""

HEAD = 32
"""Channels of an attention head."""


class UNet(nn.Module):
    """`net(noisy, time, label) -> picture`: noised pictures to the clean ones, through ever smaller and wider levels.

    Args:
        classes: number of labels; any other number, such as -1, is the null label.
        image_size: side in pixels of the pictures that it is trained on; others of the same multiple work.
        patch: side in pixels of the squares that are channels of the first level: 2 makes it four times cheaper.
        channels: of each level, multiples of 16 (of 32 where it attends); each level halves the sides.
        blocks: in each level, on the way down; one more on the way up.
        attention: at which sides, in cells of a level, places see each other; in the last level they always do.
        features: of the condition.
        dropout: share of the activations left out in training.
        data_std: standard deviation of the signed pictures, about.
    """

    def __init__(
        self,
        *,
        classes: int,
        image_size: int,
        patch: int,
        channels: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        features: int,
        dropout: float,
        data_std: float,
    ) -> None:
        super().__init__()
        sides = [image_size // (patch * 2**level) for level in range(len(channels))]
        multiple = patch * 2 ** (len(channels) - 1)
        if image_size % multiple:
            raise UserError(f"the U-Net takes sides that are multiples of {multiple}, got data.image_size={image_size}")
        attends = [side in attention or side == sides[-1] for side in sides]
        if any(width % (HEAD if does else GROUP) for width, does in zip(channels, attends, strict=True)):
            raise UserError(
                f"network.channels must be multiples of {GROUP}, and of {HEAD} for attention, got {channels}"
            )
        self.patch = patch
        self.data_std = data_std
        self.condition = Condition(classes=classes, features=features)

        def block(inputs: int, level: int, *, attends: bool) -> Block:
            return Block(inputs, channels[level], features=features, dropout=dropout, attends=attends)

        self.first = nn.Conv2d(3 * patch**2, channels[0], kernel_size=3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, kept = channels[0], [channels[0]]
        for level, wide in enumerate(channels):
            if level:
                self.down.append(Halve(width))
                kept.append(width)
            for _ in range(blocks):
                self.down.append(block(width, level, attends=attends[level]))
                width = wide
                kept.append(width)
        last = len(channels) - 1
        self.middle = nn.ModuleList([block(width, last, attends=True), block(width, last, attends=False)])
        for level in reversed(range(len(channels))):
            for _ in range(blocks + 1):
                self.up.append(block(width + kept.pop(), level, attends=attends[level]))
                width = channels[level]
            if level:
                self.up.append(Double(width))
        self.norm = _norm(width)
        self.last = zeroed(nn.Conv2d(width, 3 * patch**2, kernel_size=3, padding=1))

    def forward(self, noisy: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """`noisy` (B,3,H,W), `time` (B,) in [0,1], `label` int64 (B,) → signed pictures float32 (B,3,H,W)."""
        condition = self.condition(time, label)  # (B,E)
        x = F.pixel_unshuffle(scaled(noisy, time, data_std=self.data_std), self.patch)  # (B,3·P²,H/P,W/P)
        x = self.first(x.contiguous(memory_format=torch.channels_last))  # (B,C,H/P,W/P)
        kept = [x]
        for layer in self.down:
            x = layer(x, condition)
            kept.append(x)
        for layer in self.middle:
            x = layer(x, condition)  # (B,C,H/multiple,W/multiple)
        for layer in self.up:
            x = layer(x if isinstance(layer, Double) else torch.cat([x, kept.pop()], dim=1), condition)
        output = F.pixel_shuffle(self.last(F.silu(self.norm(x))), self.patch)  # (B,3,H,W)
        return estimate(noisy, time, output, data_std=self.data_std)


class Block(nn.Module):
    """A residual block whose second half is scaled and shifted by the condition (FiLM, arXiv:1709.07871)."""

    def __init__(self, inputs: int, outputs: int, *, features: int, dropout: float, attends: bool) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
        self.film = nn.Linear(features, 2 * outputs)
        self.norm2 = _norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, kernel_size=3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, kernel_size=1) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs) if attends else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B,C,H,W) and (B,E) → (B,C',H,W)."""
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)  # (B,C',1,1) each
        h = self.conv1(F.silu(self.norm1(x)))  # (B,C',H,W)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        h = self.conv2(self.dropout(F.silu(h)))
        return self.attention(self.skip(x) + h)


class Attention(nn.Module):
    """Every place of a level sees every other (arXiv:1706.03762)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.norm = _norm(width)
        self.project = nn.Conv2d(width, 3 * width, kernel_size=1)
        self.out = zeroed(nn.Conv2d(width, width, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) → (B,C,H,W)."""
        _, _, height, width = x.shape
        projected = self.project(self.norm(x)).permute(0, 2, 3, 1)  # (B,H,W,3·C)
        projected = projected.flatten(1, 2).unflatten(-1, (3, self.heads, HEAD))  # (B,H·W,3,A,D)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # (B,A,H·W,D) each
        seen = attended(query, key, value)  # (B,A,H·W,D)
        seen = seen.transpose(1, 2).flatten(2).unflatten(1, (height, width))  # (B,H,W,C)
        return x + self.out(seen.permute(0, 3, 1, 2))


class Halve(nn.Module):
    """To the next level down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B,C,H,W) → (B,C,H/2,W/2)."""
        return self.conv(x)


class Double(nn.Module):
    """To the next level up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B,C,H,W) → (B,C,2·H,2·W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width // GROUP, width)
