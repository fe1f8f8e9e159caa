"""Scores of a trained model against held-out pictures.

A painter paints `n` pictures from noise, with the labels in the proportions of the training pictures. They are compared
with the held-out pictures, and so are as many training pictures. The scores of the latter, the *floor*, are about what
a perfect painter would get. A Fréchet distance depends on the number of pictures: compare only equal numbers.

One call can compare several candidates (checkpoints, weights and sampling settings). The one with the smallest Fréchet
distance in the first feature network is then examined further: label by label, for copies, and for what it paints
without a label.
"""

import logging
import platform
from dataclasses import asdict, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics import MetricCollection

from artdiff import UserError, __version__, hardware, images
from artdiff.data.base import PictureDataModule
from artdiff.data.loader import Pictures
from artdiff.diffusion.conditioning import NO_LABEL
from artdiff.evaluation import distances, originality, samples
from artdiff.evaluation.choosing import Candidate, Loader
from artdiff.evaluation.features import FeatureNetwork
from artdiff.evaluation.originality import PAIRS, Originality
from artdiff.evaluation.representation import Asked, Aspect, Seen, asked, learned, representation
from artdiff.evaluation.results import FLOOR, Scored, Scores
from artdiff.evaluation.samples import Sample
from artdiff.painting.plan import canvases
from artdiff.settings.evaluation import EvaluateSettings
from artdiff.tasks.metrics import ReconstructionScores
from artdiff.words import words

log = logging.getLogger(__name__)

TRAINED = "all training pictures"

LEAST = 30
"""A label is scored by itself if both sets have at least this many pictures of it."""

SUBSET = 100
"""The largest size of the subsets that a kernel distance is averaged over."""

SHEET_ROWS, SHEET_COLUMNS = 8, 12
"""Labels on the sheet of a report, and pictures of each label."""

PROMPTS, OF_PROMPT = 6, 6
"""Captions on the sheet of painted prompts, and pictures painted for each."""

ALONE = "painted without a label"

CLASS = "class"


def painting(
    candidates: list[Candidate],
    load: Loader,
    data: PictureDataModule,
    networks: list[FeatureNetwork],
    settings: EvaluateSettings,
    *,
    kept: Path,
) -> Scores:
    """Score what each candidate paints. Pictures and features are cached in the folder `kept`."""
    if len(data.train_set) < 2:
        raise UserError(f"{len(data.train_set)} training pictures are too few to compare with")
    if settings.n > len(data.train_set):
        log.warning("n=%s is more than the number of training pictures: painting %s", settings.n,
                    len(data.train_set))  # fmt: skip
        settings = replace(settings, n=len(data.train_set))
    judge = _Judge(load, data, settings, kept)
    wanted = samples.shares(data.train_set.labels, settings.n)
    sets = []
    for number, one in enumerate(candidates, 1):
        if len(candidates) > 1:
            log.info("candidate %s of %s: %s", number, len(candidates), one.name)
        sets.append(judge.painted(one, wanted, title=one.name))
    found = [judge.scored(one, network, label=None) for network in networks for one in (*sets, judge.floor)]
    order = sorted(range(len(sets)), key=lambda place: found[place].frechet.value)
    compares = settings.compare.asks or len(sets) > 1
    best, theirs = candidates[order[0]], sets[order[0]]
    for network in networks:
        for sample in (theirs, judge.floor):
            found += [judge.scored(sample, network, label) for label in judge.labels(sample)]
    names = [network.name for network in networks]
    found.sort(key=lambda one: names.index(one.features))
    sheet, rows = _sheet(theirs, data.classes)
    prompted, prompts = judge.prompted(best)
    copies, nearest, reference = judge.originality(theirs, networks[0]) if settings.originality else ([], None, None)
    aspects, asked_for = judge.representation(best, theirs, networks[0]) if settings.representation else ([], [])
    return Scores(
        scored=found,
        protocol=_protocol(data, settings, networks, best),
        choices=[candidates[place].choice(found[place].frechet) for place in order] if compares else [],
        sheet=sheet,
        rows=rows,
        prompted=prompted,
        prompts=prompts,
        originality=copies,
        nearest=nearest,
        reference=reference,
        representation=aspects,
        asked=asked_for,
    )


def reconstruction(model: Candidate, load: Loader, data: PictureDataModule, settings: EvaluateSettings) -> Scores:
    """Score the reconstructions of held-out pictures by a reconstruction model or a codec: PSNR in dB, SSIM, and LPIPS
    if its weights are given.
    """
    task = load(model).task
    judge = _Judge(load, data, settings, Path())
    scores: list[MetricCollection] = [ReconstructionScores(prefix="")]
    protocol = _protocol(data, settings, [], model)
    if settings.lpips is not None:
        from artdiff.evaluation.lpips import Lpips

        distance = Lpips(settings.lpips)
        protocol["lpips"] = distance.source
        scores.append(MetricCollection({"lpips": distance}))
    scores = [score.to(task.device) for score in scores]
    with torch.inference_mode():
        for part in judge.held_out.parts():
            image = images.to_signed(part).to(task.device)
            picture = task(image)
            for score in scores:
                score.update(picture, image)
    values = {name: float(value) for score in scores for name, value in score.compute().items()}
    return Scores(scored=[], protocol=protocol, reconstruction=values)


