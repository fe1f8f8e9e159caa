"""A U-Net (arXiv:1505.04597) with time and label in every block and attention at some levels (arXiv:2105.05233).

Shape letters: B pictures, C channels, H and W pixels, I and O input and output channels, P width and height of a patch
(of `words`: pieces of a word), T words, E conditioning features, A heads, D features of a head, K detail channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artdiff import UserError
from artdiff.networks.layers import GROUP, Condition, Detail, Given, WordKeys, Words, attention, group_norm, zeroed

HEAD = 32
"""Channels of an attention head."""


class UNet(nn.Module):
    """A denoising U-Net: `net(noisy, time, label) -> output`.

    Args:
        classes: number of labels; any other label, such as -1, is the null label.
        in_channels: input channels, 3 for pictures.
        out_channels: output channels, by default `in_channels`.
        image_size: width and height of the training pictures (or latents). Other multiples of `multiple` work too.
        patch: width and height in pixels of the squares that become channels of the first level; 2 is four times
            cheaper.
        channels: channels of each level, multiples of 16, or of 32 at levels with attention. Each level after the first
            halves width and height.
        num_res_blocks: residual blocks in each level of the encoder; one more in the decoder.
        attention_resolutions: levels of this width have attention. The last level always has.
        cond_dim: features of the embedding of time and label.
        dropout: share of the activations dropped in training.
        detail_channels: channels of two final convolutions at full resolution, which get the input again; 0 for none.
            Patches alone cannot remove fine noise (DiP, arXiv:2511.18822).
        words: rows of the word table; 0 for no captions. Levels with attention also attend to the words.
        caption_layers: layers of a transformer over the words. With 0, the order of words does not count.
        attention: False leaves out all attention. Its cost grows with the square of the number of pixels, and a
            refiner, which only sharpens a picture, does not need it.

    Attributes:
        multiple: width and height of the input must be multiples of this; they may differ.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int,
        image_size: int,
        patch: int,
        channels: Sequence[int],
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        cond_dim: int,
        dropout: float,
        detail_channels: int = 0,
        words: int = 0,
        caption_layers: int = 0,
        attention: bool = True,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        attends = _attends(image_size, patch, channels, attention_resolutions if attention else None)
        self.patch = patch
        self.multiple = _multiple(patch, channels)
        self.condition = Condition(classes=classes, cond_dim=cond_dim, words=words, caption_layers=caption_layers)

        def block(inputs: int, level: int, *, attends: bool) -> ResBlock:
            return ResBlock(
                inputs, channels[level], cond_dim=cond_dim, dropout=dropout, attends=attends, words=bool(words)
            )

        self.first = nn.Conv2d(in_channels * patch**2, channels[0], kernel_size=3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = channels[0], [channels[0]]
        for level, wide in enumerate(channels):
            if level:
                self.down.append(Downsample(width))
                skips.append(width)
            for _ in range(num_res_blocks):
                self.down.append(block(width, level, attends=attends[level]))
                width = wide
                skips.append(width)
        last = len(channels) - 1
        self.middle = nn.ModuleList([block(width, last, attends=attention), block(width, last, attends=False)])
        for level in reversed(range(len(channels))):
            for _ in range(num_res_blocks + 1):
                self.up.append(block(width + skips.pop(), level, attends=attends[level]))
                width = channels[level]
            if level:
                self.up.append(Upsample(width))
        self.norm = group_norm(width)
        self.outputs = out_channels or in_channels
        self.last = zeroed(nn.Conv2d(width, (self.outputs + detail_channels) * patch**2, kernel_size=3, padding=1))
        self.detail = Detail(in_channels + detail_channels, detail_channels, self.outputs) if detail_channels else None

    def forward(self, noisy: Tensor, time: Tensor, label: Tensor, words: Tensor | None = None) -> Tensor:
        """`noisy` (B,I,H,W) of unit variance, `time` (B,) in [0,1], `label` int64 (B,) and, with captions, the rows of
        `words` (B,T,P) → (B,O,H,W).
        """
        condition = self.condition(time, label, words)
        x = F.pixel_unshuffle(noisy, self.patch)  # (B,I·P²,H/P,W/P)
        x = self.first(x.contiguous(memory_format=torch.channels_last))  # (B,C,H/P,W/P)
        skips = [x]
        for layer in self.down:
            x = layer(x, condition)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, condition)
        for layer in self.up:
            x = layer(x if isinstance(layer, Upsample) else torch.cat([x, skips.pop()], dim=1), condition)
        x = F.pixel_shuffle(self.last(F.silu(self.norm(x))), self.patch)  # (B,O+K,H,W)
        if self.detail is None:
            return x
        output, features = x.tensor_split([self.outputs], dim=1)
        return output + self.detail(torch.cat([noisy, features], dim=1))


