"""Whether a model can paint what it is asked for, before anything is read or painted."""

import math
from collections.abc import Sequence
from typing import TypeVar

from artdiff import UserError
from artdiff.files import user_path
from artdiff.ingest.tables import shown
from artdiff.painting.plan import nearest_sides
from artdiff.settings.painting import PaintSettings
from artdiff.word_vectors import nearest, replaced
from artdiff.words import MOST_WORDS, VOCABULARY, unknown, words

Paints = TypeVar("Paints", bound=PaintSettings)


def check_words(settings: PaintSettings, vocabulary: Sequence[str]) -> None:
    """Raise `UserError` if there are words for a model that knows none, or a prompt without any."""
    for name, prompt in settings.prompts:
        if not vocabulary:
            raise UserError(f"{name} needs a model that was trained with captions: data.captions=auto")
        if not words(prompt):
            raise UserError(f"{name}={prompt} holds no word")


def understood(settings: Paints, vocabulary: Sequence[str]) -> tuple[Paints, list[str]]:
    """`settings` with prompts as a model of this vocabulary can read them, and a line for all that it cannot read as it
    stands.

    With a file of word vectors, a word that it has not learned is replaced by the nearest that it has. A model that
    remembers as many words as it can may have learned others as well: of these, only what is replaced gets a line.
    Raises `UserError` if the file cannot be read.
    """
    lines, strange = list[str](), dict[str, list[str]]()
    may_have_others = len(vocabulary) >= VOCABULARY
    for name, prompt in settings.prompts:
        if len(words(prompt)) > MOST_WORDS:
            lines.append(f"{name}: only its first {MOST_WORDS} words count")
        if settings.word_vectors is not None or not may_have_others:
            strange |= unknown(prompt, vocabulary)
    if settings.negative is not None and settings.guidance == 1:
        lines.append("negative counts only with guidance, and guidance=1 is off: set guidance=2.0, for example")
    instead = dict[str, str]()
    if strange and settings.word_vectors is not None:
        instead = nearest(strange, vocabulary, user_path(settings.word_vectors))
        settings = settings.reworded(lambda prompt: replaced(prompt, instead))
    for word, near in strange.items():
        if may_have_others and word not in instead:
            continue
        like = f"; those spelled most like it are {', '.join(map(shown, near))}" if near else ""
        taken = f", and is taken for {shown(instead[word])}" if word in instead else like
        lines.append(f"{shown(word)} is no word that the model has learned{taken}")
    return settings, lines


def forgotten(settings: PaintSettings, strength: float) -> list[str]:
    """A line if nothing is left of a muse that is painted with this strength, though one below 1 was asked for."""
    if not settings.strength < strength == 1:
        return []
    return [f"strength={settings.strength:g} comes to all steps of this model, so nothing of the muse will be seen"]


def check_size(settings: PaintSettings, *, trained: int, multiple: int | None, says_multiple: bool) -> None:
    """Raise `UserError` if a network cannot paint at the size that `settings` ask for.

    Args:
        settings: with `max_pixels`.
        trained: the side of the pictures that it learned from.
        multiple: what the sides must be multiples of; None if it paints the size of training only.
        says_multiple: whether the network has an attribute `multiple`, be it None.
    """
    sides, square = settings.sides, (trained, trained)
    if settings.size == "train" or sides == square:
        return
    if multiple is None:
        remedy = "; for others it must have an attribute `multiple`: what the sides of its input are multiples of"
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
        near = near or [_times(nearest_sides(*sides, multiple, most=settings.most_pixels))]
        raise UserError(
            f"size must have sides that are multiples of {multiple} for this model, got {settings.size}; "
            f"set size={' or '.join(dict.fromkeys(near))}"
        )


def check_pixels(settings: PaintSettings, multiple: int) -> None:
    """Raise `UserError` unless pictures with sides that are multiples of `multiple` fit into `max_pixels`."""
    most, sides = settings.most_pixels, settings.sides
    if settings.size != "train" and most < multiple**2:
        raise UserError(f"max_pixels must be at least {multiple**2} for this model, got {most}")
    if sides is not None and math.prod(sides) > most:
        pixels, works = math.prod(sides), _times(nearest_sides(*sides, multiple, most=most))
        raise UserError(
            f"size={settings.size} has {pixels:,} pixels, more than max_pixels={most:,}; "
            f"set size={works}, or max_pixels={pixels}"
        )


def _times(sides: Sequence[int]) -> str:
    """Width and height as `size` takes them."""
    return "x".join(map(str, sides))
