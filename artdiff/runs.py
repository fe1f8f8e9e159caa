"""The layout of a run's folder: checkpoints, samples, lists of files, metadata; and how checkpoints are found."""

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
"""Holds the run's `StoredSampling`: the settings with which it paints best."""

EXPORTED, EXPORTED_SETTINGS = "model.safetensors", "config.json"
"""Weights and settings in a folder written by `artdiff.export`, which is accepted wherever a run's folder is."""

EVALUATION = "evaluation"
"""Folder in a run's folder for its scores, and for what is cached for the next evaluation."""

REPORT = "report.html"
"""Page in the folder `EVALUATION`."""

LAST = f"{CHECKPOINTS}/last.ckpt"
"""The checkpoint saved last. Those saved before it lie beside it; `before` gives their names."""

BEST = f"{CHECKPOINTS}/best.ckpt"

EARLIER_EVENTS = "tensorboard"
"""Folder in a run's folder where versions up to 0.2 wrote TensorBoard's event files."""


@dataclass(frozen=True)
class StoredSampling:
    """Sampling settings that a run has stored: name and SHA-256 of the checkpoint, `averaged` (EMA) or `raw` weights,
    the settings by name, and a text on how they were chosen.
    """

    checkpoint: str
    sha256: str
    weights: str
    settings: dict[str, Any]
    chosen_by: str


class ToPaint(NamedTuple):
    """What to paint with: a checkpoint, and its run's stored sampling settings if they are to be used."""

    checkpoint: Path
    stored: StoredSampling | None = None


@dataclass(frozen=True)
class Run:
    """A training run, by its folder."""

    folder: Path

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.folder / LAST

    @property
    def best(self) -> Path:
        """The checkpoint with the best `val/loss`."""
        return self.folder / BEST

    @property
    def has_saved(self) -> bool:
        """Whether there is a checkpoint to resume from, in any stage of the run."""
        return any(self.folder.glob(f"**/{LAST}"))

    @property
    def is_stage(self) -> bool:
        """Whether this folder is a stage inside a run's folder, and not the run itself."""
        try:
            return bool(self.metadata.get("is_stage"))
        except (OSError, ValueError):  # the metadata is damaged
            return False

    @property
    def metadata(self) -> dict[str, Any]:
        """The run's metadata: device, precision, data, steps, scores; empty before the run starts."""
        path = self.folder / METADATA
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @classmethod
    def of(cls, checkpoint: Path) -> Self | None:
        """Return the run whose folder holds this checkpoint; None if it lies elsewhere."""
        path = checkpoint.absolute()
        return cls(path.parents[1]) if path.parent.name == CHECKPOINTS else None

    @property
    def stored_sampling(self) -> "StoredSampling | None":
        """The settings with which the run paints best; None if none are stored. Raises `UserError` if unreadable."""
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
    """Find the checkpoint `ckpt` (see `find_checkpoint`) and the sampling settings that its run has stored.

    Stored settings apply only to the checkpoint that they were chosen with, and not if `ckpt` names a file. Raises
    `UserError`.
    """
    path = find_checkpoint(ckpt, newest_in=newest_in, prefer=BEST)
    run = Run.of(path)
    stored = run.stored_sampling if run is not None and path != user_path(ckpt) else None
    if stored is None or run is None:
        return ToPaint(path)
    chosen = run.folder / CHECKPOINTS / stored.checkpoint
    if not chosen.is_file() or sha256(chosen) != stored.sha256:
        log.warning("%s belongs to a checkpoint that the run no longer has, and is ignored: evaluate the run again",
                    run.folder / PAINTING)  # fmt: skip
        return ToPaint(path)
    return ToPaint(chosen, stored)


def painted_with(told: Mapping[str, Any], ckpt: str | None, *, name: str, newest_in: Path) -> Path:
    """Find by its hash the checkpoint that painted the picture called `name`; `told` are the settings stored in it.

    Looks at the file or in the run `ckpt`, or, if `ckpt` is not given, in all runs below `newest_in`. Raises
    `UserError`.
    """
    file, digest = told.get("checkpoint"), told.get("checkpoint_sha256")
    if not isinstance(file, str) or not isinstance(digest, str) or Path(file).name != file:
        raise UserError(f"{name} was painted by artdiff {told.get('artdiff')}, which did not note its checkpoint")
    path = newest_in
    if ckpt is not None and ckpt != "last":
        path = find_checkpoint(ckpt, newest_in=newest_in, prefer=BEST)  # raises if ckpt is wrong
        path = user_path(ckpt) if user_path(ckpt).is_dir() else path
    found = [path] if path.is_file() else sorted(path.glob(f"**/{glob.escape(file)}"))
    for one in found:
        if sha256(one) == digest:
            return one
    remedy = "set ckpt=FILE to it" if ckpt is None else f"ckpt={ckpt} is another one"
    raise UserError(f"{name} was painted with {file} (SHA-256 {digest[:16]}), which is not in {path}: {remedy}")


