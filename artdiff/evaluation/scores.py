"""The scores of a trained model against pictures that it was not trained on.

A painter is asked for `n` pictures, of each label its share of the training pictures, without a picture to start from.
They are compared with the held-out pictures, and so are equally many training pictures. These figures, the *floor*, are
about what a perfect painter would get. A Fréchet distance depends on how many pictures it is of: compare equal numbers.
"""

import json
import logging
import math
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from artdiff import UserError, __version__, images, runs
from artdiff.data.base import PictureDataModule
from artdiff.evaluation import distances, originality, samples
from artdiff.evaluation.distances import Interval, Manifold
from artdiff.evaluation.features import FeatureNetwork
from artdiff.evaluation.originality import PAIRS, Originality, Space
from artdiff.evaluation.samples import Sample
from artdiff.files import sha256, write
from artdiff.painter import Painter
from artdiff.settings import EvaluateSettings, PaintSettings
from artdiff.tasks.metrics import ReconstructionScores

log = logging.getLogger(__name__)

TRAINED = "all training pictures"

FLOOR = "training pictures"
"""What the figures of equally many training pictures are called."""

LEAST = 30
"""A label is scored by itself if both sets have so many pictures of it."""

SUBSET = 100
"""Pictures of each subset that a kernel distance is averaged over, at most."""

SHEET_ROWS, SHEET_COLUMNS = 8, 12
"""Labels on the sheet of a report, and pictures of each."""

NEAREST = "nearest.png"


@dataclass(frozen=True)
class Scored:
    """How `count` pictures of a set compare with the held-out ones, of one label or all (None), by one network."""

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
        """As a line of a table: set, label, pictures, network, distance, its interval, KID x 1000, then `manifold`."""
        half = self.frechet.high - self.frechet.value
        interval = "" if math.isnan(half) else f"± {half:.2g}"
        kernel = f"{1000 * self.kernel:.3g} ± {1000 * self.kernel_spread:.2g}"
        first = (self.set, self.label or "all", f"{self.count:,}", self.features, f"{self.frechet.value:.4g}")
        return (*first, interval, kernel, *(f"{value:.2f}" for value in self.manifold))


@dataclass(frozen=True)
class Scores:
    """Everything that an evaluation found. As text it is a table."""

    scored: list[Scored]
    reconstruction: dict[str, float]
    originality: list[Originality]
    protocol: dict[str, Any]
    sheet: Image.Image | None = None
    """What the first weights paint, one of `rows` for each label."""
    rows: tuple[str, ...] = ()
    nearest: Image.Image | None = None
    """The painted pictures that lie nearest to a training picture, over that one."""
    file: Path | None = None

    def __str__(self) -> str:
        values = (f"{name}: {value:.4g}" for name, value in self.reconstruction.items())
        return "\n".join([*_table(self.scored), *values, *map(str, self.originality)])

    def scalars(self) -> dict[str, float]:
        """The scores of all labels together by name, as TensorBoard shows them."""
        found = {f"reconstruction/{name}": value for name, value in self.reconstruction.items()}
        for one in self.scored:
            if one.label is None:
                name = f"{one.features}/{one.set.replace(' ', '_')}"
                found |= {f"frechet/{name}": one.frechet.value, f"kernel/{name}": one.kernel}
                found |= {f"{score}/{name}": value for score, value in one.manifold._asdict().items()}
        return found

    def write(self, folder: Path) -> "Scores":
        """Write `scores.json`, and the nearest pairs if they were looked for."""
        runs.make(folder, name="out")
        if self.nearest is not None:
            images.save_generated(self.nearest, folder / NEAREST, {"checkpoint": self.protocol["checkpoint"]})
        content = {"protocol": self.protocol, "reconstruction": self.reconstruction,
                   "scores": [_plain(one) for one in self.scored],
                   "originality": [asdict(one) for one in self.originality]}  # fmt: skip
        write(folder / runs.SCORES, json.dumps(content, indent=1) + "\n")
        return replace(self, file=folder / runs.SCORES)


