"""What the commands share: they compose `conf/`, and a user's mistake ends in one line and exit code 1."""

import errno
import logging
import os
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from artdiff import UserError, runs
from artdiff.files import cannot_write, printable, user_path
from artdiff.settings import CONF, RENAMED, TEXTS

log = logging.getLogger(__name__)

QUOTED = re.compile(r"'.*'|\".+\"", re.DOTALL)
_QUOTES = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
ITEM = re.compile(rf"\s*({_QUOTES}|\[(?:{_QUOTES}|[^\]])*\]|[^,]*?)\s*(,|\Z)")
"""An item of a list, and the comma behind it."""

SWEEP = re.compile(r"(range|interval|glob|sort|shuffle|tag)\(.*\)", re.DOTALL)
"""Hydra's other ways to sweep over values."""

OPTIONAL = ("experiment", "sweep", "debug")
"""Groups of which nothing may be chosen."""

COMPONENTS = ("callbacks", "logger", "trainer", "hydra")
FOLDERS = ("dir", "subdir", "dirpath", "folder", "path", "filename", "save_dir", "default_root_dir", "name", "version")
"""Arguments of components that name a file or a folder."""

ONE_ONLY = tuple(key for key in TEXTS if key not in ("label", "muse"))
"""Texts that are never lists: a folder may be called `[1]`."""

HOMED = ("run_dir", "runs_dir", "hydra.run.dir", "hydra.sweep.dir")
"""Folders that Hydra or Lightning makes, which know nothing of `~`."""

MULTIRUN = {"-m", "--multirun"}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
REFUSED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
"""Errors of the disk that the user can mend."""

FULL_ERROR = "HYDRA_FULL_ERROR"
COMMANDS = ("train", "generate", "audit", "prune")

NOISE = (
    "LeafSpec",
    "does not have many workers",
    "The dirpath has changed",
    "smaller than the logging interval",
    "in eval mode at the start of training",  # the averaged weights are, on purpose
    "You're resuming from a checkpoint that ended before the epoch ended",  # our loader resumes by itself
)
"""Parts of warnings by Lightning that need nothing from the user."""


def typed(module: str, *words: object) -> str:
    """The command line that runs `module`, as it works in the shell that started this program."""
    same = shutil.which("python") == sys.executable
    python = "python" if same else str(runs.shortest(Path(sys.executable)))
    return shlex.join([python, "-m", module, *(str(word) for word in words)])


def given() -> list[str]:
    """The overrides that this job was started with, as they may be typed; none if they were composed in Python."""
    return [_unquoted(word) for word in HydraConfig.get().overrides.task] if HydraConfig.initialized() else []


def _unquoted(word: str) -> str:
    """An override without the quotes that `literal` adds."""
    key, _, value = word.partition("=")
    typed = f"{key}={value[1:-1]}"
    return typed if literal(typed) == word else word


def literal(word: str) -> str:
    """Quote the value of an override for Hydra if the setting names a file, a folder, a colour, a class or a choice.

    So `data.root=Photos (1)` and `label=[1990,1_000]` mean what they say. Stays unquoted: `null`, a reference (`${…}`),
    and what Hydra reads as the same text. Raises `UserError` for a group without a choice.
    """
    key, equals, value = word.partition("=")
    if not equals or not _is_text(key.lstrip("+")):
        return word
    if value.lower() == "null" and (CONF / key).is_dir() and key not in OPTIONAL:
        choices = sorted(path.stem for path in (CONF / key).glob("*.yaml"))
        raise UserError(f"{key} must be one of {', '.join(choices)}, got {value}")
    if MULTIRUN.isdisjoint(sys.argv):
        return f"{key}={_text(value, key)}"
    if SWEEP.fullmatch(value):
        return word
    swept = re.fullmatch(r"choice\((.*)\)", value, re.DOTALL)
    return f"{key}={','.join(_text(item, key) for item in _items(swept[1] if swept else value))}"


def _is_text(key: str) -> bool:
    group, _, _ = key.partition(".")
    is_folder = group in COMPONENTS and key.rpartition(".")[2] in FOLDERS
    return key in TEXTS or is_folder or (CONF / key).is_dir()


def _text(value: str, key: str) -> str:
    """`value` as Hydra reads it as text; for what may be several, a list of such."""
    key = key.lstrip("+")
    if value.lower() == "null" or "${" in value or QUOTED.fullmatch(value):
        return value
    if key not in ONE_ONLY and value.startswith("[") and value.endswith("]"):
        items = _items(value[1:-1]) if value[1:-1].strip() else []
        return f"[{','.join(item if QUOTED.fullmatch(item) else _plain_or_quoted(item) for item in items)}]"
    if key in HOMED and value.startswith("~"):
        value = str(user_path(value))
    return _plain_or_quoted(value)