class ResBlock(nn.Module):
    """A residual block. The condition scales and shifts its second half (FiLM, arXiv:1709.07871)."""

    def __init__(self, inputs: int, outputs: int, *, cond_dim: int, dropout: float, attends: bool, words: bool) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
        self.film = nn.Linear(cond_dim, 2 * outputs)
        self.norm2 = group_norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, kernel_size=3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, kernel_size=1) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs, words=words) if attends else None

    def forward(self, x: Tensor, condition: Given) -> Tensor:
        """(B,C,H,W) → (B,C',H,W)."""
        scale, shift = self.film(condition.vector)[:, :, None, None].chunk(2, dim=1)  # (B,C',1,1) each
        h = self.conv1(F.silu(self.norm1(x)))  # (B,C',H,W)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        h = self.conv2(self.dropout(F.silu(h)))
        x = self.skip(x) + h
        return x if self.attention is None else self.attention(x, condition.words)


class Attention(nn.Module):
    """Self-attention over all positions of a level (arXiv:1706.03762), and over the words of a caption."""

    def __init__(self, width: int, *, words: bool) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.norm = group_norm(width)
        self.project = nn.Conv2d(width, 3 * width, kernel_size=1)
        self.out = zeroed(nn.Conv2d(width, width, kernel_size=1))
        self.words = WordKeys(width, self.heads) if words else None

    def forward(self, x: Tensor, words: Words | None = None) -> Tensor:
        """(B,C,H,W) → (B,C,H,W)."""
        _, _, height, width = x.shape
        projected = self.project(self.norm(x)).permute(0, 2, 3, 1)  # (B,H,W,3·C)
        projected = projected.flatten(1, 2).unflatten(-1, (3, self.heads, HEAD))  # (B,H·W,3,A,D)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # (B,A,H·W,D) each
        there = None
        if self.words is not None and words is not None:
            key, value, there = self.words(key, value, words)
        attended = attention(query, key, value, there)  # (B,A,H·W,D)
        attended = attended.transpose(1, 2).flatten(2).unflatten(1, (height, width))  # (B,H,W,C)
        return x + self.out(attended.permute(0, 3, 1, 2))


class Downsample(nn.Module):
    """Halve width and height with a strided convolution. Ignores the condition, so that it is called like a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor, condition: Given) -> Tensor:
        """(B,C,H,W) → (B,C,H/2,W/2)."""
        return self.conv(x)


class Upsample(nn.Module):
    """Double width and height: nearest neighbour, then a convolution. Ignores the condition, as `Downsample`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x: Tensor, condition: Given) -> Tensor:
        """(B,C,H,W) → (B,C,2·H,2·W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _multiple(patch: int, channels: Sequence[int]) -> int:
    """Width and height of the input must be multiples of this."""
    return patch * 2 ** (len(channels) - 1)


def _attends(image_size: int, patch: int, channels: Sequence[int], resolutions: Sequence[int] | None) -> list[bool]:
    """Whether each level has attention. With `resolutions` None, no level has.

    Raises `UserError` if the settings do not fit together.
    """
    sides = [image_size // (patch * 2**level) for level in range(len(channels))]
    multiple = _multiple(patch, channels)
    if image_size % multiple:
        raise UserError(
            f"channels={list(channels)} and patch={patch} of a U-Net need width and height in multiples of "
            f"{multiple}, got {image_size} (data.image_size, or the size of its latents)"
        )
    attends = [resolutions is not None and (side in resolutions or side == sides[-1]) for side in sides]
    if any(width % (HEAD if does else GROUP) for width, does in zip(channels, attends, strict=True)):
        raise UserError(
            f"channels of a U-Net must be multiples of {GROUP}, and of {HEAD} at levels with attention "
            f"(attention_resolutions={list(resolutions or [])} and the last), got {list(channels)}"
        )
    return attends
