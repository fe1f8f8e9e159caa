"""What became of the jobs of a sweep: told when it ends, as a table, and kept beside them in `sweep.tsv`."""

import json
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from artdiff import files, runs
from artdiff.ingest import tables

log = logging.getLogger(__name__)

JOB = "job.json"
"""In the folder of a job: its settings, why it failed, and its score. Jobs may run on other machines."""

HEADING = ("job", "status", "score", "settings", "folder", "reason")


class Job(NamedTuple):
    """A job of a sweep: its overrides, why it failed, and its score, which is the best `val/loss`, lower is better."""

    overrides: list[str]
    reason: str | None
    score: float | None


class Jobs(Callback):
    """Hydra's callback that keeps what became of each job, and shows it when all have ended.

    A mistake of the user does not end a job in an exception, since the others go on: it is told by `failed`.
    """

    reason: str | None = None
    has_failures = False
    """Whether any job of the sweep that ended in this process failed, wherever it ran."""

    @classmethod
    def failed(cls, reason: str) -> None:
        """Remember why the job of this process failed."""
        cls.reason = reason

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        reason, Jobs.reason = Jobs.reason, None
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        score = None
        if job_return.status == JobStatus.FAILED:
            error = job_return._return_value
            reason = f"{type(error).__name__} {' '.join(str(error).split())}"
        elif isinstance(job_return.return_value, float) and math.isfinite(job_return.return_value):
            score = job_return.return_value
        job = Job([*(job_return.overrides or [])], reason, score)
        files.write(Path(config.hydra.runtime.output_dir) / JOB, json.dumps(job._asdict(), indent=2) + "\n")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        jobs = sorted((path.parent for path in folder.glob("**/.hydra")), key=_number)
        lines = [_line(job) for job in jobs]
        Jobs.has_failures = any(line[1] != "done" for line in lines)
        with_score = [(float(line[2]), line[0]) for line in lines if line[2]]
        files.write(folder / "sweep.tsv", tables.table(HEADING, lines))
        for line in _aligned([HEADING, *lines]):
            log.info("%s", line)
        if with_score:
            score, number = min(with_score)
            log.info("best: job %s with a score (best val/loss) of %.4g", number, score)


def _line(folder: Path) -> list[str]:
    try:
        job = Job(**json.loads((folder / JOB).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # it was killed
        return [folder.name, "ended", "", "", str(runs.shortest(folder)), "it said nothing; see its train.log"]
    status = "failed" if job.reason is not None else "done"
    score = "" if job.score is None else f"{job.score:.4g}"
    return [folder.name, status, score, " ".join(job.overrides), str(runs.shortest(folder)), job.reason or ""]


def _number(folder: Path) -> tuple[int, str]:
    return (int(folder.name), "") if folder.name.isdecimal() else (-1, folder.name)


def _aligned(lines: list[Any]) -> list[str]:
    """The cells of a table under each other; the last column is as long as it is."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
