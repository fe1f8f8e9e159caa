"""Shared code of the commands: compose `conf/`, and report a user's mistake in one line with exit code 1."""

import errno
import logging
import os
import re
import runpy
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from artdiff import Interrupted, UserError, __version__, runs
from artdiff.files import FULL, cannot_write, printable, shortest, user_path
from artdiff.overrides import HOMED, for_hydra, is_multirun, unquoted, with_search_path
from artdiff.ranks import rank
from artdiff.settings.base import CONF, RENAMED, TEXTS, is_built_in
from artdiff.sweeps import Jobs

log = logging.getLogger(__name__)

REFUSED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
"""Errors of the disk, besides a full one, that the user can fix."""

BY_SIGNAL = 128
"""Added to a signal's number for the exit code, as shells do: 130 for Ctrl-C, 143 for SIGTERM."""

FULL_ERROR = "HYDRA_FULL_ERROR"
COMMANDS = ("train", "generate", "evaluate", "gallery", "export", "audit", "pack", "prune", "sweep")

NOISE = (
    "LeafSpec",
    "does not have many workers",
    "The dirpath has changed",
    "exists and is not empty",  # a run that is resumed in its own folder
    "smaller than the logging interval",
    "in eval mode at the start of training",  # the EMA network is, on purpose
    "broadcast_buffers",  # torch's new name for it came with version 2.14
    "It is recommended to use `self.log",  # what we log is already reduced over all ranks
    "You're resuming from a checkpoint that ended before the epoch ended",  # our loader resumes within an epoch
)
"""Parts of Lightning's warnings that are hidden: the user need not act on them."""


def typed(module: str, *words: object) -> str:
    """Return a command line that runs `module` in the shell that started this program."""
    same = shutil.which("python") == sys.executable
    python = "python" if same else str(shortest(Path(sys.executable)))
    return shlex.join([python, "-m", module, *(str(word) for word in words)])


def given() -> list[str]:
    """Return the overrides of this job's command line, as the user may type them; none for a call from Python."""
    return [unquoted(word) for word in HydraConfig.get().overrides.task] if HydraConfig.initialized() else []


def given_names() -> set[str]:
    """Return the names of the settings on this job's command line."""
    return {word.partition("=")[0].lstrip("+") for word in given()}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Convert `cfg` to plain Python values with all references resolved. The rest of the code sees no DictConfig.

    Raises `UserError` for a required value that is missing, and for a reference to a missing value.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise UserError(f"{' and '.join(missing)} must be given: {' '.join(f'{key}=…' for key in missing)}")
        for key in TEXTS:
            value = OmegaConf.select(cfg, key)
            if value is not None:
                OmegaConf.update(cfg, key, _as_text(key, value))
        _rename(cfg)
        config = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:  # a reference to a missing value
        raise UserError(" ".join(str(error).split())) from None
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def _as_text(key: str, value: Any) -> Any:
    """Convert a value of `TEXTS` to text. Warns if a YAML file has a number there: its spelling may be lost."""
    if OmegaConf.is_list(value):
        return [_as_text(key, item) for item in value]
    if not isinstance(value, str):
        log.warning("%s: %s is read as a number, not as a name; put it in quotes in the YAML file", key, value)
    return str(user_path(value)) if key in HOMED else str(value)


def composed(config: str, words: Sequence[str] = ()) -> dict[str, Any]:
    """Compose `conf/CONFIG.yaml` with overrides as typed, and return plain values. Raises `UserError`."""
    if GlobalHydra.instance().is_initialized():  # inside a command, or a notebook that uses Hydra itself
        GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        try:
            return plain(compose(config, overrides=for_hydra(with_search_path(words))))
        except HydraException as error:
            raise UserError(" ".join(str(error).split())) from None


