"""Translate overrides as typed into Hydra's syntax: names are quoted as text, renamed settings get their new names."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from artdiff import UserError
from artdiff.files import user_path
from artdiff.settings.base import CONF, RENAMED, TEXTS

QUOTED = re.compile(r"'.*'|\".+\"", re.DOTALL)
_QUOTES = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
ITEM = re.compile(rf"\s*({_QUOTES}|\[(?:{_QUOTES}|[^\]])*\]|[^,]*?)\s*(,|\Z)")
"""An item of a list, and the comma after it."""

SWEEP = re.compile(r"(range|interval|glob|sort|shuffle|tag)\(.*\)", re.DOTALL)
"""Hydra's sweep functions, besides `choice` and plain commas."""

OPTIONAL = ("experiment", "sweep", "debug")
"""Config groups that may be `null`."""

COMPONENTS = ("callbacks", "logger", "trainer", "hydra")
FOLDERS = ("dir", "subdir", "dirpath", "folder", "path", "filename", "save_dir", "default_root_dir", "name", "version")
"""Arguments of components that name a file or a folder."""

ONE_ONLY = tuple(key for key in TEXTS if key not in ("label", "prompt", "muse", "refine"))
"""Text settings that are never lists: a folder may be called `[1]`."""

HOMED = ("run_dir", "runs_dir", "hydra.run.dir", "hydra.sweep.dir")
"""Folders that Hydra or Lightning creates; neither expands `~`."""

MULTIRUN = {"-m", "--multirun"}


def values_by_name(words: Iterable[str]) -> dict[str, str]:
    """Return the values of overrides by name, as they are typed."""
    return dict(word.partition("=")[::2] for word in words)


def is_multirun(words: Sequence[str]) -> bool:
    """Return whether Hydra runs several jobs: asked for with `-m`, or by a file of `conf/sweep`."""
    if not MULTIRUN.isdisjoint(words):
        return True
    given = values_by_name(words)
    usual = "RUN" if given.get("sweep", "null") == "null" else "MULTIRUN"
    return given.get("hydra.mode", usual) == "MULTIRUN"


def for_hydra(words: Sequence[str]) -> list[str]:
    """Translate overrides as typed into Hydra's syntax. Raises `UserError`."""
    return [literal(current_name(word)) for word in words]


def literal(word: str) -> str:
    """Quote the value of an override for Hydra if the setting names a file, a folder, a colour, a class or a choice.

    So `data.root=Photos (1)` and `label=[1990,1_000]` stay text. Not quoted: `null`, a reference (`${…}`), and what
    Hydra reads as the same text anyway. Raises `UserError` for `null` in a group that needs a choice.
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
    """Return `value` so that Hydra reads it as text, or, if the setting may be a list, as a list of texts."""
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
    """Split `text` at commas outside quotes and brackets."""
    items, at = [], 0
    while True:
        found = ITEM.match(text, at)
        assert found is not None
        items.append(found[1])
        if not found[2]:
            return items
        at = found.end()


def quoted(text: str) -> str:
    """Quote `text` so that Hydra reads back the same text."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


def written(value: Any) -> str:
    """Format a plain Python value in the syntax of overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(written(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{written(item)}" for name, item in value.items()) + "}"
    return quoted(str(value)) if isinstance(value, str | Path) else str(value)


def with_search_path(words: Sequence[str]) -> list[str]:
    """Replace `--config-dir DIR`, which Hydra accepts only on a command line, by an override of its search path."""
    found, rest = list[str](), iter(words)
    for word in rest:
        name, _, folder = word.partition("=")
        if name in ("--config-dir", "-cd"):
            path = user_path(folder or next(rest, ".")).absolute()
            found.append(f"hydra.searchpath=[{quoted(f'file://{path}')}]")
        else:
            found.append(word)
    return found


def current_name(word: str) -> str:
    """Prefix an override of a renamed setting with `++`, so that Hydra accepts the old name; `cli.plain` renames it.

    `codec=RUN` becomes `codec_from=RUN` if it names a run or a checkpoint and not a file of `conf/codec`; so does
    `codec=RUN,RUN` in a sweep.
    """
    sign, key, rest = re.fullmatch(r"([+~]*)([\w.]*)(.*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
    if key == "codec" and not sign and rest.startswith("="):
        named = [rest[1:]] if MULTIRUN.isdisjoint(sys.argv) else _items(rest[1:])
        if all(_is_trained_codec(value) for value in named):
            return f"codec_from{rest}"
    return f"++{key}{rest}" if key in RENAMED and sign != "~" else word


def _is_trained_codec(value: str) -> bool:
    """Return whether `value` is a run or a checkpoint, and not a file of `conf/codec`."""
    if QUOTED.fullmatch(value):
        value = str(OverridesParser.create().parse_override(f"x={value}").value())
    return not (CONF / "codec" / f"{value}.yaml").is_file() and (value == "last" or user_path(value).exists())


def unquoted(word: str) -> str:
    """Remove the quotes that `literal` adds to an override."""
    key, _, value = word.partition("=")
    typed = f"{key}={value[1:-1]}"
    return typed if literal(typed) == word else word
