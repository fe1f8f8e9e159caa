"""What a run's folder holds and where: checkpoints, samples, lists of files, and the run's own description."""

import glob
import json
import logging
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from artdiff import UserError, hub
from artdiff.files import UNFINISHED, duplicate, sha256, user_path, write

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
SAMPLES = "samples"
SET_ASIDE = "set_aside.tsv"
DUPLICATES = "duplicates.tsv"
MANIFEST = "manifest.tsv"
SCORES = "scores.json"
CONFIG = "config.yaml"
METADATA = "metadata.json"
PAINTING = "painting.json"
"""How the run paints best: what `StoredSampling` holds."""

EXPORTED, EXPORTED_SETTINGS = "model.safetensors", "config.json"
"""Weights and settings in a folder that `artdiff.export` has written, which stands for a run's."""

EVALUATION = "evaluation"
"""In a run's folder, where its scores go, and below it what is kept for the next call."""

REPORT = "report.html"
"""In there, what was found, as a page."""

LAST = f"{CHECKPOINTS}/last.ckpt"
"""The checkpoint saved last. Those before it lie beside it, as `before` calls them."""

BEST = f"{CHECKPOINTS}/best.ckpt"

EARLIER_EVENTS = "tensorboard"
"""Where versions up to 0.2 wrote TensorBoard's event files, in a run's folder."""


@dataclass(frozen=True)
class StoredSampling:
    """The way to paint that a run has stored: the name and SHA-256 of its checkpoint, `averaged` or `raw` weights,
    settings of painting by name, and in words why these.
    """

    checkpoint: str
    sha256: str
    weights: str
    settings: dict[str, Any]
    chosen_by: str


class ToPaint(NamedTuple):
    """What to paint with: a checkpoint, and the way that its run has stored, if that is to be used."""

    checkpoint: Path
    stored: StoredSampling | None = None


@dataclass(frozen=True)
class Run:
    """A training run, by its folder."""

    folder: Path

    @property
    def last(self) -> Path:
        """The checkpoint to carry on from."""
        return self.folder / LAST

    @property
    def best(self) -> Path:
        """The checkpoint with the best `val/loss`."""
        return self.folder / BEST

    @property
    def has_saved(self) -> bool:
        """Whether there is a checkpoint to carry on from, in whichever stage of the run."""
        return any(self.folder.glob(f"**/{LAST}"))

    @property
    def is_stage(self) -> bool:
        """Whether this is a stage of a run, in whose folder it lies, and not the run itself."""
        try:
            return bool(self.metadata.get("is_stage"))
        except (OSError, ValueError):  # it is damaged
            return False

    @property
    def metadata(self) -> dict[str, Any]:
        """What the run says of itself: device, precision, data, steps, scores; empty before it has begun."""
        path = self.folder / METADATA
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @classmethod
    def of(cls, checkpoint: Path) -> Self | None:
        """The run that a checkpoint lies in; None if it lies elsewhere."""
        path = checkpoint.absolute()
        return cls(path.parents[1]) if path.parent.name == CHECKPOINTS else None

    @property
    def stored_sampling(self) -> "StoredSampling | None":
        """How the run paints best; None if ways to paint were not compared. Raises `UserError` if it cannot be read."""
        path = self.folder / PAINTING
        if not path.exists():
            return None
        try:
            return StoredSampling(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): remove it, or evaluate the run again") from None

    @property
    def best_loss(self) -> float:
        """The best `val/loss` so far, infinite if the run was not validated."""
        return self.metadata.get("scores", {}).get("best val/loss", math.inf)

    def note(self, **facts: Any) -> None:
        """Add `facts` to the metadata, replacing those of the same name. Raises `UserError` if that fails."""
        write(self.folder / METADATA, json.dumps(self.metadata | facts, indent=2) + "\n")


