"""A plain vision transformer that denoises patches of pixels, after JiT (arXiv:2511.13720).

Shape letters: B pictures, H and W pixels, N patches, P pixels along one, C features of a patch, E condition features,
A heads, D features of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artdiff import UserError
from artdiff.networks.layers import Condition, attended, estimate, scaled, zeroed

HEAD = 32
"""Features of an attention head at least; wide networks have 64."""


class ViT(nn.Module):
    """`net(noisy, time, label) -> picture`: noised pictures to the clean ones, all patches seeing each other.

    RMSNorm (arXiv:1910.07467), SwiGLU (arXiv:2002.05202), rotary positions along both axes (arXiv:2104.09864),
    normalised queries and keys (arXiv:2302.05442), and the condition in every layer as adaLN-Zero (arXiv:2212.09748).

    Args:
        classes: number of labels; any other number, such as -1, is the null label.
        image_size: side in pixels of the pictures.
        patches: along a side of the picture; JiT takes 16 at every size.
        width: features of a patch, a multiple of 64.
        depth: number of layers.
        bottleneck: features that a patch is squeezed through on its way in.
        features: of the condition.
        dropout: share of the activations left out in training.
        data_std: standard deviation of the signed pictures, about.
    """

    def __init__(
        self,
        *,
        classes: int,
        image_size: int,
        patches: int,
        width: int,
        depth: int,
        bottleneck: int,
        features: int,
        dropout: float,
        data_std: float,
    ) -> None:
        super().__init__()
        if image_size % patches:
            raise UserError(f"network.patches must divide data.image_size={image_size}, got {patches}")
        if width % 64:
            raise UserError(f"network.width must be a multiple of 64, got {width}")
        self.patch = patch = image_size // patches
        self.data_std = data_std
        self.condition = Condition(classes=classes, features=features)
        self.squeeze = nn.Linear(3 * patch**2, bottleneck, bias=False)
        self.first = nn.Linear(bottleneck, width)
        heads = width // (64 if width >= 512 else HEAD)
        self.layers = nn.ModuleList(Layer(width, heads, features, dropout) for _ in range(depth))
        self.film = zeroed(nn.Linear(features, 2 * width))
        self.last = zeroed(nn.Linear(width, 3 * patch**2))
        self.turns: Tensor
        self.register_buffer("turns", _turns(patches, width // heads), persistent=False)

    def forward(self, noisy: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """`noisy` (B,3,H,W), `time` (B,) in [0,1], `label` int64 (B,) → signed pictures float32 (B,3,H,W)."""
        condition = self.condition(time, label)  # (B,E)
        patches = F.pixel_unshuffle(scaled(noisy, time, data_std=self.data_std), self.patch)  # (B,3·P²,H/P,W/P)
        rows, columns = patches.shape[-2:]
        x = self.first(self.squeeze(patches.flatten(2).transpose(1, 2)))  # (B,N,C)
        for layer in self.layers:
            x = layer(x, condition, self.turns)
        x = self.last(_modulated(x, *self.film(condition)[:, None].chunk(2, dim=-1)))  # (B,N,3·P²)
        output = F.pixel_shuffle(x.transpose(1, 2).unflatten(2, (rows, columns)), self.patch)  # (B,3,H,W)
        return estimate(noisy, time, output, data_std=self.data_std)


class Layer(nn.Module):
    """Attention, then a gated feed-forward; the condition scales, shifts and gates both, from nothing on."""

    def __init__(self, width: int, heads: int, features: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.film = zeroed(nn.Linear(features, 6 * width))
        self.project = nn.Linear(width, 3 * width)
        self.query_norm, self.key_norm = RMSNorm(width // heads), RMSNorm(width // heads)
        self.out = nn.Linear(width, width)
        hidden = 8 * width // 3 // 32 * 32  # as many weights as two layers of 4·width have
        self.widen = nn.Linear(width, 2 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.narrow = nn.Linear(hidden, width)

    def forward(self, x: Tensor, condition: Tensor, turns: Tensor) -> Tensor:
        """(B,N,C), (B,E) and (2,N,D) → (B,N,C)."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.film(condition)[:, None].chunk(6, dim=-1)  # (B,1,C) each
        x = x + gate1 * self._attend(_modulated(x, scale1, shift1), turns)
        one, other = self.widen(_modulated(x, scale2, shift2)).chunk(2, dim=-1)  # (B,N,hidden) each
        return x + gate2 * self.narrow(self.dropout(F.silu(one) * other))

    def _attend(self, x: Tensor, turns: Tensor) -> Tensor:
        query, key, value = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B,A,N,D) each
        query, key = self.query_norm(query), self.key_norm(key)
        query, key = _turned(query, turns), _turned(key, turns)
        return self.out(attended(query, key, value).transpose(1, 2).flatten(2))  # (B,N,C)


class RMSNorm(nn.Module):
    """Root mean square normalisation (arXiv:1910.07467) with a gain that follows the activations' precision."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(…,D) → (…,D)."""
        return F.rms_norm(x, x.shape[-1:], self.gain.to(x.dtype))


def _modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(B,N,C), normalised and then scaled and shifted by (B,1,C)."""
    return torch.addcmul(shift, F.rms_norm(x, x.shape[-1:]), 1 + scale)


def _turns(side: int, head: int) -> Tensor:
    """Cosines and sines (2,N,D) of the angles that the features of each of side² places are turned by.

    A quarter of the features turns with the row and a quarter with the column; the other half are their partners.
    """
    rates = 100.0 ** -torch.linspace(0, 1, head // 4 + 1)[:-1]  # places are few: arXiv:2403.13298
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = torch.cat([place.flatten()[:, None] * rates for place in (row, column)], dim=1)  # (N,D/2)
    angles = angles.repeat(1, 2)  # (N,D)
    return torch.stack([angles.cos(), angles.sin()])


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """(B,A,N,D), the pairs (i, i + D/2) of features turned by the angles of (2,N,D)."""
    one, other = x.chunk(2, dim=-1)
    cosine, sine = turns.to(x.dtype)
    return x * cosine + torch.cat([-other, one], dim=-1) * sine
