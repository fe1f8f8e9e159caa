"""What a painter paints when it is left to itself, against what it was trained on: classes, other metadata, and looks.

What a painted picture shows is told by a classifier: logistic regression on what a feature network sees, trained on the
training pictures. It makes mistakes, so its counts of painted pictures are compared with its counts of held-out ones.
Brightness, contrast and colour are measured.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
"""Values of a column that are looked for, the most frequent ones."""

SURE = 0.05
"""A difference counts if chance would give it less often."""

DECAY = 1e-2
"""The weight of the squared coefficients of a classifier."""

GREY = 0.02
"""A picture is grey if its largest and smallest channel differ by less than this on average, of 1."""

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
    """A share or a mean: of the training pictures, of the held-out ones, and of what is painted, with its interval.

    `p_value` says how likely so large a difference between painted and held-out pictures is by chance.
    """

    name: str
    trained: float
    held_out: float
    painted: Interval
    p_value: float

    @property
    def verdict(self) -> str:
        """`more`, `less`, or `about the same` if chance may explain the difference."""
        if self.p_value >= SURE:
            return "about the same"
        return "more" if self.painted.value > self.held_out else "less"


@dataclass(frozen=True)
class Aspect:
    """What pictures are looked at for: their classes, a column of the metadata, or their looks.

    `accuracy` is the share of held-out pictures that the classifier is right on; None if nothing is classified.
    """

    name: str
    lines: list[Line]
    accuracy: float | None = None
    are_shares: bool = True

    def sentences(self) -> list[str]:
        """One for each line."""
        return [self._sentence(line) for line in self.lines]

    def _sentence(self, line: Line) -> str:
        end = {"more": ", which is more", "less": ", which is less"}.get(line.verdict, ", about the same")
        low, high = line.painted.low, line.painted.high
        if self.are_shares:
            painted = f"{line.painted.value:.0%} of what it paints ({low:.0%} to {high:.0%})"
            seen = f"; {line.held_out:.0%} of the held-out ones are taken for it" if self.accuracy is not None else ""
            return f"{line.name}: {line.trained:.0%} of the training pictures, {painted}{end}{seen}"
        painted = f"{line.painted.value:.2f} in what it paints ({low:.2f} to {high:.2f})"
        return f"{line.name}: {line.trained:.2f} in the training pictures, {painted}{end}"

    def __str__(self) -> str:
        sure = "" if self.accuracy is None else f" (the classifier is right on {self.accuracy:.0%})"
        return "\n".join([f"{self.name}{sure}:", *(f"  {sentence}" for sentence in self.sentences())])


@dataclass(frozen=True)
class Asked:
    """Of the pictures that were asked for as `name`, the share that is taken for it, with its interval, and what the
    others are most often taken for; `held_out` is that share for held-out pictures that are it.
    """

    name: str
    painted: Interval
    held_out: float
    instead: str | None

    def __str__(self) -> str:
        others = "" if self.instead is None else f", the others mostly for {self.instead}"
        low, high = self.painted.low, self.painted.high
        return (
            f"{self.name}: {self.painted.value:.0%} of what was asked for is taken for it ({low:.0%} to {high:.0%})"
            f"{others}; of real pictures {self.held_out:.0%} are"
        )


class Seen(NamedTuple):
    """A set of pictures, their standardised features float (N,D), and values of metadata by column, if it has any."""

    sample: Sample
    features: Tensor
    columns: dict[str, list[str | None]]


def representation(trained: Seen, held_out: Seen, painted: Seen) -> list[Aspect]:
    """Compare what is painted without a label with real pictures, in each column that the training pictures have and
    that can be learned.
    """
    found = []
    for name, values in trained.columns.items():
        aspect = _classified(name, values, trained, held_out, painted)
        if aspect is not None:
            found.append(aspect)
    looks = [torch.cat([look(part) for part in one.sample.parts()]) for one in (trained, held_out, painted)]
    greys = [["grey" if colour < GREY else "" for colour in one[:, LOOKS.index("colour")].tolist()] for one in looks]
    means = [_mean(name, *(one[:, place] for one in looks)) for place, name in enumerate(LOOKS)]
    return [*found, Aspect("looks", means, are_shares=False), Aspect("colour", [_share("grey", *greys)])]


def look(image: Tensor) -> Tensor:
    """uint8 (B,3,H,W) → float32 (B,3), the `LOOKS` of each picture."""
    unit = images.signed_to_unit(images.to_signed(image))
    brightness = (unit * torch.tensor(LUMA).view(3, 1, 1)).sum(1).flatten(1)
    colour = (unit.amax(1) - unit.amin(1)).flatten(1)
    return torch.stack([brightness.mean(1), brightness.std(1), colour.mean(1)], dim=1)


def asked(classes: Sequence[str | None], trained: Seen, held_out: Seen, painted: Seen, *, column: str) -> list[Asked]:
    """How often painted pictures are taken for what was asked for: `classes` has the class of each, None for none."""
    classifier = _learned(trained.columns[column], trained.features)
    if classifier is None:
        return []
    ours, theirs = (classifier.tell(one.features) for one in (painted, held_out))
    real = held_out.columns[column]
    found = []
    for name in classifier.known:
        told = [one for one, wanted in zip(ours, classes, strict=True) if wanted == name]
        right = [one == name for one, is_so in zip(theirs, real, strict=True) if is_so == name]
        if told and right:
            (instead, _), *_ = Counter(one for one in told if one != name).most_common(1) or [("", 0)]
            found.append(Asked(name, _of(told.count(name), len(told)), sum(right) / len(right), instead or None))
    return found


class Classifier(NamedTuple):
    """Tells which of the `known` values pictures have, by their features float (N,D)."""

    known: list[str]
    tell: Callable[[Tensor], list[str]]


def _learned(values: Sequence[str | None], features: Tensor) -> Classifier | None:
    """A classifier of the values of pictures with features float (N,D). None if no two values can be learned."""
    counts = Counter(value for value in values if value)
    known = sorted(value for value, count in counts.most_common(MOST) if count >= LEAST)
    if len(known) < 2:
        return None
    numbers = {value: number for number, value in enumerate(known)}
    those = [place for place, value in enumerate(values) if value in numbers]
    labels = torch.tensor([numbers[values[place] or ""] for place in those])
    layer = _fitted(features[those], labels, len(known))
    return Classifier(known, lambda others: [known[number] for number in layer(others).argmax(1).tolist()])


def _fitted(features: Tensor, labels: Tensor, count: int) -> nn.Linear:
    """Logistic regression of labels int64 (N,) below `count` on standardised features float (N,D)."""
    layer = nn.Linear(features.shape[1], count)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(layer(features), labels) + DECAY * layer.weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return layer.requires_grad_(False)


def _classified(name: str, values: Sequence[str | None], trained: Seen, held_out: Seen, painted: Seen) -> Aspect | None:
    """The shares of a column's values, told by a classifier. None if it has no two values that can be learned."""
    classifier = _learned(values, trained.features)
    real = held_out.columns.get(name, [])
    right = [] if classifier is None else [place for place, value in enumerate(real) if value in classifier.known]
    if classifier is None or not right:
        return None
    seen = [classifier.tell(features) for features in (held_out.features[right], painted.features)]
    accuracy = sum(real[place] == told for place, told in zip(right, seen[0], strict=True)) / len(right)
    known = [value for value in values if value in classifier.known]
    return Aspect(name, [_share(value, known, *seen) for value in classifier.known], accuracy)


