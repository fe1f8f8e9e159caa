"""How a trained model is scored against pictures that it was not trained on.

A painter is asked for `n` pictures, of each label its share of the training pictures, without a picture to start from.
They are compared with the held-out pictures, and so are equally many training pictures. These figures, the *floor*, are
about what a perfect painter would get. A Fréchet distance depends on how many pictures it is of: compare equal numbers.

Several ways to paint can be compared in one call. The best by the first network's Fréchet distance is then looked at
more closely: label by label, for copies, and for what it paints without a label.
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
"""A label is scored by itself if both sets have so many pictures of it."""

SUBSET = 100
"""Pictures of each subset that a kernel distance is averaged over, at most."""

SHEET_ROWS, SHEET_COLUMNS = 8, 12
"""Labels on the sheet of a report, and pictures of each."""

PROMPTS, OF_PROMPT = 6, 6
"""Captions on the sheet of what is painted for words, and pictures painted for each."""

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
    """The scores of what each candidate paints. Pictures and features are kept in the folder `kept`."""
    if len(data.train_set) < 2:
        raise UserError(f"{len(data.train_set)} training pictures are too few to compare with")
    if settings.n > len(data.train_set):
        log.warning("n=%s is more than the %s training pictures that stand beside them, so n is that", settings.n,
                    len(data.train_set))  # fmt: skip
        settings = replace(settings, n=len(data.train_set))
    judge = _Judge(load, data, settings, kept)
    wanted = samples.shares(data.train_set.labels, settings.n)
    sets = []
    for number, one in enumerate(candidates, 1):
        if len(candidates) > 1:
            log.info("way %s of %s: %s", number, len(candidates), one.name)
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
    """PSNR in dB, SSIM, and LPIPS if its weights are given, of what a reconstruction model, or a codec, makes of the
    held-out pictures.
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
    """Compares sets of pictures with the held-out ones, and keeps what it has computed."""

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
        """The training pictures that are looked at for copies and preferences."""
        return self._real(TRAINED, self.data.train_set, most=self.settings.most_trained)

    def _real(self, name: str, pictures: Pictures, *, most: int) -> Sample:
        """Some pictures of a side of the data."""
        shown = [self.data.hparams.get(name) for name in ("fit", "background", "random_crop")]
        digest = f"{self.data.manifest} {self.data.trained_on} {shown}"  # which pictures, in which order, and of what
        return samples.real(name, pictures, digest, self.data.settings.image_size, most=most)

    def painted(self, one: Candidate, wanted: list[tuple[int, int]], *, title: str) -> Sample:
        """What a candidate paints of each label."""
        found = samples.painted(
            samples.WEIGHTS[one.weights], self.load(one), wanted, self.data.classes, one.settings,
            folder=self.kept, key=one.sha256,
        )  # fmt: skip
        return replace(found, name=title)

    def labels(self, sample: Sample) -> list[int]:
        """The labels of which there are enough pictures to score them alone."""
        both = (sample.labels, self.held_out.labels)
        count = len(self.data.classes)
        return [label for label in range(count) if min(int((one == label).sum()) for one in both) >= LEAST]

    def features(self, sample: Sample, network: FeatureNetwork) -> Tensor:
        """What a network sees in a set, standardised if it must be, float (N,D)."""
        return network.standardiser(self._raw(self.held_out, network))(self._raw(sample, network))

    def _raw(self, sample: Sample, network: FeatureNetwork) -> Tensor:
        """The same as it is, read or computed once."""
        key = (sample.key, network.name)
        if key not in self._seen:
            self._seen[key] = samples.features(sample, network, self.device, self.kept)
        return self._seen[key]

    def scored(self, sample: Sample, network: FeatureNetwork, label: int | None) -> Scored:
        """How the pictures of a set compare with the held-out ones, of one label or all."""
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
        """A row for each caption of some held-out pictures, behind its picture, and the captions; none if the painter
        knows no words or there are no captions.
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
        """What two spaces say about copies, the painted pictures that lie nearest to a training picture, over it, and
        what later pictures can be compared with.
        """
        train = self.train
        assert train.indices is not None
        groups = np.array(self.data.look_alikes())[train.indices].tolist()
        repeated = len(groups) - len(set(groups))
        if repeated:
            log.info("%s training pictures look like another one: a copy of one of them is told by the others",
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
        """What the best candidate paints without a label, against the training pictures, and whether it paints what it
        is asked for.
        """
        log.info("representation: what is painted without a label")
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
        """The class that each picture was painted as; None for a class that the painter does not know."""
        known = self.load(best).classes
        return [name if name in known else None for name in self._classes(painted)]

    def _classes(self, sample: Sample) -> list[str | None]:
        """The class of each picture, None for none."""
        return [self.data.classes[label] if label >= 0 else None for label in sample.labels.tolist()]


def _sheet(painted: Sample, classes: list[str]) -> tuple[Image.Image, tuple[str, ...]]:
    """The first pictures of each label, and the names of the labels."""
    numbers = painted.labels.unique().tolist()[:SHEET_ROWS]
    sheet = images.Sheet(SHEET_ROWS)
    for label in numbers:
        sheet.begin(None)
        for picture in painted.at((painted.labels == label).nonzero()[:SHEET_COLUMNS, 0].numpy()):
            sheet.add(images.to_pillow(images.to_signed(picture)))
    return sheet.picture(), tuple(classes[label] if label >= 0 else "none" for label in numbers)


def _pairs(found: list[Originality], painted: Sample, train: Sample) -> Image.Image:
    """The painted pictures with the smallest ratios, each over the training picture nearest to it."""
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
    """How the scores came about, for whoever wants to repeat them; `best` is what was looked at more closely."""
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
