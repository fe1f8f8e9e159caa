"""What a run's folder holds and where: checkpoints, samples, what was set aside, and the run's own description."""

import json
from pathlib import Path
from typing import Any

from artdiff import UserError

CHECKPOINTS = "checkpoints"
SAMPLES = "samples"
SET_ASIDE = "set_aside.tsv"
DUPLICATES = "duplicates.tsv"
CONFIG = "config.yaml"
METADATA = "metadata.json"

LAST = f"{CHECKPOINTS}/last.ckpt"
BEST = f"{CHECKPOINTS}/best.ckpt"


def find_checkpoint(ckpt: str, *, newest_in: Path, runs: str = "**", prefer: str) -> Path:
    """`last` (of the `runs` below `newest_in`, a pattern, the last saved), a run's folder, or a file → the file.

    In a run's folder, `prefer` (`LAST` or `BEST`) is taken where it exists. Raises `UserError`.
    """
    if ckpt == "last":
        saved = sorted(newest_in.glob(f"{runs}/{LAST}"), key=lambda path: path.stat().st_mtime)
        if not saved:
            raise UserError(f"ckpt=last: no run below {newest_in} has saved a checkpoint; give a path: ckpt=RUN")
        return _in_run(saved[-1].parents[1], prefer)
    path = Path(ckpt).expanduser()
    if not path.exists():
        raise UserError(f"ckpt={ckpt} does not exist; expected a run's folder, a checkpoint's file, or last")
    return path if path.is_file() else _in_run(path, prefer)


def to_carry_on(ckpt: str | None, run: Path) -> Path | None:
    """The checkpoint that a training in `run` starts from: for `last` its own, else the newest of the runs beside it.

    Raises `UserError` also where `run` holds a training already and is not to be carried on.
    """
    own = (run / LAST).exists()
    if ckpt is None:
        if own:
            raise UserError(f"{run} holds a run already: carry it on with ckpt=last, or choose another folder")
        return None
    return find_checkpoint(str(run) if own and ckpt == "last" else ckpt, newest_in=run.parent, runs="*", prefer=LAST)


def shortest(path: Path) -> Path:
    """`path` as a person would type it here: relative where it lies below the current folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def make(folder: Path, *, name: str) -> None:
    """Make the folder that the setting `name` asks for. Raises `UserError` where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{name}={folder} cannot be made: {error.strerror}") from None


def free(path: Path) -> Path:
    """`path`, or the same with the first number behind its name that is not taken: nothing is overwritten."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_stem(f"{path.stem}_{number}")
    return found


def write_metadata(run: Path, **facts: Any) -> None:
    """Add `facts` to the run's description, replacing those of the same name."""
    path = run / METADATA
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(known | facts, indent=2) + "\n", encoding="utf-8")


def _in_run(run: Path, prefer: str) -> Path:
    found = next((run / name for name in (prefer, LAST, BEST) if (run / name).exists()), None)
    if found is None:
        raise UserError(f"ckpt={run} is a folder without {LAST}; expected a run's folder")
    return found