def painting(
    painters: dict[str, Painter],
    data: PictureDataModule,
    networks: list[FeatureNetwork],
    settings: EvaluateSettings,
    kept: Path,
) -> Scores:
    """The scores of what painters paint, of one model with different weights: by the name of the weights. Pictures and
    features are kept in the folder `kept`.
    """
    asked = settings.paint_settings()
    if settings.n > len(data.train_set):
        log.warning("n=%s is more than the %s training pictures that stand beside them, so n is that", settings.n,
                    len(data.train_set))  # fmt: skip
        settings = replace(settings, n=len(data.train_set))
    one = next(iter(painters.values()))
    checkpoint, device = sha256(one.path), one.task.device
    wanted = samples.shares(data.train_set.labels, settings.n)
    held_out, floor = _real(data, settings)
    found = list[Scored]()
    sets = [
        samples.painted(name, painter, wanted, data.classes, asked, folder=kept, key=checkpoint)
        for name, painter in painters.items()
    ]
    for network in networks:
        seen = samples.features(held_out, network, device, kept)
        standard = network.standardiser(seen)
        theirs = Seen(held_out, standard(seen))
        for sample in (*sets, floor):
            ours = Seen(sample, standard(samples.features(sample, network, device, kept)))
            for label in (None, *range(len(data.classes))):
                if label is None or min(len(ours.of(label)), len(theirs.of(label))) >= LEAST:
                    name = None if label is None else data.classes[label]
                    compared = _compared(ours.of(label), theirs.of(label), bootstrap=settings.bootstrap)
                    found.append(Scored(sample.name, name, network.name, *compared))
    protocol = _protocol(data, settings, checkpoint, networks, asked)
    sheet, rows = _sheet(sets[0], data.classes)
    if not settings.originality:
        return Scores(found, {}, [], protocol, sheet, rows)
    copies, nearest = _originality(sets[0], held_out, data, networks[0], settings, device=device, kept=kept)
    return Scores(found, {}, copies, protocol, sheet, rows, nearest)


def reconstruction(painter: Painter, data: PictureDataModule, settings: EvaluateSettings) -> Scores:
    """PSNR in dB and SSIM of what a reconstruction model, or a codec, makes of the held-out pictures."""
    held_out, _ = _real(data, settings)
    scores, task = ReconstructionScores(prefix="").to(painter.task.device), painter.task
    with torch.inference_mode():
        for part in held_out.parts():
            image = images.to_signed(part).to(task.device)
            scores.update(task(image), image)
    values = {name: float(value) for name, value in scores.compute().items()}
    return Scores([], values, [], _protocol(data, settings, sha256(painter.path), [], None))


def _order(data: PictureDataModule) -> str:
    """Which pictures a data set holds, and in which order."""
    return f"{data.manifest} {data.trained_on}"


def _real(data: PictureDataModule, settings: EvaluateSettings) -> tuple[Sample, Sample]:
    """The held-out pictures and equally many training pictures as are painted."""
    side = data.settings.image_size
    if len(data.val_set) < 2:
        raise UserError(f"{len(data.val_set)} held-out pictures are too few to compare with")
    held_out = samples.real("held-out pictures", data.val_set, _order(data), side, most=settings.most_held_out)
    return held_out, samples.real(FLOOR, data.train_set, _order(data), side, most=settings.n)


def _sheet(painted: Sample, classes: list[str]) -> tuple[Image.Image, tuple[str, ...]]:
    """The first pictures of each label, and the names of the labels."""
    numbers = painted.labels.unique().tolist()[:SHEET_ROWS]
    sheet = images.Sheet(SHEET_ROWS)
    for label in numbers:
        sheet.begin(None)
        for picture in painted.at((painted.labels == label).nonzero()[:SHEET_COLUMNS, 0].numpy()):
            sheet.add(images.to_pillow(images.to_signed(picture)))
    return sheet.picture(), tuple(classes[label] if label >= 0 else "none" for label in numbers)


