"""Checks of painted pictures before they are written or shown: for near copies, and by the user's own classifier."""

from pathlib import Path
from typing import NamedTuple

from artdiff import UserError, runs
from artdiff.classifier import Classifier
from artdiff.cli import typed
from artdiff.evaluation.originality import Reference
from artdiff.files import make_folder
from artdiff.ingest.tables import shown
from artdiff.painter import Painter, Painting
from artdiff.settings.passing import PassingSettings

HELD_BACK = "held_back"
"""The folder in `out` for pictures that do not pass."""


class Vetted(NamedTuple):
    """A painting with the results in its settings, whether it passed, and sentences about it."""

    painting: Painting
    passed: bool
    remarks: list[str]


class Vetting:
    """Checks the pictures of a model.

    - Near copies of training pictures are reported, and held back with `hold_back`. This needs an evaluated run.
    - Pictures that the user's classifier refuses are held back.

    Args:
        painter: the model.
        settings: which checks to make.
        classifier: the classifier of `settings`, if it is loaded already.

    Raises `UserError` if a required check cannot be made.
    """

    def __init__(self, painter: Painter, settings: PassingSettings, classifier: Classifier | None = None) -> None:
        run = runs.Run.of(painter.path) if settings.originality or settings.hold_back else None
        self.reference = None if run is None else Reference.load(run.folder / runs.EVALUATION)
        if settings.hold_back and run is None:
            raise UserError(
                f"hold_back=true needs the training pictures in a run's folder, and {painter.path} is in none: set "
                f"ckpt=RUN, or leave hold_back out"
            )
        if settings.hold_back and self.reference is None:
            raise UserError(f"hold_back=true needs an evaluated run: {typed('artdiff.evaluate', 'ckpt=RUN')}")
        if classifier is None and settings.refuse.model is not None:
            classifier = Classifier(settings.refuse)
        self.classifier = classifier
        self.holds_copies = settings.hold_back

    @property
    def may_hold(self) -> bool:
        """Whether pictures may be held back, so that none is shown while it is painted."""
        return self.holds_copies or self.classifier is not None

    def __call__(self, painting: Painting) -> Vetted:
        """Check a painting. Raises `UserError` if the classifier fails."""
        painting, copy_of = self._compared(painting)
        refusal = self._refusal(painting)
        passes = refusal is None and not (self.holds_copies and copy_of is not None)
        return Vetted(painting, passes, [remark for remark in (copy_of, refusal) if remark is not None])

    def _compared(self, painting: Painting) -> tuple[Painting, str | None]:
        """Compare a painting with the training pictures → it, with the ratio in its settings, and a sentence if it is
        too near.
        """
        if self.reference is None:
            return painting, None
        near, threshold = self.reference.nearness(painting.picture), self.reference.threshold
        painting = painting._replace(settings=painting.settings | {"nearest_ratio": round(near.ratio, 3)})
        if near.ratio >= threshold:
            return painting, None
        other = "a training picture" if near.file is None else f"the training picture {shown(near.file)}"
        ratio = f"ratio {near.ratio:.2f}, threshold {threshold:.2f}"
        return painting, f"{painting.name} may be a copy of {other}: look at both ({ratio})"

    def _refusal(self, painting: Painting) -> str | None:
        verdict = self.classifier.refused(painting.picture) if self.classifier is not None else None
        if verdict is None:
            return None
        return f"{painting.name} is refused: output {verdict.output} of the classifier is {verdict.score:.2f}"


def held_back(out: Path) -> Path:
    """The folder for pictures that do not pass; it is created if needed. Raises `UserError` if that fails."""
    folder = out / HELD_BACK
    make_folder(folder, name="out")
    return folder
