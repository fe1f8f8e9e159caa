"""Layers that networks share: embeddings of time, label and words, attention, normalisation, zero initialisation.

Shape letters: B pictures, E conditioning features, A heads, N tokens, M keys, D features of a head, I and O input and
output channels, H and W pixels, T words, P pieces of a word, V features of a word.
"""

from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)

GROUP = 16
"""Channels per group of GroupNorm."""

FREQUENCIES = 64
"""Frequencies of the time embedding, each as a sine and a cosine."""

WORD = 64
"""Features of a word."""

WORD_HEADS = 2
"""Attention heads of a `CaptionLayer`."""

FEW_TOKENS = 128
"""Up to this many tokens, explicit attention is faster than the fused CPU kernel.

Measured on two AVX-512 cores in bf16, 64 pictures, forward and backward: 64 tokens take 4.6 ms against 20.5 ms fused,
256 tokens 114 ms against 86 ms.
"""


class Words(NamedTuple):
    """Embedded words (B,T,V), and a mask, bool (B,T): False is padding."""

    vectors: Tensor
    there: Tensor


class Given(NamedTuple):
    """The condition of every block: time, label and caption as one vector (B,E), and the words to attend to, if any."""

    vector: Tensor
    words: Words | None = None


class WordTable(nn.Module):
    """Embeds words as the sum of their pieces, each a row of a table (fastText, arXiv:1607.04606).

    Args:
        rows: rows of the table.
        layers: layers of a transformer that gives words their context and order. With 0, the order does not count.
    """

    def __init__(self, rows: int, *, layers: int = 0) -> None:
        super().__init__()
        self.pieces = nn.Embedding(rows, WORD)
        self.layers = nn.ModuleList(CaptionLayer() for _ in range(layers))

    def forward(self, pieces: Tensor) -> Words:
        """Rows (B,T,P), -1 for padding → words of about unit variance."""
        there = pieces >= 0  # (B,T,P)
        found = self.pieces(pieces.long().clamp(min=0)) * there[..., None]  # (B,T,P,V)
        count = there.sum(dim=-1, keepdim=True)  # (B,T,1)
        words = Words(found.sum(dim=2) * count.clamp(min=1).rsqrt(), count[..., 0] > 0)
        if not self.layers:
            return words
        rates = 100.0 ** -torch.linspace(0, 1, WORD // WORD_HEADS // 2, device=pieces.device)  # (D/2,)
        turns = turning(torch.arange(pieces.shape[1], device=pieces.device)[:, None] * rates)  # (2,T,D)
        for layer in self.layers:
            words = layer(words, turns)
        return words


class CaptionLayer(nn.Module):
    """Self-attention over words, then a feed-forward (arXiv:1706.03762). Both start as the identity.

    Rotary positions (arXiv:2104.09864): only the distance of two words counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WORD), nn.LayerNorm(WORD)
        self.project = nn.Linear(WORD, 3 * WORD)
        self.out = zeroed(nn.Linear(WORD, WORD))
        self.widen = nn.Linear(WORD, 4 * WORD)
        self.narrow = zeroed(nn.Linear(4 * WORD, WORD))

    def forward(self, words: Words, turns: Tensor) -> Words:
        """Words → words with context; `turns` (2,T,D) are their rotary positions. Padding is masked."""
        x, there = words
        query, key, value = self.project(self.norm1(x)).unflatten(-1, (3, WORD_HEADS, -1)).permute(2, 0, 3, 1, 4)
        query, key = rotated(query, turns), rotated(key, turns)
        seen = there | ~there.any(dim=1, keepdim=True)  # an empty caption attends to padding, which avoids NaN
        x = x + self.out(attention(query, key, value, seen[:, None, None]).transpose(1, 2).flatten(2))
        return Words(x + self.narrow(F.silu(self.widen(self.norm2(x)))), there)


class Condition(nn.Module):
    """Embeds time, label and caption into one vector of `cond_dim` features, the condition of every block.

    The label table has one more entry than there are classes, for the null label: any label outside [0, classes).
    `words` is the number of rows of the word table; 0 is for a network without captions. Words pass a transformer of
    `caption_layers` layers, and their mean is added to the vector.
    """

    def __init__(self, *, classes: int, cond_dim: int, words: int = 0, caption_layers: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))
        self.label = nn.Embedding(classes + 1, cond_dim)
        self.words = WordTable(words, layers=caption_layers) if words else None
        self.caption = nn.Linear(WORD, cond_dim, bias=False) if words else None

    def forward(self, time: Tensor, label: Tensor, pieces: Tensor | None = None) -> Given:
        """`time` (B,) in [0,1], `label` int64 (B,) and, with captions, the rows of their words (B,T,P)."""
        rates = 10 ** torch.linspace(0, 3, FREQUENCIES, device=time.device)  # radians over the whole range of time
        angles = time.float()[:, None] * rates  # (B,FREQUENCIES)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)  # (B,2·FREQUENCIES)
        is_class = (label >= 0) & (label < self.classes)
        vector = self.time(waves) + self.label(torch.where(is_class, label, self.classes))  # (B,E)
        if self.words is None or self.caption is None:
            return Given(F.silu(vector))
        assert pieces is not None
        words: Words = self.words(pieces)
        count = words.there.sum(dim=1, keepdim=True).clamp(min=1)  # (B,1)
        mean = (words.vectors * words.there[..., None]).sum(dim=1) * count.rsqrt()  # (B,V), of about unit variance
        return Given(F.silu(vector + self.caption(mean)), words)


class WordKeys(nn.Module):
    """Projects words to keys and values, appended to those of a self-attention (GLIDE, arXiv:2112.10741)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(WORD, 2 * width)

    def forward(self, key: Tensor, value: Tensor, words: Words) -> tuple[Tensor, Tensor, Tensor]:
        """Append the words' keys and values to those given: (B,A,N,D) → (B,A,N+T,D). Also returns the attention mask,
        bool (B,1,1,N+T).
        """
        added = self.project(words.vectors).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (2,B,A,T,D)
        own = words.there.new_ones(key.shape[0], key.shape[2])  # (B,N)
        there = torch.cat([own, words.there], dim=1)[:, None, None]
        joined = (torch.cat([mine, more.to(mine.dtype)], dim=2) for mine, more in zip((key, value), added, strict=True))
        return *joined, there  # type: ignore[return-value]


class Detail(nn.Module):
    """Two convolutions at full resolution, for detail within a patch (after DiP, arXiv:2511.18822).

    Their output starts at zero, and is added to that of the patches.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, kernel_size=3, padding=1)
        self.last = zeroed(nn.Conv2d(width, outputs, kernel_size=3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B,I,H,W) → (B,O,H,W)."""
        return self.last(F.silu(self.first(x.contiguous(memory_format=torch.channels_last))))


def attention(query: Tensor, key: Tensor, value: Tensor, there: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (arXiv:1706.03762): query (B,A,N,D), key and value (B,A,M,D) → (B,A,N,D).

    `there`, bool (B,1,1,M), masks keys: False is not attended to.
    """
    if query.device.type == "cpu" and query.shape[-2] <= FEW_TOKENS:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B,A,N,M)
        scores = scores if there is None else scores.masked_fill(~there, -torch.inf)
        return scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=there)


def turning(angles: Tensor) -> Tensor:
    """Angles (N,D/2) of positions → cosines and sines (2,N,D) for `rotated` (rotary embedding, arXiv:2104.09864)."""
    angles = angles.repeat(1, 2)  # (N,D)
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the feature pairs (i, i + D/2) of (B,A,N,D) by the angles whose cosines and sines are (2,N,D)."""
    one, other = x.chunk(2, dim=-1)
    cosine, sine = turns.to(x.dtype)
    return x * cosine + torch.cat([-other, one], dim=-1) * sine


def group_norm(width: int) -> nn.GroupNorm:
    """GroupNorm (arXiv:1803.08494) for `width` channels, 16 in a group."""
    return nn.GroupNorm(width // GROUP, width)


def zeroed(layer: Layer) -> Layer:
    """`layer` with zero weights and bias, so that a residual branch starts as the identity (arXiv:1706.02677)."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