def _originality(
    painted: Sample,
    held_out: Sample,
    data: PictureDataModule,
    network: FeatureNetwork,
    settings: EvaluateSettings,
    *,
    device: torch.device,
    kept: Path,
) -> tuple[list[Originality], Image.Image]:
    """What two spaces say about copies, and the painted pictures that lie nearest to a training picture, over it."""
    train = samples.real(TRAINED, data.train_set, _order(data), data.settings.image_size, most=settings.most_trained)
    assert train.indices is not None
    groups = np.array(data.look_alikes())[train.indices].tolist()
    repeated = len(groups) - len(set(groups))
    if repeated:
        log.info("%s training pictures look like another one: a copy of one of them is told by the others", repeated)
    sets = (train, held_out, painted)
    small = [torch.cat([originality.pixels(part) for part in one.parts()]) for one in sets]
    seen = [samples.features(one, network, device, kept) for one in sets]
    standard = network.standardiser(seen[0])
    mean, directions = originality.components(standard(seen[0]))
    points = [(standard(one) - mean) @ directions for one in seen]
    spaces = [
        Space("pixels", torch.stack([small[0], originality.mirrored(small[0])]), small[1], small[2]),
        Space(f"features of {network.name}", points[0][None], points[1], points[2]),
    ]
    found = [originality.originality(space, groups) for space in spaces]
    least = torch.tensor([one.ratios for one in found]).amin(0).argsort()[:PAIRS].tolist()
    by = [min(found, key=lambda one, place=place: one.ratios[place]) for place in least]  # type: ignore[misc]
    ours = painted.at(np.array(least))
    theirs = train.at(np.array([one.nearest[place] for one, place in zip(by, least, strict=True)]))
    pairs = [tuple(images.to_pillow(images.to_signed(one)) for one in pair) for pair in zip(ours, theirs, strict=True)]
    return found, images.sheet(pairs)


class Seen(NamedTuple):
    """A set of pictures and their features, float (N,D)."""

    sample: Sample
    features: Tensor

    def of(self, label: int | None) -> Tensor:
        """The features of the pictures of a label, or of all."""
        return self.features if label is None else self.features[self.sample.labels == label]


def _compared(ours: Tensor, theirs: Tensor, *, bootstrap: int) -> tuple[int, int, Interval, float, float, Manifold]:
    """The fields of `Scored` from `count` on, for the features of two sets."""
    return (
        len(ours),
        len(theirs),
        distances.bootstrap(distances.frechet, ours, theirs, samples=bootstrap),
        *distances.kernel(ours, theirs, subset=max(2, min(SUBSET, len(ours) // 2, len(theirs) // 2))),
        distances.manifold(ours, theirs),
    )


def _protocol(
    data: PictureDataModule,
    settings: EvaluateSettings,
    checkpoint: str,
    networks: list[FeatureNetwork],
    asked: PaintSettings | None,
) -> dict[str, Any]:
    """How the scores came about, for whoever wants to repeat them."""
    return {
        "artdiff": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {platform.system()}",
        "checkpoint": {"file": Path(settings.ckpt).name, "sha256": checkpoint},
        "data": {"manifest": data.manifest, "held_out": len(data.val_set), "side": data.settings.image_size},
        "features": {network.name: network.source for network in networks},
        "painted": {"n": settings.n, **(samples.told(asked) if asked is not None else {})},
        "weights": list(settings.weights),
        "most_held_out": settings.most_held_out,
        "most_trained": settings.most_trained,
        "device": settings.device,
        "bootstrap": settings.bootstrap,
        "neighbours": distances.NEIGHBOURS,
    }


def _plain(one: Scored) -> dict[str, Any]:
    frechet = {name: None if math.isnan(value) else value for name, value in one.frechet._asdict().items()}
    return {**asdict(one), "frechet": frechet, "manifold": one.manifold._asdict()}


def _table(scored: list[Scored]) -> Iterator[str]:
    """Lines for people."""
    if not scored:
        return
    heading = ("set", "label", "n", "features", "Fréchet", "95 %", "KID x 1000", "precision", "recall", "density",
               "coverage")  # fmt: skip
    lines: list[tuple[str, ...]] = [heading, *(one.cells() for one in scored)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
