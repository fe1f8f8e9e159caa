"""What the page does, independent of Gradio: paint with any run, list painted pictures, and find reports."""

import dataclasses
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from PIL import Image

from artdiff import UserError, hub, origin, painter, runs
from artdiff.classifier import Classifier
from artdiff.cli import typed
from artdiff.evaluation.originality import REFERENCE
from artdiff.files import free, make_folder, shortest, user_path
from artdiff.ingest import pool
from artdiff.origin import FORMATS
from artdiff.overrides import written
from artdiff.painter import Emerging, Painter
from artdiff.runs import Run
from artdiff.settings.base import defaults
from artdiff.settings.evaluation import CompareSettings
from artdiff.settings.painting import PaintSettings
from artdiff.settings.sharing import GallerySettings
from artdiff.signing import Signer
from artdiff.vetting import HELD_BACK, Vetting, held_back
from artdiff.web.work import Report, reported

log = logging.getLogger(__name__)

KEPT = 2
"""How many models stay loaded, the most recently used ones."""

EVERY = 0.3
"""Seconds between updates of the emerging pictures."""

MOST_LISTED = 200
"""The most painted pictures that are listed, the newest ones."""

OTHERS = re.compile(r"sheet(_\d+)?|.*_trajectory(_\d+)?")
"""Names of files that are not single pictures."""

OFFERED = ("Generation", "Distillation", "Reconstruction")
"""Tasks of the runs that can be chosen, in this order; runs of other tasks are stages."""


STORED = (runs.PAINTING, runs.EXPORTED, runs.EXPORTED_SETTINGS)
"""Files in a run's or an exported folder that, beside the checkpoints, determine what it paints."""


class Made(NamedTuple):
    """A written picture, its title, and the command that repaints it."""

    path: Path
    title: str
    command: str


class Shown(NamedTuple):
    """The status of a job as text, small emerging pictures, finished pictures, and whether this is the last report."""

    status: str
    emerging: list[Image.Image]
    made: list[Made]
    is_last: bool = False


