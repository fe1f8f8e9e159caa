"""A plain vision transformer that denoises patches of pixels, after JiT (arXiv:2511.13720).

Shape letters: B pictures, H and W pixels, I input channels, N patches, P width and height of a patch (of `words`:
pieces of a word), T words, C features of a patch, E conditioning features, A heads, D features of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artdiff import UserError
from artdiff.networks.layers import Condition, Given, WordKeys, Words, attention, rotated, turning, zeroed

HEAD = 32
"""Features of an attention head; networks at least 512 wide have 64."""


class ViT(nn.Module):
    """A denoising vision transformer: `net(noisy, time, label) -> output`, with attention over all patches.

    RMSNorm (arXiv:1910.07467), SwiGLU (arXiv:2002.05202), rotary positions along both axes (arXiv:2104.09864),
    normalised queries and keys (arXiv:2302.05442), and adaLN-Zero conditioning in every layer (arXiv:2212.09748).

    Args:
        classes: number of labels; any other label, such as -1, is the null label.
        in_channels: input and output channels, 3 for pictures.
        image_size: width and height in pixels of the pictures.
        patches: patches per row and per column; JiT has 16 at every resolution.
        width: features of a patch, a multiple of 64.
        depth: number of layers.
        bottleneck: a patch is projected to this many features first, then to `width`.
        cond_dim: features of the embedding of time and label.
        dropout: share of the activations dropped in training.
        words: rows of the word table; 0 for no captions.
        caption_layers: layers of a transformer over the words. With 0, the order of words does not count.

    Attributes:
        multiple: None: it accepts only pictures of `image_size`.
    """

    multiple: int | None = None

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int,
        image_size: int,
        patches: int,
        width: int,
        depth: int,
        bottleneck: int,
        cond_dim: int,
        dropout: float,
        words: int = 0,
        caption_layers: int = 0,
    ) -> None:
        super().__init__()
        if image_size % patches:
            raise UserError(f"network.patches must divide data.image_size={image_size}, got {patches}")
        if width % 64:
            raise UserError(f"network.width must be a multiple of 64, got {width}")
        self.patch = patch = image_size // patches
        self.condition = Condition(classes=classes, cond_dim=cond_dim, words=words, caption_layers=caption_layers)
        self.squeeze = nn.Linear(in_channels * patch**2, bottleneck, bias=False)
        self.first = nn.Linear(bottleneck, width)
        heads = width // (64 if width >= 512 else HEAD)
        self.layers = nn.ModuleList(Layer(width, heads, cond_dim, dropout, words=bool(words)) for _ in range(depth))
        self.film = zeroed(nn.Linear(cond_dim, 2 * width))
        self.last = zeroed(nn.Linear(width, in_channels * patch**2))
        self.turns: Tensor
        self.register_buffer("turns", rotary_angles(patches, width // heads), persistent=False)

    def forward(self, noisy: Tensor, time: Tensor, label: Tensor, words: Tensor | None = None) -> Tensor:
        """`noisy` (B,I,H,W) of unit variance, `time` (B,) in [0,1], `label` int64 (B,) and, with captions, the rows of
        `words` (B,T,P) → (B,I,H,W).
        """
        condition = self.condition(time, label, words)
        patches = F.pixel_unshuffle(noisy, self.patch)  # (B,I·P²,H/P,W/P)
        height, width = patches.shape[-2:]
        x = self.first(self.squeeze(patches.flatten(2).transpose(1, 2)))  # (B,N,C)
        for layer in self.layers:
            x = layer(x, condition, self.turns)
        x = self.last(_modulated(x, *self.film(condition.vector)[:, None].chunk(2, dim=-1)))  # (B,N,I·P²)
        return F.pixel_shuffle(x.transpose(1, 2).unflatten(2, (height, width)), self.patch)  # (B,I,H,W)


class Layer(nn.Module):
    """Attention, then a SwiGLU feed-forward. The condition scales, shifts and gates both; gates start at zero."""

    def __init__(self, width: int, heads: int, cond_dim: int, dropout: float, *, words: bool) -> None:
        super().__init__()
        self.heads = heads
        self.film = zeroed(nn.Linear(cond_dim, 6 * width))
        self.project = nn.Linear(width, 3 * width)
        self.query_norm, self.key_norm = RMSNorm(width // heads), RMSNorm(width // heads)
        self.out = nn.Linear(width, width)
        hidden = 8 * width // 3 // 32 * 32  # as many weights as a plain feed-forward of 4·width
        self.widen = nn.Linear(width, 2 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.narrow = nn.Linear(hidden, width)
        self.words = WordKeys(width, heads) if words else None

    def forward(self, x: Tensor, condition: Given, turns: Tensor) -> Tensor:
        """(B,N,C) and (2,N,D) → (B,N,C)."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.film(condition.vector)[:, None].chunk(
            6, dim=-1
        )  # (B,1,C) each
        x = x + gate1 * self._attend(_modulated(x, scale1, shift1), turns, condition.words)
        gate, value = self.widen(_modulated(x, scale2, shift2)).chunk(2, dim=-1)  # (B,N,hidden) each
        return x + gate2 * self.narrow(self.dropout(F.silu(gate) * value))

    def _attend(self, x: Tensor, turns: Tensor, words: Words | None) -> Tensor:
        query, key, value = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B,A,N,D) each
        query, key = rotated(self.query_norm(query), turns), rotated(self.key_norm(key), turns)
        there = None
        if self.words is not None and words is not None:
            key, value, there = self.words(key, value, words)
        return self.out(attention(query, key, value, there).transpose(1, 2).flatten(2))  # (B,N,C)


class RMSNorm(nn.Module):
    """Root mean square normalisation (arXiv:1910.07467). The gain is cast to the dtype of the activations."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(…,D) → (…,D)."""
        return F.rms_norm(x, x.shape[-1:], self.gain.to(x.dtype))


def rotary_angles(side: int, head: int) -> Tensor:
    """Cosines and sines (2,N,D) of rotary position embedding along both axes of a square of `side`² patches.

    A quarter of the features rotates with the vertical position and a quarter with the horizontal one; the other half
    are their partners. The base of the frequencies is 100, since there are few positions (arXiv:2403.13298).
    """
    rates = 100.0 ** -torch.linspace(0, 1, head // 4 + 1)[:-1]
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = torch.cat([position.flatten()[:, None] * rates for position in (down, right)], dim=1)  # (N,D/2)
    return turning(angles)


def _modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalise (B,N,C), then scale and shift by (B,1,C)."""
    return torch.addcmul(shift, F.rms_norm(x, x.shape[-1:]), 1 + scale)
