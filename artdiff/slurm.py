"""Jobs that SLURM begins anew carry on their runs: the run's folder is found again by the job's number.

SLURM can send a signal before it takes a machine away (`sbatch --requeue --signal=USR1@120`). The run saves and stops,
the job goes back into the queue, and when it starts again `SLURM_RESTART_COUNT` is set and the same command is called.
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
from artdiff.overrides import MULTIRUN, quoted
from artdiff.ranks import rank
from artdiff.runs import Run

log = logging.getLogger(__name__)

NOTE = "slurm"
"""In a run's metadata: the job, and the command that began the run in it."""

RUN_DIRS = ("run_dir", "hydra.run.dir")
"""Settings that choose the folder of a run."""


def job() -> str | None:
    """The number of this job, which stays the same when it is begun anew; None outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def note(run: Run) -> None:
    """Note in the run's metadata which job began it, and with which command. Raises `UserError`."""
    if job() is not None and rank() == 0:
        make_folder(run.folder, name="run_dir")
        run.note(**{NOTE: _here()})


def carrying_on(words: Sequence[str]) -> list[str]:
    """The overrides `words` of a training as they are typed; in a job begun anew, so that its run is carried on.

    Its own checkpoint takes the place of one that they carry on, which it began with. Not if they ask for several runs,
    or for `ckpt=last`, which finds it. Ends the program if the run is finished.
    """
    given = dict(word.partition("=")[::2] for word in words)
    begun_anew = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    asks_for_last = given.get("ckpt", "").strip("'") == "last"
    if not begun_anew or asks_for_last or not MULTIRUN.isdisjoint(words):
        return [*words]
    chosen = [user_path(given[name].strip("'")) for name in RUN_DIRS if name in given]
    run = _begun(chosen or user_path(given.get("runs_dir", "runs").strip("'")).glob("*/*"))
    if run is None:
        return [*words]
    if run.metadata.get("finished"):
        log.warning("SLURM has begun job %s anew, and this run of it is finished: %s", job(), run.folder)
        sys.exit(0)
    log.warning("SLURM has begun job %s anew: its run goes on in %s", job(), run.folder)
    here = quoted(str(run.folder))
    replaced = (*RUN_DIRS, "ckpt") if run.has_saved else RUN_DIRS
    others = [word for word in words if word.partition("=")[0] not in replaced]
    return [*others, f"hydra.run.dir={here}", *([f"ckpt={here}"] if run.has_saved else [])]


@contextmanager
def interruptible() -> Iterator[None]:
    """In a job, SIGUSR1 raises `Interrupted` inside, where it would end the program without a word.

    A training has a handler of its own while it takes steps, which saves first.
    """
    if job() is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == ours:  # processes that load pictures have it too
            signal.signal(number, signal.SIG_IGN)
            raise Interrupted(number)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def requeue() -> None:
    """Put this job back into the queue; outside SLURM do nothing."""
    number, scontrol = job(), shutil.which("scontrol")
    if number is None or rank() > 0:
        return
    if scontrol is None:
        log.warning("job %s is not put back into the queue: there is no scontrol", number)
        return
    done = subprocess.run([scontrol, "requeue", number], capture_output=True, text=True, check=False)
    if done.returncode:
        log.warning("job %s is not put back into the queue: %s", number, " ".join(done.stderr.split()))
    else:
        log.info("job %s is back in the queue; its run goes on when it starts again", number)


def _here() -> dict[str, object]:
    return {"job": job(), "command": sys.orig_argv}


def _begun(folders: Iterable[Path]) -> Run | None:
    """The run in one of these folders that this command began in this job."""
    for folder in folders:
        with suppress(OSError, ValueError):
            if Run(folder).metadata.get(NOTE) == _here():
                return Run(folder)
    return None
