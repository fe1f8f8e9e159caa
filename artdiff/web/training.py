"""A training that the page starts in its own process; it can be watched, stopped and resumed."""

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
"""Experiments that the page can train; conf/experiment describes them."""

LINES = 12
"""How many lines of the log are shown."""

LOG = "gallery.log"
"""The file in a run's folder with the output of its training."""


class Status(NamedTuple):
    """Whether the training runs, the end of its log, the newest grid of samples, and the run's folder."""

    running: bool
    text: str
    grid: Path | None
    run: Path | None


class Training:
    """One training at a time."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir
        self.process: subprocess.Popen[bytes] | None = None
        self.signalled = False
        self.run: Path | None = None
        self.words: list[str] = []

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, folder: str, experiment: str, minutes: float) -> None:
        """Train `experiment` on the pictures in a folder. Raises `UserError`."""
        if self.running:
            raise UserError("a training is already running: stop it first")
        if not folder or not user_path(folder).is_dir():
            raise UserError(f"{folder or 'an empty name'} is not a folder")
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
        """Signal the training to save and end. Raises `UserError` if none runs."""
        if not self.running:
            raise UserError("no training runs")
        self._tell()

    def carry_on(self) -> None:
        """Resume the training that was stopped. Raises `UserError` if there is none, or one runs."""
        if self.running:
            raise UserError("the training still runs")
        if self.run is None or not runs.Run(self.run).has_saved:
            raise UserError("there is no training to resume")
        self._begin([*self.words, "ckpt=last"])

    def end(self) -> None:
        """Signal the training, if one runs, to save and end, and wait for it."""
        if self.process is not None and self.running:
            self._tell()
            self.process.wait()

    def status(self) -> Status:
        """The present state of the training."""
        if self.run is None or self.process is None:
            return Status(False, "no training was started here", None, None)
        log = self.run / LOG
        said = log.read_bytes()[-20_000:].decode(errors="replace").splitlines() if log.exists() else []
        code = self.process.poll()
        saved = "it can be resumed" if runs.Run(self.run).has_saved else "nothing was saved"
        end = {None: "running", 0: "finished"}.get(code, f"ended with exit code {code}; {saved}")
        grids = sorted(self.run.glob(f"**/{runs.SAMPLES}/*.png"), key=lambda path: path.stat().st_mtime)
        text = "\n".join([f"{self.run}: {end}", *said[-LINES:]])
        return Status(code is None, text, grids[-1] if grids else None, self.run)

    def _tell(self) -> None:
        """Send the signal only once: a second one would end the training without saving."""
        if self.process is not None and not self.signalled:
            self.signalled = True
            self.process.send_signal(signal.SIGINT)

    def _begin(self, words: Sequence[str]) -> None:
        assert self.run is not None
        make_folder(self.run, name="runs_dir")
        self.signalled = False
        with (self.run / LOG).open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "artdiff.train", *words, f"hydra.run.dir={self.run}"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only the page, which then lets the training save
            )