def _share(name: str, trained: Sequence[str | None], held_out: Sequence[str], painted: Sequence[str]) -> Line:
    """How often a value is among those of pictures."""
    ours, theirs = painted.count(name), held_out.count(name)
    table = np.array([[ours, len(painted) - ours], [theirs, len(held_out) - theirs]])
    chance = float(stats.fisher_exact(table).pvalue)
    return Line(name, trained.count(name) / len(trained), theirs / len(held_out), _of(ours, len(painted)), chance)


def _of(some: int, total: int) -> Interval:
    """A share with the interval of Clopper and Pearson."""
    found = stats.binomtest(some, total).proportion_ci(0.95, method="exact")
    return Interval(some / total, float(found.low), float(found.high))


def _mean(name: str, trained: Tensor, held_out: Tensor, painted: Tensor) -> Line:
    """The mean of a measure float (N,), compared by Welch's test."""
    mean, half = painted.mean().item(), 1.96 * painted.std().item() / len(painted) ** 0.5
    if max(painted.std(), held_out.std()) < LEAST_SPREAD:
        p_value = float((painted.mean() - held_out.mean()).abs() < LEAST_SPREAD)
    else:
        p_value = float(stats.ttest_ind(painted.numpy(), held_out.numpy(), equal_var=False).pvalue)
    return Line(name, trained.mean().item(), held_out.mean().item(), Interval(mean, mean - half, mean + half), p_value)