class Studio:
    """Paints for the page, one job at a time."""

    def __init__(self, settings: GallerySettings) -> None:
        self.settings = settings
        self.runs_dir = user_path(settings.runs_dir)
        self.out = user_path(settings.out)
        make_folder(self.out, name="out")
        self.asked = self._asked()
        self.signer = Signer(settings.sign) if settings.sign.certificate is not None else None
        self.classifier = Classifier(settings.refuse) if settings.refuse.model is not None else None
        self.loaded: OrderedDict[str, tuple[Painter, Vetting]] = OrderedDict()
        self.lock = threading.Lock()
        self.busy = threading.Lock()
        self.jobs = list[tuple[str, Report[Shown]]]()
        """Running and waiting jobs, with their visitors."""

    def _asked(self) -> str | None:
        """The local path of the run in `ckpt`; None for the newest. Raises `UserError` if it cannot be downloaded."""
        asked = self.settings.ckpt
        if asked is None or asked == "last":
            return None
        if asked.startswith(hub.SCHEME):
            return str(runs.to_paint(asked, newest_in=self.runs_dir).checkpoint.parent)
        return str(user_path(asked))

    def runs(self) -> list[str]:
        """The run in `ckpt`, then those that paint new pictures, then those that reconstruct; the newest first."""
        found = sorted(self.runs_dir.glob(f"**/{runs.LAST}"), key=lambda path: -path.stat().st_mtime)
        tasks = {path.parents[1]: _task(path.parents[1]) for path in found}
        folders = [str(shortest(run)) for task in OFFERED for run, its in tasks.items() if its == task]
        first = [self.asked] if self.asked is not None else []
        return [*first, *(folder for folder in folders if folder not in first)]

    def _offers(self, run: str) -> bool:
        """Whether the page offers a run, without listing all of them."""
        if run == self.asked:
            return True
        folder = user_path(run)
        return folder.resolve().is_relative_to(self.runs_dir.resolve()) and _task(folder) in OFFERED

    def painter(self, run: str | None) -> Painter:
        """The model of a run, loaded once. Raises `UserError`."""
        return self._loaded(run)[0]

    def _loaded(self, run: str | None) -> tuple[Painter, Vetting]:
        """The model of a run, and the checks of its pictures."""
        if not run:
            raise UserError("choose a run first; python -m artdiff.train makes one")
        if not self._offers(run):  # the page loads no other paths
            raise UserError(f"{run} is not one of the runs that this page offers")
        chosen = _to_paint(run, self.runs_dir, _stamp(user_path(run)))
        its_run = Run.of(chosen.checkpoint)
        judged = _times([its_run.folder / runs.EVALUATION / REFERENCE]) if its_run is not None else ()
        key = f"{chosen.checkpoint} {chosen.checkpoint.stat().st_mtime_ns} {chosen.stored} {judged}"
        with self.lock:
            if key not in self.loaded:
                while len(self.loaded) >= KEPT:
                    self.loaded.popitem(last=False)
                model = painter.load(chosen, device=self.settings.device, trust_code=self.settings.trust_code)
                self.loaded[key] = model, Vetting(model, self.settings, self.classifier)
            self.loaded.move_to_end(key)
            return self.loaded[key]

    def cancel(self, visitor: str) -> None:
        """Cancel the jobs of a visitor, after the present step."""
        for whose, report in [*self.jobs]:
            if whose == visitor:
                report.stop()

    def paint(self, run: str | None, asked: Mapping[str, Any], *, visitor: str = "") -> Iterator[Shown]:
        """Paint with the settings `asked` (of `Painter.paint`; None for the default), and write the pictures to `out`.

        Close the iterator, or `cancel` for the `visitor`, to stop after the present step. Raises `UserError`.
        """
        model, vetting = self._loaded(run)
        given = {name: value for name, value in asked.items() if value is not None}
        own, limits = self.settings, dataclasses.asdict(self.settings.limits)
        fixed = {"max_pixels": own.max_pixels, "limits": limits, "word_vectors": own.word_vectors}
        settings = PaintSettings.with_defaults(**{**model.defaults, **given, **fixed})
        model.check(settings)
        settings, unread = model.understood(settings)

        def work(report: Report[Shown]) -> None:
            made, remarks, held, said = list[Made](), unread, 0, 0.0
            while not self.busy.acquire(timeout=EVERY):
                report(Shown("waiting for other jobs", [], []))

            def watch(now: Emerging) -> None:
                nonlocal said
                report.check()
                if time.monotonic() - said >= EVERY:
                    said = time.monotonic()
                    emerging = [] if vetting.may_hold else now.shown()
                    report(Shown(f"painting: {now.done:.0%}", emerging, list(made)))

            try:
                for one in model.each(settings, watch=watch):
                    painting, passed, said_of_it = vetting(one)
                    folder = self.out if passed else held_back(self.out)
                    path = free(folder / f"{painting.name}.png")
                    painting.save(path, signer=self.signer)
                    if passed:
                        made.append(self._made(path, painting.settings, run))
                    held += not passed
                    remarks += said_of_it
                    report(Shown(f"{len(made)} painted", [], list(made)))
            finally:
                self.busy.release()
            apart = f"; {held} held back in {HELD_BACK}" if held else ""
            status = "\n".join([f"done: {len(made)} in {self.out}{apart}", *remarks])
            report(Shown(status, [], list(made), is_last=True))

        report = Report[Shown]()
        self.jobs.append((visitor, report))
        shown = Shown("", [], [])
        try:
            for shown in reported(work, report):
                yield shown
            if not shown.is_last:
                yield Shown("cancelled", [], shown.made, is_last=True)
        finally:
            self.jobs.remove((visitor, report))

    def muse(self, path: str | None) -> Image.Image | None:
        """Decode an uploaded picture in a process with limits. Raises `UserError` if it cannot be read."""
        if path is None:
            return None
        (found,) = pool.read([Path(path)], self.settings.limits, enough=1024)
        if found.picture is None:
            raise UserError(f"{Path(path).name} cannot be used: {found.reason}")
        return found.picture

    def painted(self) -> list[Path]:
        """The pictures in `out`, the newest first."""
        there = [path for path in self.out.iterdir() if path.suffix.lower() in FORMATS]
        found = [path for path in there if not OTHERS.fullmatch(path.stem)]
        return sorted(found, key=lambda path: -path.stat().st_mtime)[:MOST_LISTED]

    def about(self, path: Path) -> tuple[dict[str, Any], str]:
        """The settings of a painted picture, and the command that repaints it. Raises `UserError`."""
        told = origin.settings_of(path)
        return told, self._made(path, told, None).command

    def _made(self, path: Path, told: Mapping[str, Any], run: str | None) -> Made:
        title = " ".join(str(told[name]) for name in ("label", "prompt", "seed") if told.get(name) is not None)
        title = title or path.stem
        return Made(path, title, command(path, told, run=run, out=self.settings.out))

    def report(self, run: str | None) -> Path | None:
        """The report of a run; None if it was not evaluated. Raises `UserError`."""
        if not run or not self._offers(run):
            raise UserError("choose a run first")
        found = Run.of(runs.find_checkpoint(run, newest_in=self.runs_dir, prefer=runs.BEST))
        path = found.folder / runs.EVALUATION / runs.REPORT if found is not None else None
        return path if path is not None and path.is_file() else None