def find_checkpoint(ckpt: str, *, newest_in: Path, runs: str = "**", prefer: str, name: str = "ckpt") -> Path:
    """Find the checkpoint that `ckpt` names: `last`, a run's folder, a file, an exported folder or hf://USER/NAME.

    `last` is the newest run in the folders that match the pattern `runs` below `newest_in`; a stage of a run counts
    only for a codec. In a run's folder, `prefer` (`LAST` or `BEST`) is taken if it exists. Damaged checkpoints are
    skipped with a warning. Raises `UserError`, in which the setting is called `name`.
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


def to_resume(ckpt: str | None, run: Path, *, stages: Sequence[str] = ("",), is_first: bool = True) -> Path | None:
    """Find what a training in the folder `run` resumes from; None for a new run.

    Returns a checkpoint's file, or the run's folder if the run has several `stages` (folders below the run's). `last`
    is the run itself if it has started, else the newest run beside it.

    Raises `UserError`, also if `run` already holds a run and `ckpt` does not resume it. Of several processes only the
    first one checks this, because it may write there before the others look.
    """
    checkpoints = [f"{stage}/{LAST}".lstrip("/") for stage in stages]
    own = any((run / name).exists() for name in checkpoints)
    found = None if ckpt is None else _asked_for(ckpt, run, checkpoints, own=own)
    is_own = found is not None and found.resolve().is_relative_to(run.resolve())
    if own and not is_own and (is_first or ckpt is None):
        raise UserError(f"{run} holds a run already: resume it with ckpt=last, or choose another folder")
    return found


def _asked_for(ckpt: str, run: Path, checkpoints: Sequence[str], *, own: bool) -> Path:
    """Resolve `ckpt` for `to_resume`. `checkpoints`: paths of the stages' checkpoints; `own`: `run` has started."""
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
    """Return the path of the checkpoint saved `number` saves before `last`: `last-1.ckpt`, `last-2.ckpt`, …"""
    return last.with_stem(f"{last.stem}-{number}") if number else last


@contextmanager
def rotating_checkpoints(last: Path, count: int) -> Iterator[None]:
    """Keep the previous checkpoints while `last` is replaced: `count` in all, with the new one.

    If writing the new one fails, all previous ones stay. Raises `UserError` if the old one cannot be copied.
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
    """Return the newest checkpoint to resume the run in this folder from; None if it has saved none.

    Damaged ones are skipped with a warning, unless all are damaged.
    """
    return _undamaged(_saved(run))


def _saved(run: Path) -> list[Path]:
    """Return `last.ckpt` and those saved before it, newest first."""
    last = run / LAST
    ends = [path.stem.removeprefix(f"{last.stem}-") for path in last.parent.glob(f"{last.stem}-*{last.suffix}")]
    numbers = sorted(int(end) for end in ends if end.isdecimal())
    return [path for path in (last, *(before(last, number) for number in numbers)) if path.exists()]


def _undamaged(checkpoints: Sequence[Path]) -> Path | None:
    """Return the first undamaged checkpoint, else the first; None if there are none. Warns of skipped ones."""
    whole = next((path for path in checkpoints if _is_whole(path)), None)
    if whole is None:
        return next(iter(checkpoints), None)
    for path in checkpoints[: checkpoints.index(whole)]:
        log.warning("%s is damaged: using %s", path, whole.name)
    return whole


def _is_whole(path: Path) -> bool:
    """Return whether every part of a checkpoint matches its checksum."""
    try:
        with zipfile.ZipFile(path) as content:
            return content.testzip() is None
    except Exception:  # for a damaged file the reader can raise anything
        return False


def events(run: Path) -> Path:
    """Return the folder of a run's TensorBoard event files."""
    earlier = run / EARLIER_EVENTS
    return earlier if earlier.is_dir() else run


def _in_run(run: Path, prefer: str, name: str) -> Path:
    best = [run / BEST] if (run / BEST).exists() else []
    found = _undamaged([*best, *_saved(run)] if prefer == BEST else [*_saved(run), *best])
    if found is None:
        raise UserError(f"{name}={run} is a folder without {LAST}; expected a run's folder")
    return found
