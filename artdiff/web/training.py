"""A training that the page starts, in a process of its own: it can be watched, stopped and carried on."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from artdiff import UserError, runs
from artdiff.files import free, make_folder, user_path
from artdiff.stages import time_limit

EXPERIMENTS = ("paint32", "paint128", "paint256", "baseline")
"""What can be trained from the page: conf/experiment says what each is."""

LINES = 12
"""Of the log, that are shown."""

LOG = "gallery.log"
"""In a run's folder, what its training says."""


class Status(NamedTuple):
    """Whether it runs, its last words, and the newest grid of samples; `run` is its folder."""

    running: bool
    text: str
    grid: Path | None
    run: Path | None


class Training:
    """One training at a time."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir
        self.process: subprocess.Popen[bytes] | None = None
        self.told_to_end = False
        self.run: Path | None = None
        self.words: list[str] = []

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, folder: str, experiment: str, minutes: float) -> None:
        """Train `experiment` on the pictures in a folder for so long. Raises `UserError`."""
        if self.running:
            raise UserError("a training runs already: stop it first")
        if not folder or not user_path(folder).is_dir():
            raise UserError(f"{folder or 'an empty name'} is no folder of pictures")
        if experiment not in EXPERIMENTS:
            raise UserError(f"experiment must be one of {', '.join(EXPERIMENTS)}, got {experiment}")
        if not 0 < minutes < 7 * 24 * 60:
            raise UserError(f"minutes must be more than 0 and less than a week, got {minutes:g}")
        now = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
        self.run = free(self.runs_dir / experiment / now)
        limit = time_limit(minutes * 60)
        self.words = [f"experiment={experiment}", f"data.root={folder}", f"trainer.max_time={limit}"]
        self._begin(self.words)

    def stop(self) -> None:
        """Ask it to save and end. Raises `UserError` if none runs."""
        if not self.running:
            raise UserError("no training runs")
        self._tell()

    def carry_on(self) -> None:
        """Go on with the training that was stopped. Raises `UserError` if there is none, or one runs."""
        if self.running:
            raise UserError("the training still runs")
        if self.run is None or not runs.Run(self.run).has_saved:
            raise UserError("there is no training to carry on")
        self._begin([*self.words, "ckpt=last"])

    def end(self) -> None:
        """Ask a training to save and end, and wait for it."""
        if self.process is not None and self.running:
            self._tell()
            self.process.wait()

    def status(self) -> Status:
        """What it does now."""
        if self.run is None or self.process is None:
            return Status(False, "no training was started here", None, None)
        log = self.run / LOG
        said = log.read_bytes()[-20_000:].decode(errors="replace").splitlines() if log.exists() else []
        code = self.process.poll()
        saved = "it can be carried on" if runs.Run(self.run).has_saved else "nothing was saved"
        end = {None: "running", 0: "finished"}.get(code, f"ended with exit code {code}; {saved}")
        grids = sorted(self.run.glob(f"**/{runs.SAMPLES}/*.png"), key=lambda path: path.stat().st_mtime)
        text = "\n".join([f"{self.run}: {end}", *said[-LINES:]])
        return Status(code is None, text, grids[-1] if grids else None, self.run)

    def _tell(self) -> None:
        """Send the signal once: at a second one it would end without saving."""
        if self.process is not None and not self.told_to_end:
            self.told_to_end = True
            self.process.send_signal(signal.SIGINT)

    def _begin(self, words: Sequence[str]) -> None:
        assert self.run is not None
        make_folder(self.run, name="runs_dir")
        self.told_to_end = False
        with (self.run / LOG).open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "artdiff.train", *words, f"hydra.run.dir={self.run}"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C ends the page first, which then lets the training save
            )
