"""Results of a sweep's jobs, logged as a table when the sweep ends and saved beside the jobs as `sweep.tsv`."""

import json
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from artdiff import files
from artdiff.files import shortest
from artdiff.ingest import tables

log = logging.getLogger(__name__)

JOB = "job.json"
"""File in a job's folder: its overrides, why it failed, and its score. A file, since jobs may run on other machines."""

OF_THE_LOSS = re.compile(r"\+*loss[.=]")
"""Matches the beginning of an override of the loss."""

HEADING = ("job", "status", "score", "settings", "folder", "reason")


class Job(NamedTuple):
    """A job of a sweep: its overrides, why it failed, and its score (the best `val/loss`: lower is better)."""

    overrides: list[str]
    reason: str | None
    score: float | None


class Jobs(Callback):
    """Hydra callback that saves each job's result, and logs a table when all jobs have ended.

    A `UserError` does not end a job in an exception, since the other jobs continue. It is reported by `failed`.
    """

    reason: str | None = None
    has_failures = False
    """Whether any job of the sweep failed, also one that ran in another process."""

    @classmethod
    def failed(cls, reason: str) -> None:
        """Store why the current job failed."""
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
        jobs = {path: _read(path) for path in sorted((path.parent for path in folder.glob("**/.hydra")), key=_number)}
        lines = [_line(path, job) for path, job in jobs.items()]
        Jobs.has_failures = any(line[1] != "done" for line in lines)
        with_score = [(float(line[2]), line[0]) for line in lines if line[2]]
        files.write(folder / "sweep.tsv", tables.table(HEADING, lines))
        known = [job for job in jobs.values() if job is not None]
        shared = _shared(known)
        if shared:
            log.info("all jobs: %s", " ".join(shared))
        for line in _aligned([HEADING, *(_line(path, job, shared) for path, job in jobs.items())]):
            log.info("%s", line)
        if any(OF_THE_LOSS.match(one) for job in known for one in job.overrides if one not in shared):
            log.info("no best job by val/loss, which depends on settings of the loss that differ: use another score")
        elif with_score:
            score, number = min(with_score)
            log.info("best: job %s with a score (best val/loss) of %.4g", number, score)


def _read(folder: Path) -> Job | None:
    """Read the job of a folder; None if it was killed before it wrote its result."""
    try:
        return Job(**json.loads((folder / JOB).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _shared(jobs: Sequence[Job]) -> list[str]:
    """Return the overrides that all jobs have in common; empty for a single job."""
    return [one for one in jobs[0].overrides if all(one in job.overrides for job in jobs)] if len(jobs) > 1 else []


def _line(folder: Path, job: Job | None, shared: Sequence[str] = ()) -> list[str]:
    """Return the cells of a job under `HEADING`, without the `shared` overrides."""
    if job is None:
        return [folder.name, "ended", "", "", str(shortest(folder)), "no result was written; see its train.log"]
    status = "failed" if job.reason is not None else "done"
    score = "" if job.score is None else f"{job.score:.4g}"
    own = " ".join(one for one in job.overrides if one not in shared)
    return [folder.name, status, score, own, str(shortest(folder)), job.reason or ""]


def _number(folder: Path) -> tuple[int, str]:
    return (int(folder.name), "") if folder.name.isdecimal() else (-1, folder.name)


def _aligned(lines: list[Any]) -> list[str]:
    """Format a table as lines with aligned columns; the last column is not padded."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
