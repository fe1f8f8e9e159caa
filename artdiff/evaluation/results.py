"""The results of an evaluation: scores of each set of pictures, as text, as JSON and for TensorBoard."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from artdiff import origin, runs
from artdiff.evaluation.distances import Interval, Manifold
from artdiff.evaluation.originality import Originality, Reference, Share
from artdiff.evaluation.representation import Asked, Aspect, Line
from artdiff.files import make_folder, write
from artdiff.origin import Origin

FLOOR = "training pictures"
"""The name of the set of training pictures that is scored for comparison."""

NEAREST = "nearest.png"


@dataclass(frozen=True)
class Scored:
    """Scores of `count` pictures of a set against the held-out ones, of one label or all (None), in one network."""

    set: str
    label: str | None
    features: str
    count: int
    held_out: int
    frechet: Interval
    kernel: float
    kernel_spread: float
    manifold: Manifold

    def cells(self) -> tuple[str, ...]:
        """A table row: set, label, pictures, network, Fréchet distance, its interval, KID x 1000, then `manifold`."""
        value, _, interval = str(self.frechet).partition(" ")
        kernel = f"{1000 * self.kernel:.3g} ± {1000 * self.kernel_spread:.2g}"
        first = (self.set, self.label or "all", f"{self.count:,}", self.features, value)
        return (*first, interval, kernel, *(f"{score:.2f}" for score in self.manifold))


@dataclass(frozen=True)
class Choice:
    """A candidate that was compared with others: the name and SHA-256 of its checkpoint, its weights (`averaged` or
    `raw`) and settings, the largest number of network evaluations for a picture (`calls`), and its Fréchet distance in
    the first feature network.
    """

    name: str
    checkpoint: str
    sha256: str
    weights: str
    settings: dict[str, Any]
    calls: int
    frechet: Interval


@dataclass(frozen=True)
class Scores:
    """All results of an evaluation. `str` returns them as a table."""

    scored: list[Scored]
    protocol: dict[str, Any]
    reconstruction: dict[str, float] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    """The candidates, if several were compared, the best first. The fields below are about the best."""
    originality: list[Originality] = field(default_factory=list)
    representation: list[Aspect] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    sheet: Image.Image | None = None
    """Painted pictures: a row for each label. `rows` names the labels."""
    rows: tuple[str, ...] = ()
    prompted: Image.Image | None = None
    """A row for each of `prompts`, which are captions of held-out pictures: that picture, then painted ones."""
    prompts: tuple[str, ...] = ()
    nearest: Image.Image | None = None
    """The painted pictures nearest to a training picture, above that one."""
    reference: Reference | None = None
    """What pictures that are painted later are compared with."""
    file: Path | None = None

    def __str__(self) -> str:
        values = (f"{name}: {value:.4g}" for name, value in self.reconstruction.items())
        best = [f"best candidate, which the rest is about: {one.name}" for one in self.choices[:1]]
        rest = map(str, [*self.originality, *self.asked, *self.representation])
        return "\n".join([*_table(self.scored), *values, *best, *rest])

    def scalars(self) -> dict[str, float]:
        """The scores over all labels, by their names in TensorBoard."""
        found = {f"reconstruction/{name}": value for name, value in self.reconstruction.items()}
        for one in self.scored:
            if one.label is None:
                name = f"{one.features}/{one.set.replace(' ', '_')}"
                found |= {f"frechet/{name}": one.frechet.value, f"kernel/{name}": one.kernel}
                found |= {f"{score}/{name}": value for score, value in one.manifold._asdict().items()}
        return found

    def write(self, folder: Path) -> "Scores":
        """Write `scores.json`, and the pictures and the reference for copies. Returns the scores with their file."""
        make_folder(folder, name="out")
        if self.nearest is not None:
            said = Origin({"checkpoint": self.protocol["checkpoint"]}, "the training pictures that lie nearest")
            origin.save(self.nearest, folder / NEAREST, said)
        if self.reference is not None:
            self.reference.save(folder)
        content = {"protocol": self.protocol, "reconstruction": self.reconstruction,
                   "scores": [_plain(one) for one in self.scored],
                   "choices": [_plain(one) for one in self.choices],
                   "originality": [asdict(one) for one in self.originality],
                   "representation": [_aspect(one) for one in self.representation],
                   "asked": [{**asdict(one), "painted": one.painted.plain()} for one in self.asked]}  # fmt: skip
        write(folder / runs.SCORES, json.dumps(content, indent=1) + "\n")
        return replace(self, file=folder / runs.SCORES)


def read(path: Path) -> Scores:
    """Read the file that `Scores.write` wrote. The result has no pictures and no `choices`.

    Raises `OSError` and `ValueError`.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    scored = [Scored(**{**one, "frechet": _interval(one["frechet"]), "manifold": Manifold(**one["manifold"])})
              for one in content.get("scores", [])]  # fmt: skip
    shares = ("painted", "held_out", "painted_fixed", "held_out_fixed")
    originality = [Originality(**{**one, **{name: Share(*one[name]) for name in shares}})
                   for one in content.get("originality", [])]  # fmt: skip
    asked = [Asked(**{**one, "painted": _interval(one["painted"])}) for one in content.get("asked", [])]
    representation = [_aspect_of(one) for one in content.get("representation", [])]
    return Scores(scored, content.get("protocol", {}), content.get("reconstruction", {}), originality=originality,
                  representation=representation, asked=asked, file=path)  # fmt: skip


def _interval(plain: dict[str, float | None]) -> Interval:
    return Interval(**{name: math.nan if value is None else value for name, value in plain.items()})


def _aspect_of(plain: dict[str, Any]) -> Aspect:
    lines = [Line(**{**line, "painted": _interval(line["painted"])}) for line in plain["lines"]]
    are_shares = plain.get("are_shares", plain["name"] != "looks")  # older files lack it
    return Aspect(plain["name"], lines, plain["accuracy"], are_shares)


def _plain(one: Scored | Choice) -> dict[str, Any]:
    manifold = {"manifold": one.manifold._asdict()} if isinstance(one, Scored) else {}
    return {**asdict(one), "frechet": one.frechet.plain(), **manifold}


def _aspect(one: Aspect) -> dict[str, Any]:
    lines = [{**asdict(line), "painted": line.painted.plain()} for line in one.lines]
    return {"name": one.name, "accuracy": one.accuracy, "are_shares": one.are_shares, "lines": lines}


def _table(scored: list[Scored]) -> Iterator[str]:
    """The lines of a table as text."""
    if not scored:
        return
    heading = ("set", "label", "n", "features", "Fréchet", "95 %", "KID x 1000", "precision", "recall", "density",
               "coverage")  # fmt: skip
    lines: list[tuple[str, ...]] = [heading, *(one.cells() for one in scored)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
