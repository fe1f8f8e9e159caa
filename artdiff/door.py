"""What every door shares: it reads `conf/`, and a mistake of the user's ends in one line and exit code 1."""

import logging
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from artdiff import UserError

log = logging.getLogger(__name__)

_beside, _inside = Path(__file__).parents[1] / "conf", Path(__file__).parent / "conf"
CONF = str(_inside if _inside.is_dir() else _beside)
"""The configuration's folder: beside the package in a checkout, inside it when installed from a wheel."""


def door(job: Callable[[DictConfig], Any], *, config: str) -> Callable[[], None]:
    """Make `job` a program that composes `conf/CONFIG.yaml` with the command line.

    In a multirun, a job that ends in a `UserError` leaves the others to go on; the exit code tells at the end.
    """
    failures: list[UserError] = []

    @hydra.main(version_base="1.3", config_path=CONF, config_name=config)
    @wraps(job)
    def guarded(cfg: DictConfig) -> Any:
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own, told to us
        try:
            return job(cfg)
        except UserError as error:
            log.error(error)
            failures.append(error)
            return None

    def main() -> None:
        guarded()
        if failures:
            sys.exit(1)

    return main
