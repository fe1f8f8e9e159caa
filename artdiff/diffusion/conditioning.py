"""Conditions of a denoiser: labels and the words of captions, or none."""

from typing import Protocol

import torch
from torch import Tensor

from artdiff.diffusion.noise import CAPTIONS, LABELS, WORDS, PictureRandom

NO_LABEL = -1
"""The null label, for pictures without a class and for labels dropped in training. A denoiser takes any label outside
[0, classes) as the null label. In the rows of words, it marks a missing word."""

Conditions = tuple[Tensor, ...]
"""Conditions of a denoiser, beside the time: labels int64 (B,), and for one with captions also the rows of their words
(B,W,P), as `artdiff.words.numbers` returns them."""


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
    """The conditions of a training batch, some of them dropped, for classifier-free guidance (arXiv:2207.12598).

    Args:
        batch: the pictures.
        rng: random numbers for each picture.
        label_dropout: share of the pictures that lose label and caption.
        caption_dropout: share that lose only the caption; as many lose only the label.
        word_dropout: share of the words that are dropped from the remaining captions.
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
