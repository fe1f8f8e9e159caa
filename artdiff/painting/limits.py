"""Check whether a model can paint what the settings ask for, before anything is read or painted."""

import math
from collections.abc import Sequence
from typing import TypeVar

from artdiff import UserError
from artdiff.files import user_path
from artdiff.ingest.tables import shown
from artdiff.painting.plan import nearest_size
from artdiff.settings.painting import PaintSettings
from artdiff.word_vectors import nearest, replaced
from artdiff.words import MOST_WORDS, VOCABULARY, unknown, words

Paints = TypeVar("Paints", bound=PaintSettings)


def check_words(settings: PaintSettings, vocabulary: Sequence[str]) -> None:
    """Raise `UserError` for a prompt without words, and for any prompt if the model has no vocabulary."""
    for name, prompt in settings.prompts:
        if not vocabulary:
            raise UserError(f"{name} needs a model that was trained with captions: data.captions=auto")
        if not words(prompt):
            raise UserError(f"{name}={prompt} holds no word")


def understood(settings: Paints, vocabulary: Sequence[str]) -> tuple[Paints, list[str]]:
    """`settings` with unknown words of prompts replaced, and a warning for each unknown word.

    With a file of word vectors, an unknown word is replaced by the nearest word of the vocabulary. If the vocabulary is
    full (`VOCABULARY` words), the model may have learned words that are not listed. Then only replaced words get a
    warning. Raises `UserError` if the file cannot be read.
    """
    lines, strange = list[str](), dict[str, list[str]]()
    may_have_others = len(vocabulary) >= VOCABULARY
    for name, prompt in settings.prompts:
        if len(words(prompt)) > MOST_WORDS:
            lines.append(f"{name}: only its first {MOST_WORDS} words count")
        if settings.word_vectors is not None or not may_have_others:
            strange |= unknown(prompt, vocabulary)
    if settings.negative is not None and settings.guidance == 1:
        lines.append("negative has no effect with guidance=1 (off): set guidance=2.0, for example")
    instead = dict[str, str]()
    if strange and settings.word_vectors is not None:
        instead = nearest(strange, vocabulary, user_path(settings.word_vectors))
        settings = settings.reworded(lambda prompt: replaced(prompt, instead))
    for word, near in strange.items():
        if may_have_others and word not in instead:
            continue
        like = f"; those spelled most like it are {', '.join(map(shown, near))}" if near else ""
        taken = f", and is replaced by {shown(instead[word])}" if word in instead else like
        lines.append(f"{shown(word)} is no word that the model has learned{taken}")
    return settings, lines


def lost_muse_warning(settings: PaintSettings, strength: float) -> list[str]:
    """A warning if `settings.strength` is below 1 but was rounded up to 1, which replaces the whole muse."""
    if not settings.strength < strength == 1:
        return []
    return [f"strength={settings.strength:g} rounds to all steps of this model, so nothing of the muse will be seen"]


def check_size(settings: PaintSettings, *, trained: int, multiple: int | None, says_multiple: bool) -> None:
    """Raise `UserError` if a network cannot paint at the size that `settings` ask for.

    Args:
        settings: with `max_pixels`.
        trained: width and height of its training pictures.
        multiple: width and height must be multiples of this; None if only the training size works.
        says_multiple: whether the network has an attribute `multiple`, even if it is None.
    """
    sides, square = settings.sides, (trained, trained)
    if settings.size == "train" or sides == square:
        return
    if multiple is None:
        remedy = "; for others it needs an attribute `multiple`, of which the input's width and height are multiples"
        raise UserError(
            f"size={settings.size}: this network paints {_times(square)} only{'' if says_multiple else remedy}"
        )
    check_pixels(settings, multiple)
    if sides is None and settings.muse is None:
        raise UserError("size=own paints at the size of a muse: set muse=PICTURE, or size=WIDTHxHEIGHT")
    if sides is not None and any(side % multiple for side in sides):
        below = [max(multiple, side - side % multiple) for side in sides]
        above = [side + -side % multiple for side in sides]
        near = [_times(sides) for sides in (below, above) if math.prod(sides) <= settings.most_pixels]
        near = near or [_times(nearest_size(*sides, multiple, most=settings.most_pixels))]
        raise UserError(
            f"width and height in size must be multiples of {multiple} for this model, got {settings.size}; "
            f"set size={' or '.join(dict.fromkeys(near))}"
        )


def check_pixels(settings: PaintSettings, multiple: int) -> None:
    """Raise `UserError` if `size` has more than `max_pixels`, or `max_pixels` is less than `multiple²`."""
    most, sides = settings.most_pixels, settings.sides
    if settings.size != "train" and most < multiple**2:
        raise UserError(f"max_pixels must be at least {multiple**2} for this model, got {most}")
    if sides is not None and math.prod(sides) > most:
        pixels, works = math.prod(sides), _times(nearest_size(*sides, multiple, most=most))
        raise UserError(
            f"size={settings.size} has {pixels:,} pixels, more than max_pixels={most:,}; "
            f"set size={works}, or max_pixels={pixels}"
        )


def _times(sides: Sequence[int]) -> str:
    """Width and height in the format of `size`: `192x128`."""
    return "x".join(map(str, sides))