def _plain_or_quoted(text: str) -> str:
    is_same = (
        re.fullmatch(r"[\w./:-]*", text, re.ASCII)
        and OverridesParser.create().parse_override(f"x={text}").value() == text
    )
    return text if is_same else quoted(text)


def _items(text: str) -> list[str]:
    """The parts of `text` between commas outside quotes and brackets."""
    items, at = [], 0
    while True:
        found = ITEM.match(text, at)
        assert found is not None
        items.append(found[1])
        if not found[2]:
            return items
        at = found.end()


def quoted(text: str) -> str:
    """`text` in quotes that Hydra reads back as the same text."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


def current_name(word: str) -> str:
    """An override of a setting that has been renamed, under its new name; warns in one line."""
    sign, key, rest = re.fullmatch(r"([+~]*)([\w.]*)(.*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
    if key not in RENAMED:
        return word
    _warn_renamed(key)
    return f"{sign}{RENAMED[key]}{rest}"


def plain(cfg: DictConfig) -> dict[str, Any]:
    """`cfg` in plain Python values with every reference resolved: no DictConfig goes further than this.

    Raises `UserError` for a value that must be given, and for a reference to nothing.
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
    except OmegaConfBaseException as error:  # a reference to nothing
        raise UserError(" ".join(str(error).split())) from None
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def _as_text(key: str, value: Any) -> Any:
    """A value of `TEXTS` as text; warns if a file of settings has a number there, which may have looked otherwise."""
    if OmegaConf.is_list(value):
        return [_as_text(key, item) for item in value]
    if not isinstance(value, str):
        log.warning("%s: %s is read as a number, not as a name; put it in quotes in the file of settings", key, value)
    return str(user_path(value)) if key in HOMED else str(value)


def composed(config: str, words: Sequence[str] = ()) -> dict[str, Any]:
    """`conf/CONFIG.yaml` with overrides as they are typed, in plain values. Raises `UserError`."""
    if GlobalHydra.instance().is_initialized():  # inside a command, or a notebook that uses Hydra itself
        GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        try:
            return plain(compose(config, overrides=[literal(current_name(word)) for word in words]))
        except HydraException as error:
            raise UserError(" ".join(str(error).split())) from None


def command(job: Callable[[DictConfig], Any], *, config: str) -> Callable[[], None]:
    """Make `job` a program that composes `conf/CONFIG.yaml` with the command line.

    In a multirun, a job that ends in a `UserError` does not stop the others; the exit code tells at the end.
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
            return None
        except KeyboardInterrupt:
            log.error("interrupted")
            sys.exit(1)

    def main() -> None:
        try:
            sys.argv[1:] = [literal(current_name(word)) for word in sys.argv[1:]]
        except UserError as error:
            _exit(str(error))
        failures.clear()
        logging.raiseExceptions = False  # a full disk must not fill the terminal with the log's own tracebacks
        _run(guarded)
        if failures:
            sys.exit(1)

    return main


def _run(program: Callable[[], Any]) -> None:
    """Run a Hydra program; a wrong override, and a run's folder that cannot be written to, are one line.

    `HYDRA_FULL_ERROR=1` shows where any error comes from.
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
        if error.errno not in FULL:
            raise
        _exit(str(cannot_write(Path(error.filename or _asked_folder() / runs.CONFIG), error)))
    finally:
        os.environ.pop(FULL_ERROR, None)


def _asked_folder() -> Path:
    """Where the command line asks to write to."""
    words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    asked = (words[key] for key in ("out", "hydra.run.dir", "run_dir", "runs_dir") if key in words)
    return Path(next(asked, ".").strip("'"))


def _exit(message: str) -> NoReturn:
    print(" ".join(printable(message).split()), file=sys.stderr)
    sys.exit(1)


def main() -> None:
    """The console script: `artdiff train …` is `python -m artdiff.train …`."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        print(f"usage: artdiff {{{','.join(COMMANDS)}}} [SETTING=VALUE …]; artdiff NAME --help lists the settings")
        sys.exit(0 if name in ("-h", "--help") else 1)
    del sys.argv[1]
    import_module(f"artdiff.{name}").main()


def user_error(error: BaseException | None) -> UserError | None:
    """The user's mistake behind `error`: Hydra wraps what is raised by the objects that it builds."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def _rename(cfg: DictConfig) -> None:
    """Take over values that an experiment sets under an old name."""
    for old, new in RENAMED.items():
        value = OmegaConf.select(cfg, old)
        if value is not None:
            _warn_renamed(old)
            OmegaConf.update(cfg, new, value, force_add=True)
            group, _, name = old.rpartition(".")
            OmegaConf.set_struct(cfg, False)
            del OmegaConf.select(cfg, group)[name]


def _warn_renamed(old: str) -> None:
    log.warning("%s is now called %s; the old name still works", old, RENAMED[old])
