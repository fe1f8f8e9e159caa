"""What a painter paints without a label, compared with its training pictures: classes, other metadata, and looks.

A classifier predicts the metadata of a picture: logistic regression on features, fitted to the training pictures. It
makes mistakes, so its predictions for painted pictures are compared with its predictions for training pictures that it
was not fitted to (five folds). Brightness, contrast and colour are measured.
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
"""A value of the metadata is examined if at least this many training pictures have it."""

MOST = 12
"""How many values of a column are examined, the most frequent ones; all others count as `OTHERS`."""

OTHERS = "all others"

FOLDS = 5
"""Folds of the training pictures; a classifier that is fitted to the other folds predicts each fold."""

SURE = 0.05
"""The false discovery rate: the expected share of false ones among the reported differences (Benjamini and Hochberg,
1995)."""

DECAY = 1e-2
"""The weight of the L2 penalty on a classifier's coefficients."""

GREY = 0.05
"""A picture in [0,1] is nearly grey if its largest and smallest channel differ by less than this on average."""

LEAST_SPREAD = 1e-5
"""Measures whose standard deviation is below this count as constant."""

LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in brightness (ITU-R BT.601)."""

LOOKS = ("brightness", "contrast", "colour")
"""Measures of a picture, in [0,1]: its mean brightness, the standard deviation of its brightness, and the mean
difference between its largest and its smallest channel.
"""


@dataclass(frozen=True)
class Line:
    """A share or a mean: of the painted pictures, with its interval, and of the training pictures.

    `told` is the share of the training pictures that the classifier predicts to have this value; None if nothing is
    classified. `p_value` is the probability of so large a difference by chance, adjusted for the number of comparisons.
    """

    name: str
    trained: float
    told: float | None
    painted: Interval
    p_value: float

    @property
    def real(self) -> float:
        """The value of the training pictures that the painted ones are compared with."""
        return self.trained if self.told is None else self.told

    @property
    def verdict(self) -> str:
        """`more`, `less`, or `about the same` if the difference is not significant."""
        if self.p_value >= SURE:
            return "about the same"
        return "more" if self.painted.value > self.real else "less"


@dataclass(frozen=True)
class Aspect:
    """One comparison of pictures: by their classes, a column of the metadata, or their looks.

    `accuracy` is the classifier's accuracy on training pictures that it was not fitted to; None if nothing is
    classified.
    """

    name: str
    lines: list[Line]
    accuracy: float | None = None
    are_shares: bool = True

    def sentences(self) -> list[str]:
        """A sentence for each line."""
        return [self._sentence(line) for line in self.lines]

    def written(self, value: float) -> str:
        """A value as text."""
        return f"{value:.0%}" if self.are_shares else f"{value:.2f}"

    def _sentence(self, line: Line) -> str:
        value, low, high, real = map(self.written, (*line.painted, line.real))
        than = "as" if line.verdict == "about the same" else "than"
        painted = f"{value} {'of' if self.are_shares else 'in'} the painted pictures"
        found = f"{line.name}: {painted} ({low} to {high}), {line.verdict} {than} "
        if line.told is None:
            return f"{found}{real} {'of' if self.are_shares else 'in'} the training pictures"
        return (
            f"{found}the {real} of training pictures that are classified as it; "
            f"their true share is {self.written(line.trained)}"
        )

    def __str__(self) -> str:
        sure = "" if self.accuracy is None else f" (the classifier is right on {self.accuracy:.0%})"
        return "\n".join([f"{self.name}{sure}:", *(f"  {sentence}" for sentence in self.sentences())])


@dataclass(frozen=True)
class Asked:
    """How often pictures painted with the label `name` are classified as it, with an interval. `trained` is the same
    share for training pictures of the class; `instead` is the most frequent wrong class.
    """

    name: str
    painted: Interval
    trained: float
    instead: str | None

    def __str__(self) -> str:
        others = "" if self.instead is None else f", the others mostly as {self.instead}"
        low, high = self.painted.low, self.painted.high
        return (
            f"{self.name}: {self.painted.value:.0%} of the pictures painted as it are classified as it ({low:.0%} to "
            f"{high:.0%}){others}; of its training pictures {self.trained:.0%}"
        )


class Seen(NamedTuple):
    """A set of pictures and their features, float (N,D)."""

    sample: Sample
    features: Tensor


class Learned(NamedTuple):
    """A classifier of a metadata column: the examined values, the true value of each training picture (`real`), the
    prediction for it by a classifier that was not fitted to it (`told`), and a function that classifies other features
    (`tell`).
    """

    values: list[str]
    real: list[str]
    told: list[str]
    tell: Callable[[Tensor], list[str]]

    @property
    def accuracy(self) -> float:
        """The share of training pictures that are classified correctly."""
        return sum(one == other for one, other in zip(self.real, self.told, strict=True)) / len(self.real)


def learned(column: Sequence[str | None], features: Tensor) -> Learned | None:
    """Fit a classifier of the values in `column` to training pictures with features float (N,D).

    None if fewer than two values have enough pictures. Pictures with another value, or none, are the class `OTHERS`; if
    they are few, they are left out.
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
    """Compare pictures painted without a label with the training pictures, by `columns` and by their looks."""
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
    """How often painted pictures are classified as their label: `classes` has the label of each, None for none."""
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
    """Measure the `LOOKS` of pictures: uint8 (B,3,H,W) → float32 (B,3)."""
    unit = images.signed_to_unit(images.to_signed(image))
    brightness = (unit * torch.tensor(LUMA).view(3, 1, 1)).sum(1).flatten(1)
    colour = (unit.amax(1) - unit.amin(1)).flatten(1)
    return torch.stack([brightness.mean(1), brightness.std(1), colour.mean(1)], dim=1)


def _logistic(features: Tensor, labels: Tensor, count: int) -> nn.Linear:
    """Fit a logistic regression of labels int64 (N,) in [0, count) on standardised features float (N,D)."""
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
    """Compare how often each value occurs, by Fisher's exact test."""
    lines = []
    for name in values:
        ours, theirs = painted.count(name), told.count(name)
        table = np.array([[ours, len(painted) - ours], [theirs, len(told) - theirs]])
        chance = float(stats.fisher_exact(table).pvalue)
        share = Interval.of_share(ours, len(painted))
        lines.append(Line(name, real.count(name) / len(real), theirs / len(told), share, chance))
    return lines


def _mean(name: str, trained: Tensor, painted: Tensor) -> Line:
    """Compare the means of a measure float (N,) by Welch's test."""
    mean, half = painted.mean().item(), 1.96 * painted.std().item() / len(painted) ** 0.5
    if max(painted.std(), trained.std()) < LEAST_SPREAD:
        p_value = float((painted.mean() - trained.mean()).abs() < LEAST_SPREAD)
    else:
        p_value = float(stats.ttest_ind(painted.numpy(), trained.numpy(), equal_var=False).pvalue)
    return Line(name, trained.mean().item(), None, Interval(mean, mean - half, mean + half), p_value)


def _with_fewer_false(aspects: list[Aspect]) -> list[Aspect]:
    """Adjust the p-values for the number of comparisons, by the method of Benjamini and Hochberg."""
    raw = [line.p_value for aspect in aspects for line in aspect.lines]
    adjusted = iter(stats.false_discovery_control(raw, method="bh").tolist())
    return [
        replace(aspect, lines=[replace(line, p_value=next(adjusted)) for line in aspect.lines]) for aspect in aspects
    ]