def to_paint(ckpt: str, *, newest_in: Path) -> ToPaint:
    """The checkpoint that `ckpt` means, as for `find_checkpoint`, and how its run has stored that it paints best.

    A file is taken as it is. What is stored counts only for the checkpoint that it was found with. Raises `UserError`.
    """
    path = find_checkpoint(ckpt, newest_in=newest_in, prefer=BEST)
    run = Run.of(path)
    stored = run.stored_sampling if run is not None and path != user_path(ckpt) else None
    if stored is None or run is None:
        return ToPaint(path)
    chosen = run.folder / CHECKPOINTS / stored.checkpoint
    if not chosen.is_file() or sha256(chosen) != stored.sha256:
        log.warning("%s is of another checkpoint than the run has now, and is not used: evaluate the run again",
                    run.folder / PAINTING)  # fmt: skip
        return ToPaint(path)
    return ToPaint(chosen, stored)


def painted_with(told: Mapping[str, Any], ckpt: str | None, *, name: str, newest_in: Path) -> Path:
    """The checkpoint that a picture called `name` was painted with, whose settings are `told`.

    It is the file `ckpt`, or lies in that run, or without one in a run below `newest_in`. Raises `UserError`.
    """
    file, digest = told.get("checkpoint"), told.get("checkpoint_sha256")
    if not isinstance(file, str) or not isinstance(digest, str) or Path(file).name != file:
        raise UserError(f"{name} was painted by artdiff {told.get('artdiff')}, which did not note its checkpoint")
    path = newest_in
    if ckpt is not None and ckpt != "last":
        path = find_checkpoint(ckpt, newest_in=newest_in, prefer=BEST)  # which says what is wrong with it
        path = user_path(ckpt) if user_path(ckpt).is_dir() else path
    found = [path] if path.is_file() else sorted(path.glob(f"**/{glob.escape(file)}"))
    for one in found:
        if sha256(one) == digest:
            return one
    remedy = "set ckpt=FILE to it" if ckpt is None else f"ckpt={ckpt} is another one"
    raise UserError(f"{name} was painted with {file} (SHA-256 {digest[:16]}), which is not in {path}: {remedy}")


def find_checkpoint(ckpt: str, *, newest_in: Path, runs: str = "**", prefer: str, name: str = "ckpt") -> Path:
    """The checkpoint that `ckpt` means: `last`, a run's folder, or a file.

    `last` is the one saved last in the folders that match the pattern `runs` below `newest_in`; a stage of a run counts
    only where a codec is looked for. In a run's folder, `prefer` (`LAST` or `BEST`) is taken if it exists. A damaged
    one is warned of and passed over. Raises `UserError`, which calls the setting `name`.
    """
    if ckpt == "last":
        saved = sorted(newest_in.glob(f"{runs}/{LAST}"), key=lambda path: path.stat().st_mtime, reverse=True)
        folders = (path.parents[1] for path in saved)
        chosen = next((folder for folder in folders if name == "codec" or not Run(folder).is_stage), None)
        if chosen is None:
            raise UserError(f"{name}=last: no run below {newest_in} has saved a checkpoint; give a path: {name}=RUN")
        return _in_run(chosen, prefer, name)
    if ckpt.startswith(hub.SCHEME):
        found = hub.fetch(ckpt, [EXPORTED, EXPORTED_SETTINGS]) / EXPORTED
        if not found.is_file():
            raise UserError(f"{name}={ckpt} holds no {EXPORTED}: it is not a model that artdiff.export wrote")
        return found
    path = user_path(ckpt)
    if not path.exists():
        raise UserError(f"{name}={ckpt} does not exist; expected a run's folder, a checkpoint's file, or last")
    if (path / EXPORTED).is_file():
        return path / EXPORTED
    return path if path.is_file() else _in_run(path, prefer, name)


def to_carry_on(ckpt: str | None, run: Path, *, stages: Sequence[str] = ("",), is_first: bool = True) -> Path | None:
    """What a training in the folder `run` starts from; None for a new run.

    A checkpoint's file, or for a run in several `stages` (their folders below the run's) the folder of the run.
    `last` is the run itself if it has begun, else the newest run beside it. Raises `UserError`, also if `run` holds a
    run already and `ckpt` does not ask to carry it on. Of several processes only the first one looks for such a run:
    it may write there before the others look.
    """
    checkpoints = [f"{stage}/{LAST}".lstrip("/") for stage in stages]
    own = any((run / name).exists() for name in checkpoints)
    found = None if ckpt is None else _asked_for(ckpt, run, checkpoints, own=own)
    is_own = found is not None and found.resolve().is_relative_to(run.resolve())
    if own and not is_own and (is_first or ckpt is None):
        raise UserError(f"{run} holds a run already: carry it on with ckpt=last, or choose another folder")
    return found


