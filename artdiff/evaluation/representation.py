"""What a painter paints when it is left to itself, against what it was trained on: classes, other metadata, and looks.

What a picture shows is told by a classifier: logistic regression on what a feature network sees, trained on the
training pictures. It makes mistakes, so what it says about painted pictures is compared with what it says about
training pictures that it did not learn from (five folds). Brightness, contrast and colour are measured.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from artdiff import images
from artdiff.evaluation.distances import Interval
from artdiff.evaluation.samples import Sample

LEAST = 20
"""A value of the metadata is looked for if so many training pictures have it."""

MOST = 12
"""Values of a column that are looked for, the most frequent ones; the others count as `OTHERS`."""

OTHERS = "all others"

FOLDS = 5
"""Parts of the training pictures; a classifier tells each part that has learned the others."""

SURE = 0.05
"""The expected share of false ones among the differences that are named (Benjamini and Hochberg, 1995)."""

DECAY = 1e-2
"""The weight of the squared coefficients of a classifier."""

GREY = 0.05
"""A picture is nearly grey if its largest and smallest channel differ by less than this on average, of 1."""

LEAST_SPREAD = 1e-5
"""Measures that vary less than this are all the same."""

LUMA = (0.299, 0.587, 0.114)
"""The share of red, green and blue in brightness (ITU-R BT.601)."""

LOOKS = ("brightness", "contrast", "colour")
"""What is measured on each picture, in [0,1]: its mean brightness, how much that varies within the picture, and how far
the largest and the smallest channel are apart.
"""


@dataclass(frozen=True)
class Line:
    """A share or a mean: of what is painted, with its interval, and of the training pictures.

    `told` is the share of the training pictures that the classifier takes for it; None if nothing is classified.
    `p_value` says how likely so large a difference to the painted pictures is by chance, given how many are looked at.
    """

    name: str
    trained: float
    told: float | None
    painted: Interval
    p_value: float

    @property
    def real(self) -> float:
        """What painted pictures are compared with."""
        return self.trained if self.told is None else self.told

    @property
    def verdict(self) -> str:
        """`more`, `less`, or `about the same` if chance may explain the difference."""
        if self.p_value >= SURE:
            return "about the same"
        return "more" if self.painted.value > self.real else "less"


@dataclass(frozen=True)
class Aspect:
    """What pictures are looked at for: their classes, a column of the metadata, or their looks.

    `accuracy` is the share of training pictures that the classifier is right on, of those that it did not learn from;
    None if nothing is classified.
    """

    name: str
    lines: list[Line]
    accuracy: float | None = None
    are_shares: bool = True

    def sentences(self) -> list[str]:
        """One for each line."""
        return [self._sentence(line) for line in self.lines]

    def written(self, value: float) -> str:
        """A value as it is shown."""
        return f"{value:.0%}" if self.are_shares else f"{value:.2f}"

    def _sentence(self, line: Line) -> str:
        value, low, high, real = map(self.written, (*line.painted, line.real))
        than = "as" if line.verdict == "about the same" else "than"
        painted = f"{value} of what it paints" if self.are_shares else f"{value} in what it paints"
        found = f"{line.name}: {painted} ({low} to {high}), {line.verdict} {than} "
        if line.told is None:
            return f"{found}{real} {'of' if self.are_shares else 'in'} the training pictures"
        return f"{found}the {real} of training pictures taken for it; {self.written(line.trained)} of them are it"

    def __str__(self) -> str:
        sure = "" if self.accuracy is None else f" (the classifier is right on {self.accuracy:.0%})"
        return "\n".join([f"{self.name}{sure}:", *(f"  {sentence}" for sentence in self.sentences())])


@dataclass(frozen=True)
class Asked:
    """Of the pictures that were asked for as `name`, the share that is taken for it, with its interval, and what the
    others are most often taken for; `trained` is that share for training pictures of the class.
    """

    name: str
    painted: Interval
    trained: float
    instead: str | None

    def __str__(self) -> str:
        others = "" if self.instead is None else f", the others mostly for {self.instead}"
        low, high = self.painted.low, self.painted.high
        return (
            f"{self.name}: {self.painted.value:.0%} of the pictures painted as it are taken for it ({low:.0%} to "
            f"{high:.0%}){others}; of its training pictures {self.trained:.0%}"
        )


class Seen(NamedTuple):
    """A set of pictures and their features, float (N,D)."""

    sample: Sample
    features: Tensor


class Learned(NamedTuple):
    """A column of the metadata that can be told: the values that are looked for, the value of each training picture,
    what it is taken for by a classifier that did not learn from it, and a function that tells other pictures.
    """

    values: list[str]
    real: list[str]
    told: list[str]
    tell: Callable[[Tensor], list[str]]

    @property
    def accuracy(self) -> float:
        """The share of training pictures that are told right."""
        return sum(one == other for one, other in zip(self.real, self.told, strict=True)) / len(self.real)


def learned(column: Sequence[str | None], features: Tensor) -> Learned | None:
    """Learn to tell the values of training pictures with features float (N,D). None if there are no two values that
    enough pictures have. Pictures with another value, or none, are told apart as `OTHERS`, or left out if they are few.
    """
    counts = Counter(value for value in column if value)
    values = sorted(value for value, count in counts.most_common(MOST) if count >= LEAST)
    if len(values) < 2:
        return None
    rest = sum(value not in values for value in column)
    names = [*values, OTHERS] if rest >= LEAST else values
    those = [place for place, value in enumerate(column) if value in values or rest >= LEAST]
    real = [value if (value := column[place]) in values else OTHERS for place in those]
    labels = torch.tensor([names.index(one) for one in real])
    own = features[those]
    mean, spread = own.mean(0), own.std(0).clamp(min=1e-6)

    def fitted(x: Tensor, y: Tensor) -> Callable[[Tensor], list[int]]:
        layer = _logistic((x - mean) / spread, y, len(names))
        return lambda others: layer((others - mean) / spread).argmax(1).tolist()

    told = torch.empty(len(those), dtype=torch.long)
    fold = torch.randperm(len(those), generator=torch.Generator().manual_seed(0)) % FOLDS
    for number in range(FOLDS):
        tell = fitted(own[fold != number], labels[fold != number])
        told[fold == number] = torch.tensor(tell(own[fold == number]))
    tell_all = fitted(own, labels)
    return Learned(values, real, [names[one] for one in told], lambda others: [names[one] for one in tell_all(others)])


def representation(columns: dict[str, Learned], trained: Seen, painted: Seen) -> list[Aspect]:
    """Compare what is painted without a label with the training pictures: in the columns that can be told, and by their
    looks.
    """
    found = [
        Aspect(name, _shares(one.values, one.real, one.told, one.tell(painted.features)), one.accuracy)
        for name, one in columns.items()
    ]
    looks = [torch.cat([look(part) for part in one.sample.parts()]) for one in (trained, painted)]
    means = [_mean(name, *(one[:, place] for one in looks)) for place, name in enumerate(LOOKS)]
    grey = [["nearly grey" if colour < GREY else "" for colour in one[:, LOOKS.index("colour")]] for one in looks]
    shares = [replace(line, told=None) for line in _shares(["nearly grey"], grey[0], grey[0], grey[1])]
    return _with_fewer_false([*found, Aspect("looks", means, are_shares=False), Aspect("grey pictures", shares)])


def asked(classes: Sequence[str | None], column: Learned, painted: Seen) -> list[Asked]:
    """How often painted pictures are taken for what was asked for: `classes` has the class of each, None for none."""
    told, found = column.tell(painted.features), []
    for name in column.values:
        ours = [one for one, wanted in zip(told, classes, strict=True) if wanted == name]
        theirs = [one for one, is_it in zip(column.told, column.real, strict=True) if is_it == name]
        if ours:
            instead = Counter(one for one in ours if one != name).most_common(1)
            share = Interval.of_share(ours.count(name), len(ours))
            found.append(Asked(name, share, theirs.count(name) / len(theirs), instead[0][0] if instead else None))
    return found


def look(image: Tensor) -> Tensor:
    """uint8 (B,3,H,W) → float32 (B,3), the `LOOKS` of each picture."""
    unit = images.signed_to_unit(images.to_signed(image))
    brightness = (unit * torch.tensor(LUMA).view(3, 1, 1)).sum(1).flatten(1)
    colour = (unit.amax(1) - unit.amin(1)).flatten(1)
    return torch.stack([brightness.mean(1), brightness.std(1), colour.mean(1)], dim=1)


def _logistic(features: Tensor, labels: Tensor, count: int) -> nn.Linear:
    """Logistic regression of labels int64 (N,) below `count` on standardised features float (N,D)."""
    layer = nn.Linear(features.shape[1], count)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(layer(features), labels) + DECAY * layer.weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return layer.requires_grad_(False)


def _shares(values: Sequence[str], real: list[str], told: list[str], painted: list[str]) -> list[Line]:
    """How often each value is among those of pictures, compared by Fisher's exact test."""
    lines = []
    for name in values:
        ours, theirs = painted.count(name), told.count(name)
        table = np.array([[ours, len(painted) - ours], [theirs, len(told) - theirs]])
        chance = float(stats.fisher_exact(table).pvalue)
        share = Interval.of_share(ours, len(painted))
        lines.append(Line(name, real.count(name) / len(real), theirs / len(told), share, chance))
    return lines


def _mean(name: str, trained: Tensor, painted: Tensor) -> Line:
    """The mean of a measure float (N,), compared by Welch's test."""
    mean, half = painted.mean().item(), 1.96 * painted.std().item() / len(painted) ** 0.5
    if max(painted.std(), trained.std()) < LEAST_SPREAD:
        p_value = float((painted.mean() - trained.mean()).abs() < LEAST_SPREAD)
    else:
        p_value = float(stats.ttest_ind(painted.numpy(), trained.numpy(), equal_var=False).pvalue)
    return Line(name, trained.mean().item(), None, Interval(mean, mean - half, mean + half), p_value)


def _with_fewer_false(aspects: list[Aspect]) -> list[Aspect]:
    """Aspects with p-values that take into account how many there are."""
    raw = [line.p_value for aspect in aspects for line in aspect.lines]
    adjusted = iter(stats.false_discovery_control(raw, method="bh").tolist())
    return [
        replace(aspect, lines=[replace(line, p_value=next(adjusted)) for line in aspect.lines]) for aspect in aspects
    ]