def command(
    job: Callable[[DictConfig], Any], *, config: str, words: Callable[[Sequence[str]], Sequence[str]] = list
) -> Callable[[], None]:
    """Return a program that composes `conf/CONFIG.yaml` with the command line, as changed by `words`, and calls `job`.

    In a multirun, a job that ends in a `UserError` does not stop the others; the exit code at the end is then 1.
    """
    failures: list[UserError] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=config)
    @wraps(job)
    def guarded(cfg: DictConfig) -> Any:
        for part in NOISE:
            warnings.filterwarnings("ignore", message=f".*{part}")
        try:
            return job(cfg)
        except (UserError, InstantiationException) as error:
            mistake = user_error(error)
            if mistake is None:
                raise
            log.error(mistake)
            failures.append(mistake)
            Jobs.failed(str(mistake))
            return None
        except KeyboardInterrupt as error:
            log.error("interrupted")
            ended_by = error.number if isinstance(error, Interrupted) else signal.SIGINT
            sys.exit(BY_SIGNAL + ended_by if rank() == 0 else 0)  # Lightning kills rank 0 if another rank fails

    def main() -> None:
        try:
            sys.argv[1:] = for_hydra(words(sys.argv[1:]))
        except UserError as error:
            _exit(str(error))
        if rank():  # rank 0 logs the same lines and writes the files
            logging.disable(logging.WARNING)
            sys.argv += ["hydra/job_logging=console", "hydra.output_subdir=null"]
        if is_multirun(sys.argv[1:]):
            _check_folders(sys.argv[1:])
        failures.clear()
        Jobs.has_failures = False
        logging.raiseExceptions = False  # a full disk must not fill the terminal with the log's own tracebacks
        _run(guarded)
        if failures or Jobs.has_failures:
            sys.exit(1)

    return main


def callable_module(name: str, function: Callable[..., Any]) -> None:
    """Make the module `name` callable as `function`: `artdiff.train` is a module for `python -m` and a function."""
    kind = type("CallableModule", (ModuleType,), {"__call__": staticmethod(function)})
    sys.modules[name].__class__ = kind


def _run(program: Callable[[], Any]) -> None:
    """Run a Hydra program. Report a wrong override or a folder that cannot be written to in one line.

    `HYDRA_FULL_ERROR=1` shows tracebacks instead.
    """
    if os.environ.get(FULL_ERROR) == "1":
        program()
        return
    os.environ[FULL_ERROR] = "1"  # Hydra raises errors instead of printing them
    try:
        program()
    except InstantiationException:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        _exit(f"{error} {error.__cause__ or ''}")
    except OSError as error:
        if error.errno in REFUSED and error.filename is not None:
            _exit(f"{error.filename}: {error.strerror}")
        if error.errno not in (*FULL, errno.EROFS):
            raise
        _exit(str(cannot_write(Path(error.filename or _output_folder() / runs.CONFIG), error)))
    finally:
        os.environ.pop(FULL_ERROR, None)


def _check_folders(words: Sequence[str]) -> None:
    """End the program if all jobs of a sweep would write to the same folder."""
    for word in words:
        key, _, value = word.partition("=")
        if key in ("run_dir", "hydra.sweep.subdir") and not re.search(r",|\$\{|^\w+\(", value):
            _exit(f"{word} would be the folder of all jobs of the sweep: hydra.sweep.dir=DIR gives each one its own")


def _output_folder() -> Path:
    """Return the output folder that the command line sets."""
    words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    asked = (words[key] for key in ("out", "hydra.run.dir", "run_dir", "runs_dir") if key in words)
    return Path(next(asked, ".").strip("'"))


def _exit(message: str) -> NoReturn:
    print(" ".join(printable(message).split()), file=sys.stderr)
    sys.exit(1)


def main() -> None:
    """The console script: `artdiff train …` is `python -m artdiff.train …`."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name == "--version":
        print(f"artdiff {__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        print(f"usage: artdiff {{{','.join(COMMANDS)}}} [SETTING=VALUE …]; artdiff NAME --help lists the settings")
        sys.exit(0 if name in ("-h", "--help") else 1)
    del sys.argv[1]
    runpy.run_module(f"artdiff.{name}", run_name="__main__", alter_sys=True)  # so that Lightning can start it again


def user_error(error: BaseException | None) -> UserError | None:
    """Return the `UserError` that caused `error`, if any: Hydra wraps errors raised by the objects it builds."""
    if isinstance(error, InstantiationException) and str(error).startswith("Error locating target"):
        return UserError(" ".join(str(error).split()))
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def _rename(cfg: DictConfig) -> None:
    """Move values that are set under an old name to the new name, with one line of warning for each.

    Only for networks of artdiff: a network from outside may use these names for its own arguments.
    """
    if not is_built_in(cfg.get("network") or {}):
        return
    for old, new in RENAMED.items():
        value = OmegaConf.select(cfg, old)
        if value is not None and not isinstance(value, bool):  # `network.attention`, once a list, is true or false now
            log.warning("%s is now called %s; the old name still works", old, new)
            OmegaConf.update(cfg, new, value, force_add=True)
            group, _, name = old.rpartition(".")
            OmegaConf.set_struct(cfg, False)
            del OmegaConf.select(cfg, group)[name]