def comparable(model: Painter) -> dict[str, Any]:
    """Sampling settings for comparing runs: defaults, and those that the model was trained for, but no stored ones."""
    return {name: defaults("generate")[name] for name in CompareSettings.PAINTING} | model.made_for


def command(path: Path, told: Mapping[str, Any], *, run: str | None, out: str) -> str:
    """The command that repaints a picture with the settings `told`: with these settings, or with `from=` its file."""
    begun = next((name for name in ("refine", "muse") if name in told), None)
    if run is None or begun is not None or "share" in told or "seed" not in told:
        muse = [f"{begun}={told[begun] or 'MUSE'}"] if begun is not None else []
        return typed("artdiff.generate", f"from={shortest(path)}", *muse, f"out={out}")
    label = "none" if told.get("label") is None else told["label"]
    names = (*PaintSettings.SHAPING, "size", "max_pixels", "prompt", "negative")
    given = {name: told[name] for name in names if name in told}
    same = [f"{name}={written(value) if isinstance(value, list) else value}" for name, value in given.items()]
    words = [f"ckpt={run}", f"label={label}", "n=1", *same, f"out={out}"]
    return typed("artdiff.generate", *words)


def _stamp(run: Path) -> tuple[tuple[str, int, int], ...]:
    """A cache key that changes with a run's checkpoints and stored settings: their names, times and sizes."""
    files = [run] if run.is_file() else [*(run / runs.CHECKPOINTS).glob("*"), *(run / name for name in STORED)]
    return _times(files)


def _times(files: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Names, times and sizes of the files that exist."""
    found = [(file.name, file.stat()) for file in sorted(files) if file.is_file()]
    return tuple((name, status.st_mtime_ns, status.st_size) for name, status in found)


@lru_cache(maxsize=16)
def _to_paint(run: str, newest_in: Path, stamp: object) -> runs.ToPaint:
    """`runs.to_paint`, cached for each `stamp` of the run, since it reads whole checkpoints."""
    return runs.to_paint(run, newest_in=newest_in)


def _task(run: Path) -> str:
    """The name of a run's task; empty if it cannot be read."""
    try:
        return _task_in(run / runs.CONFIG, (run / runs.CONFIG).stat().st_mtime_ns)
    except OSError:
        return ""


@lru_cache(maxsize=1024)
def _task_in(path: Path, changed: int) -> str:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        return str(config["task"]["_target_"]).rpartition(".")[2]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""