class _Judge:
    """Compares sets of pictures with the held-out ones, and caches features."""

    def __init__(self, load: Loader, data: PictureDataModule, settings: EvaluateSettings, kept: Path) -> None:
        if len(data.val_set) < 2:
            raise UserError(f"{len(data.val_set)} held-out pictures are too few to compare with")
        self.load, self.data, self.settings, self.kept = load, data, settings, kept
        self.device = hardware.device(settings.device)
        self.held_out = self._real(samples.HELD_OUT, data.val_set, most=settings.most_held_out)
        self.floor = self._real(FLOOR, data.train_set, most=settings.n)
        self._seen: dict[tuple[str, str], Tensor] = {}

    @cached_property
    def train(self) -> Sample:
        """The training pictures that originality and representation compare with."""
        return self._real(TRAINED, self.data.train_set, most=self.settings.most_trained)

    def _real(self, name: str, pictures: Pictures, *, most: int) -> Sample:
        """At most `most` pictures of one split of the data."""
        shown = [self.data.hparams.get(name) for name in ("fit", "background", "random_crop")]
        digest = f"{self.data.manifest} {self.data.trained_on} {shown}"  # which pictures, in which order, prepared how
        return samples.real(name, pictures, digest, self.data.settings.image_size, most=most)

    def painted(self, one: Candidate, wanted: list[tuple[int, int]], *, title: str) -> Sample:
        """Paint with a candidate; `wanted` is a list of (label, pictures)."""
        found = samples.painted(
            samples.WEIGHTS[one.weights], self.load(one), wanted, self.data.classes, one.settings,
            folder=self.kept, key=one.sha256,
        )  # fmt: skip
        return replace(found, name=title)

    def labels(self, sample: Sample) -> list[int]:
        """The labels that have enough pictures to be scored by themselves."""
        both = (sample.labels, self.held_out.labels)
        count = len(self.data.classes)
        return [label for label in range(count) if min(int((one == label).sum()) for one in both) >= LEAST]

    def features(self, sample: Sample, network: FeatureNetwork) -> Tensor:
        """The features of a set, float (N,D), standardised if the network needs that."""
        return network.standardiser(self._raw(self.held_out, network))(self._raw(sample, network))

    def _raw(self, sample: Sample, network: FeatureNetwork) -> Tensor:
        """The features without standardisation, read from the cache or computed."""
        key = (sample.key, network.name)
        if key not in self._seen:
            self._seen[key] = samples.features(sample, network, self.device, self.kept)
        return self._seen[key]

    def scored(self, sample: Sample, network: FeatureNetwork, label: int | None) -> Scored:
        """Scores of a set against the held-out pictures, for one label, or for all if `label` is None."""
        ours, theirs = (
            self.features(one, network)[slice(None) if label is None else one.labels == label]
            for one in (sample, self.held_out)
        )
        subset = max(2, min(SUBSET, len(ours) // 2, len(theirs) // 2))
        kernel, spread = distances.kernel(ours, theirs, subset=subset)
        return Scored(
            set=sample.name,
            label=None if label is None else self.data.classes[label],
            features=network.name,
            count=len(ours),
            held_out=len(theirs),
            frechet=distances.bootstrap(distances.frechet, ours, theirs, samples=self.settings.bootstrap),
            kernel=kernel,
            kernel_spread=spread,
            manifold=distances.manifold(ours, theirs),
        )

    def prompted(self, best: Candidate) -> tuple[Image.Image | None, tuple[str, ...]]:
        """A sheet with a row for each of some held-out captions, and these captions. A row starts with the held-out
        picture. None and no captions if the painter was trained without captions or the data has none.
        """
        painter, captions = self.load(best), self.data.val_set.captions
        if not painter.vocabulary or captions is None:
            return None, ()
        assert self.held_out.indices is not None
        texts = [captions[place] for place in self.held_out.indices]
        first = {text: place for place, text in reversed([*enumerate(texts)]) if text and words(text)}  # each text once
        chosen = sorted(first.items(), key=lambda one: one[1])[:PROMPTS]
        if not chosen:
            return None, ()
        asked_for = replace(best.settings, prompt=[text for text, _ in chosen], n=OF_PROMPT)
        rows = canvases(asked_for, painter.classes, [])
        paintings, sheet = painter.fill(rows, asked_for), images.Sheet(PROMPTS)
        for row, real in zip(rows, self.held_out.at(np.array([place for _, place in chosen])), strict=True):
            sheet.begin(images.to_pillow(images.to_signed(real)))
            for painting in islice(paintings, len(row)):
                sheet.add(painting.picture)
        return sheet.picture(), tuple(text for text, _ in chosen)

    def originality(
        self, painted: Sample, network: FeatureNetwork
    ) -> tuple[list[Originality], Image.Image, originality.Reference]:
        """Check for copies → the results in pixel and feature space, a sheet of the nearest pairs of a painted and a
        training picture, and the reference for pictures painted later.
        """
        train = self.train
        assert train.indices is not None
        groups = np.array(self.data.near_duplicate_groups())[train.indices].tolist()
        repeated = len(groups) - len(set(groups))
        if repeated:
            log.info("%s training pictures are near-duplicates of another one; for copies, each group counts as one",
                     repeated)  # fmt: skip
        sets = (train, self.held_out, painted)
        small = [torch.cat([originality.pixels(part) for part in one.parts()]) for one in sets]
        seen = [self._raw(one, network) for one in sets]
        spaces = originality.spaces(small, seen, network)
        found = [originality.originality(space, groups) for space in spaces]
        files = self.data.files()
        names = [] if files is None else [files[place] for place in train.indices]
        reference = originality.Reference(small[0], torch.tensor(groups), found[0].threshold, names)
        return found, _pairs(found, painted, train), reference

    def representation(
        self, best: Candidate, painted: Sample, network: FeatureNetwork
    ) -> tuple[list[Aspect], list[Asked]]:
        """Compare what the best candidate paints without a label with the training pictures, and count how often its
        labelled pictures show their label.
        """
        log.info("representation: painting without a label")
        count = self.settings.representation
        alone = self.painted(best, [(NO_LABEL, count)], title=ALONE) if self.data.classes else painted
        sets = (self.train, alone, painted)
        trained, left_alone, labelled = (Seen(one, self.features(one, network)) for one in sets)
        columns = {name: learned(values, trained.features) for name, values in self._columns().items()}
        known = {name: column for name, column in columns.items() if column is not None}
        asked_for = asked(self._asked_for(best, painted), known[CLASS], labelled) if CLASS in known else []
        return representation(known, trained, left_alone), asked_for

    def _columns(self) -> dict[str, list[str | None]]:
        """Classes and other metadata of the training pictures."""
        assert self.train.indices is not None
        classes = self._classes(self.train)
        others = {name: [values[place] for place in self.train.indices] for name, values in self.data.columns().items()}
        return {CLASS: classes, **{name: values for name, values in others.items() if name != CLASS}}

    def _asked_for(self, best: Candidate, painted: Sample) -> list[str | None]:
        """The class that each picture was painted with; None if the painter does not know the class."""
        known = self.load(best).classes
        return [name if name in known else None for name in self._classes(painted)]

    def _classes(self, sample: Sample) -> list[str | None]:
        """The class of each picture; None if it has none."""
        return [self.data.classes[label] if label >= 0 else None for label in sample.labels.tolist()]


def _sheet(painted: Sample, classes: list[str]) -> tuple[Image.Image, tuple[str, ...]]:
    """A sheet of the first pictures of each label, and the names of the labels."""
    numbers = painted.labels.unique().tolist()[:SHEET_ROWS]
    sheet = images.Sheet(SHEET_ROWS)
    for label in numbers:
        sheet.begin(None)
        for picture in painted.at((painted.labels == label).nonzero()[:SHEET_COLUMNS, 0].numpy()):
            sheet.add(images.to_pillow(images.to_signed(picture)))
    return sheet.picture(), tuple(classes[label] if label >= 0 else "none" for label in numbers)


def _pairs(found: list[Originality], painted: Sample, train: Sample) -> Image.Image:
    """A sheet of the painted pictures with the smallest ratios, each above the training picture nearest to it."""
    least = torch.tensor([one.ratios for one in found]).amin(0).argsort()[:PAIRS].tolist()
    by = [min(found, key=lambda one, place=place: one.ratios[place]) for place in least]  # type: ignore[misc]
    ours = painted.at(np.array(least))
    theirs = train.at(np.array([one.nearest[place] for one, place in zip(by, least, strict=True)]))
    pairs = [tuple(images.to_pillow(images.to_signed(one)) for one in pair) for pair in zip(ours, theirs, strict=True)]
    return images.sheet(pairs)


def _protocol(
    data: PictureDataModule,
    settings: EvaluateSettings,
    networks: list[FeatureNetwork],
    best: Candidate,
) -> dict[str, Any]:
    """Everything needed to repeat the scores; `best` is the candidate that was examined further."""
    return {
        "artdiff": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {platform.system()}",
        "checkpoint": {"file": best.path.name, "sha256": best.sha256},
        "data": {"manifest": data.manifest, "held_out": len(data.val_set), "side": data.settings.image_size},
        "features": {network.name: network.source for network in networks},
        "painted": {"n": settings.n, **samples.told(best.settings)} if networks else {},
        "weights": best.weights,
        "compare": asdict(settings.compare),
        "most_held_out": settings.most_held_out,
        "most_trained": settings.most_trained,
        "representation": settings.representation,
        "device": settings.device,
        "bootstrap": settings.bootstrap,
        "neighbours": distances.NEIGHBOURS,
    }
