"""What every door shares: it reads `conf/`, and a mistake of the user's ends in one line and exit code 1."""

import logging
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from artdiff import UserError, runs
from artdiff.settings import TEXTS

log = logging.getLogger(__name__)

QUOTED = re.compile(r"'.*'|\".+\"", re.DOTALL)
MULTIRUN = {"-m", "--multirun"}

NOISE = (
    "LeafSpec",
    "does not have many workers",
    "The dirpath has changed",
    "smaller than the logging interval",
    "in eval mode at the start of training",  # the average of the weights is, on purpose
    "You're resuming from a checkpoint that ended before the epoch ended",  # our loader resumes by itself
)
"""Parts of Lightning's warnings that ask nothing of the user."""

_beside, _inside = Path(__file__).parents[1] / "conf", Path(__file__).parent / "conf"
CONF = str(_inside if _inside.is_dir() else _beside)
"""The configuration's folder: beside the package in a checkout, inside it when installed from a wheel."""


def command(module: str, *words: object) -> str:
    """The command that opens `module`'s door, as it works when typed in the shell that started this program."""
    same = shutil.which("python") == sys.executable
    python = "python" if same else str(runs.shortest(Path(sys.executable)))
    return shlex.join([python, "-m", module, *(str(word) for word in words)])


def literally(word: str) -> str:
    """An override as typed → the same with its value quoted for Hydra, where it names a file, a folder or the like.

    So `data.root=Photos (1)` means what it says. What is quoted, refers (`${…}`), is swept over (`a,b`) or is a list of
    labels stays.
    """
    key, equals, value = word.partition("=")
    simple = re.fullmatch(r"[\w./:-]*", value, re.ASCII)
    swept = "," in value and not MULTIRUN.isdisjoint(sys.argv)
    labels = key == "label" and value.startswith("[")
    if not equals or key not in TEXTS or simple or labels or QUOTED.fullmatch(value) or "${" in value or swept:
        return word
    quoted = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"{key}='{quoted}'"


def given() -> list[str]:
    """The overrides that this job was started with; none where the configuration was composed in a program."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _mistake(error: BaseException | None) -> UserError | None:
    """The user's mistake behind `error`: Hydra wraps what is raised by the objects that it builds."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def door(job: Callable[[DictConfig], Any], *, config: str) -> Callable[[], None]:
    """Make `job` a program that composes `conf/CONFIG.yaml` with the command line.

    In a multirun, a job that ends in a `UserError` leaves the others to go on; the exit code tells at the end.
    """
    failures: list[UserError] = []

    @hydra.main(version_base="1.3", config_path=CONF, config_name=config)
    @wraps(job)
    def guarded(cfg: DictConfig) -> Any:
        for part in NOISE:
            warnings.filterwarnings("ignore", message=f".*{part}")
        try:
            return job(cfg)
        except (UserError, InstantiationException) as error:
            mistake = _mistake(error)
            if mistake is None:
                raise
            log.error(mistake)
            failures.append(mistake)
            return None
        except KeyboardInterrupt:
            log.error("interrupted")
            sys.exit(1)

    def main() -> None:
        sys.argv[1:] = [literally(word) for word in sys.argv[1:]]
        guarded()
        if failures:
            sys.exit(1)

    return main
