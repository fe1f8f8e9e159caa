"""What a picture is conditioned on: its label and the words of its caption, or nothing."""

from typing import Protocol

import torch
from torch import Tensor

from artdiff.diffusion.noise import CAPTIONS, LABELS, WORDS, PictureRandom

NO_LABEL = -1
"""The null label: of pictures without a class, and of those whose label is dropped in training. To a denoiser, any
label outside [0, classes) is the null label. It is also the row of no word."""

Conditions = tuple[Tensor, ...]
"""What a denoiser is conditioned on, beside the time: labels int64 (B,), and if it knows words, the rows of those
of captions (B,W,P) as `artdiff.words.numbers` makes them."""


class Captioned(Protocol):
    """A batch: labels int64 (B,), and words (B,W,P) if its pictures have captions."""

    @property
    def label(self) -> Tensor: ...
    @property
    def words(self) -> Tensor | None: ...


def conditions(batch: Captioned) -> Conditions:
    """The conditions of a batch: its labels, and the words of its captions if it has any."""
    return (batch.label,) if batch.words is None else (batch.label, batch.words)


def null(conditions: Conditions) -> Conditions:
    """The null conditions, shaped like `conditions`: no label and no words."""
    return tuple(torch.full_like(part, NO_LABEL) for part in conditions)


def dropped(
    batch: Captioned, rng: PictureRandom, *, label_dropout: float, caption_dropout: float, word_dropout: float
) -> Conditions:
    """The conditions of a training batch, some of them dropped. Classifier-free guidance needs it (arXiv:2207.12598).

    Args:
        batch: the pictures.
        rng: random numbers for each.
        label_dropout: share of the pictures that lose label and caption.
        caption_dropout: share that lose the caption alone; as many lose the label alone.
        word_dropout: share of the words that are left out of the captions that stay.
    """
    chance = rng.uniform(LABELS)
    label = drop_labels(batch.label, chance, share=label_dropout)
    if batch.words is None:
        return (label,)
    other = rng.uniform(CAPTIONS)
    label = drop_labels(label, 1 - other, share=caption_dropout)
    is_gone = (chance < label_dropout) | (other < caption_dropout)  # (B,)
    is_gone = is_gone[:, None] | (rng.uniform(WORDS, batch.words.shape[1]) < word_dropout)  # (B,W)
    return label, torch.where(is_gone[..., None], NO_LABEL, batch.words)


def drop_labels(label: Tensor, chance: Tensor, *, share: float) -> Tensor:
    """Replace labels int64 (B,) by the null label where `chance` (B,) in [0,1) is below `share`."""
    return torch.where(chance < share, NO_LABEL, label)
