"""What became of the jobs of a sweep: told when it ends, as a table, and kept beside them in `sweep.tsv`."""

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
"""In the folder of a job: its settings, why it failed, and its score. Jobs may run on other machines."""

OF_THE_LOSS = re.compile(r"\+*loss[.=]")
"""How an override of the loss begins."""

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
            log.info("no best job by val/loss, which depends on settings of the loss that differ: compare final/psnr")
        elif with_score:
            score, number = min(with_score)
            log.info("best: job %s with a score (best val/loss) of %.4g", number, score)


def _read(folder: Path) -> Job | None:
    """The job of a folder; None if it was killed before it said anything."""
    try:
        return Job(**json.loads((folder / JOB).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _shared(jobs: Sequence[Job]) -> list[str]:
    """The settings that every job has; none of a single job's."""
    return [one for one in jobs[0].overrides if all(one in job.overrides for job in jobs)] if len(jobs) > 1 else []


def _line(folder: Path, job: Job | None, shared: Sequence[str] = ()) -> list[str]:
    """The cells of a job under `HEADING`, without the settings that it shares."""
    if job is None:
        return [folder.name, "ended", "", "", str(shortest(folder)), "it said nothing; see its train.log"]
    status = "failed" if job.reason is not None else "done"
    score = "" if job.score is None else f"{job.score:.4g}"
    own = " ".join(one for one in job.overrides if one not in shared)
    return [folder.name, status, score, own, str(shortest(folder)), job.reason or ""]


def _number(folder: Path) -> tuple[int, str]:
    return (int(folder.name), "") if folder.name.isdecimal() else (-1, folder.name)


def _aligned(lines: list[Any]) -> list[str]:
    """The cells of a table under each other; the last column is as long as it is."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
