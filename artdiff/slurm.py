"""Resume the run of a requeued SLURM job: the run's folder is found by the job's id.

SLURM can send a signal before it ends a job (`sbatch --requeue --signal=USR1@120`). The run saves and stops, and the
job goes back into the queue. When it restarts, SLURM sets `SLURM_RESTART_COUNT` and calls the same command.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from artdiff import Interrupted
from artdiff.files import make_folder, user_path
from artdiff.overrides import is_multirun, quoted, values_by_name
from artdiff.ranks import rank
from artdiff.runs import Run

log = logging.getLogger(__name__)

NOTE = "slurm"
"""Key in a run's metadata: the job, and the command that started the run in it."""

RUN_DIRS = ("run_dir", "hydra.run.dir")
"""Settings that set the folder of a run."""


def job() -> str | None:
    """Return the id of this job, which stays the same when it is requeued; None outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def note(run: Run) -> None:
    """Store in the run's metadata which job started it, and with which command. Raises `UserError`."""
    if job() is not None and rank() == 0:
        make_folder(run.folder, name="run_dir")
        run.note(**{NOTE: _here()})


def resuming(words: Sequence[str]) -> list[str]:
    """Return the overrides `words` of a training; in a restarted job, changed so that they resume its run.

    The run's own checkpoint then replaces a `ckpt` in `words`, which the run started from. Nothing changes for a sweep,
    or for `ckpt=last`, which finds the run by itself. Ends the program if the run is finished.
    """
    given = values_by_name(words)
    begun_anew = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    asks_for_last = given.get("ckpt", "").strip("'") == "last"
    if not begun_anew or asks_for_last or is_multirun(words):
        return [*words]
    chosen = [user_path(given[name].strip("'")) for name in RUN_DIRS if name in given]
    run = _begun(chosen or user_path(given.get("runs_dir", "runs").strip("'")).glob("*/*"))
    if run is None:
        return [*words]
    if run.metadata.get("finished"):
        log.warning("SLURM has restarted job %s, but its run is finished: %s", job(), run.folder)
        sys.exit(0)
    log.warning("SLURM has restarted job %s: resuming its run in %s", job(), run.folder)
    here = quoted(str(run.folder))
    replaced = (*RUN_DIRS, "ckpt") if run.has_saved else RUN_DIRS
    others = [word for word in words if word.partition("=")[0] not in replaced]
    return [*others, f"hydra.run.dir={here}", *([f"ckpt={here}"] if run.has_saved else [])]


@contextmanager
def interruptible() -> Iterator[None]:
    """In a SLURM job, make SIGUSR1 raise `Interrupted`; by default it would kill the program silently.

    While a training takes steps, its own handler replaces this one and saves first.
    """
    if job() is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == ours:  # processes that load pictures inherit this handler
            signal.signal(number, signal.SIG_IGN)
            raise Interrupted(number)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def requeue() -> None:
    """Put this job back into SLURM's queue; does nothing outside SLURM."""
    number, scontrol = job(), shutil.which("scontrol")
    if number is None or rank() > 0:
        return
    if scontrol is None:
        log.warning("job %s is not put back into the queue: scontrol was not found", number)
        return
    done = subprocess.run([scontrol, "requeue", number], capture_output=True, text=True, check=False)
    if done.returncode:
        log.warning("job %s is not put back into the queue: %s", number, " ".join(done.stderr.split()))
    else:
        log.info("job %s is back in the queue; its run resumes when the job restarts", number)


def _here() -> dict[str, object]:
    return {"job": job(), "command": sys.orig_argv}


def _begun(folders: Iterable[Path]) -> Run | None:
    """Return the run in one of these folders that this command started in this job; None if there is none."""
    for folder in folders:
        with suppress(OSError, ValueError):
            if Run(folder).metadata.get(NOTE) == _here():
                return Run(folder)
    return None