def _asked_for(ckpt: str, run: Path, checkpoints: Sequence[str], *, own: bool) -> Path:
    """What `to_carry_on` starts from, of a run whose stages save these `checkpoints`; `own` is whether it has begun."""
    if len(checkpoints) == 1:
        asked = str(run) if own and ckpt == "last" else ckpt
        return find_checkpoint(asked, newest_in=run.parent, runs="*", prefer=LAST)
    if ckpt == "last":
        saved = [path for name in checkpoints for path in run.parent.glob(f"*/{name}")]
        if not own and not saved:
            raise UserError(f"ckpt=last: no run in {run.parent} has saved a checkpoint; give a path: ckpt=RUN")
        newest = max(saved, key=lambda path: path.stat().st_mtime, default=run)
        return run if own else run.parent / newest.relative_to(run.parent).parts[0]
    path = user_path(ckpt)
    if not any((path / name).exists() for name in checkpoints):
        return find_checkpoint(ckpt, newest_in=run.parent, runs="*", prefer=LAST)
    return path


def before(last: Path, number: int) -> Path:
    """The checkpoint that was saved `number` saves before `last`: `last-1.ckpt`, `last-2.ckpt`, …"""
    return last.with_stem(f"{last.stem}-{number}") if number else last


@contextmanager
def keeping(last: Path, count: int) -> Iterator[None]:
    """While `last` is replaced, keep it and those saved before it, `count` with the new one; if that fails, all stay.

    Raises `UserError` if the disk does not let it.
    """
    old = last.with_name(f"{last.name}.{UNFINISHED}")
    if count > 1 and last.exists():
        duplicate(last, old)
    try:
        yield
        if old.exists():
            for number in range(count - 1, 1, -1):
                if before(last, number - 1).exists():
                    before(last, number - 1).replace(before(last, number))
            old.replace(before(last, 1))
    finally:
        old.unlink(missing_ok=True)


def newest(run: Path) -> Path | None:
    """The newest checkpoint to carry on the run in this folder from; None if it has saved none.

    Damaged ones are warned of and passed over, unless all are.
    """
    return _undamaged(_saved(run))


def _saved(run: Path) -> list[Path]:
    """`last.ckpt` and those before it, the newest first."""
    last = run / LAST
    ends = [path.stem.removeprefix(f"{last.stem}-") for path in last.parent.glob(f"{last.stem}-*{last.suffix}")]
    numbers = sorted(int(end) for end in ends if end.isdecimal())
    return [path for path in (last, *(before(last, number) for number in numbers)) if path.exists()]


def _undamaged(checkpoints: Sequence[Path]) -> Path | None:
    """The first of these that is whole, else the first; warns of those that are passed over."""
    whole = next((path for path in checkpoints if _is_whole(path)), None)
    if whole is None:
        return next(iter(checkpoints), None)
    for path in checkpoints[: checkpoints.index(whole)]:
        log.warning("%s is damaged: going on with %s", path, whole.name)
    return whole


def _is_whole(path: Path) -> bool:
    """Whether every part of a checkpoint has the checksum that was written with it."""
    try:
        with zipfile.ZipFile(path) as content:
            return content.testzip() is None
    except Exception:  # a damaged file can make the reader raise anything
        return False


def events(run: Path) -> Path:
    """Where the event files of a run's folder are."""
    earlier = run / EARLIER_EVENTS
    return earlier if earlier.is_dir() else run


def _in_run(run: Path, prefer: str, name: str) -> Path:
    best = [run / BEST] if (run / BEST).exists() else []
    found = _undamaged([*best, *_saved(run)] if prefer == BEST else [*_saved(run), *best])
    if found is None:
        raise UserError(f"{name}={run} is a folder without {LAST}; expected a run's folder")
    return found
