"""Shared by all settings: checked dataclasses, defaults from `conf/`, and the settings that are always text."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from artdiff import UserError
from artdiff.files import is_url, user_path
from artdiff.rules import Rule, number, one_of, whole_number

MULTIPLE = 8
"""An image size must be a multiple of this: the networks halve width and height three times."""

PACKAGE = Path(__file__).parents[1]

CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
"""The configuration folder: inside the package if installed from a wheel, beside it in a checkout."""

Accelerator = Literal["auto", "cpu", "gpu"]
"""Where to compute: `auto` takes the GPU if there is one."""

CompileMode = Literal["auto", "none", "default", "reduce-overhead", "max-autotune"]
"""torch.compile: `auto` compiles long runs on a GPU; the last three are torch.compile's own modes."""

NETWORK_RENAMED = {"features": "cond_dim", "attention": "attention_resolutions", "blocks": "num_res_blocks"}

RENAMED = {f"network.{old}": f"network.{new}" for old, new in NETWORK_RENAMED.items()}
RENAMED |= {"network.data_std": "task.data_std"}
"""Old → new names of settings renamed after version 0.1. The old name is still accepted, with a warning."""

TEXTS = (
    *(
        "label",
        "prompt",
        "negative",
        "ckpt",
        "init",
        "codec_from",
        "from",
        "to",
        "license",
        "name",
        "intended_use",
        "user",
        "password",
        "muse",
        "refine",
        "out",
        "run_dir",
        "runs_dir",
        "cache_dir",
    ),
    *("search.out", "lpips", "word_vectors"),
    *(f"feature_weights.{name}" for name in ("vgg16", "inception", "clip", "dinov2")),
    *("refuse.model", "sign.certificate", "sign.key", "sign.timestamp"),
    *("loss.perceptual.weights", "data.root", "data.cache_dir", "data.exclude", "data.background"),
)
"""Settings that name a file, a folder, a colour or a class: always text, even if they look like numbers."""

Component = dict[str, Any]
"""An object that Hydra builds: a mapping with `_target_` and its arguments."""


def is_built_in(component: Mapping[str, Any]) -> bool:
    """Return whether a component's class is artdiff's own. Arguments of other classes are not checked."""
    return str(component.get("_target_")).startswith("artdiff.")


def solver(name: str, value: Any) -> None:
    """Rule: a file's name in `artdiff/diffusion/samplers`, or a user's class as dotted path or `_target_`."""
    if isinstance(value, Mapping) and "_target_" in value:
        return
    known = sorted(path.stem for path in (PACKAGE / "diffusion/samplers").glob("[!_]*.py"))
    if value not in known and not (isinstance(value, str) and "." in value):
        raise UserError(f"{name} must be {' or '.join(known)}, got {value}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings. Checks each field against its annotation; raises `UserError` with the field's full name."""

    prefix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            _check(self.prefix + name, getattr(self, name), hint)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Build from a plain mapping such as a composed configuration. Raises `UserError`, also for unknown names."""
        config = {name: value for name, value in config.items() if not name.startswith("_")}
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in config:
            if name not in fields:
                raise UserError(f"{cls.prefix}{name} is not a setting; expected one of {', '.join(fields)}")
        missing = [name for name, field in fields.items() if name not in config and _is_required(field)]
        if missing:
            raise UserError(f"{cls.prefix}{missing[0]} must be given")
        nested = {name: hint for name, hint in _hints(cls).items() if _is_settings(hint)}
        given = {
            name: cls._nested(nested[name], value) if name in nested and isinstance(value, Mapping) else value
            for name, value in config.items()
        }
        given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
        return cls(**given)

    @classmethod
    def _nested(cls, kind: "type[Settings]", value: Mapping[str, Any]) -> "Settings":
        try:
            return kind.of(value)
        except UserError as error:
            inner = str(error)
            raise UserError(f"{cls.prefix}{inner}" if inner.startswith(kind.prefix) else inner) from None


@cache
def _conf(name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"), resolve=False)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items() if key not in ("defaults", "hydra")}


def defaults(name: str) -> dict[str, Any]:
    """Return the values in `conf/NAME.yaml`, without its groups: `defaults("generate")["steps"]` is 24."""
    return dict(_conf(name))


def refuse_inside(name: str, folder: str, root: str, *, remedy: str = "choose a folder elsewhere") -> None:
    """Raise `UserError` if `folder` lies in the folder of pictures: files written there would be read as pictures.

    If `root` is an object store, there is nothing to check.
    """
    if not is_url(root) and user_path(folder).resolve().is_relative_to(user_path(root).resolve()):
        raise UserError(f"{name}={folder} lies in data.root={root}, among the pictures; {remedy}")


def check_out(out: str, root: str | None) -> None:
    """Raise `UserError` if `out` is a file, or lies in the folder of pictures `root`."""
    refuse_file("out", out)
    if root is not None:
        refuse_inside("out", out, root)


def refuse_file(name: str, folder: str) -> None:
    """Raise `UserError` if `folder`, which is to be written to, is a file."""
    if user_path(folder).exists() and not user_path(folder).is_dir():
        raise UserError(f"{name}={folder} is a file; expected a folder to write to")


def check_file(name: str, path: str | None) -> None:
    """Raise `UserError` if `path` is given but is not a file."""
    if path is not None and not user_path(path).is_file():
        raise UserError(f"{name}={path} does not exist, or is not a file")


def _hints(cls: type[Settings]) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


PLAIN: dict[type, Rule] = {bool: one_of(True, False), int: whole_number, float: number}
"""The rules for values of these types without an `Annotated` rule."""


def _check(name: str, value: Any, hint: Any) -> None:
    """Raise `UserError` unless `value` fits the annotation `hint`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        if value is None and type(None) in arguments:
            return
        arguments = tuple(argument for argument in arguments if argument is not type(None))
        if len(arguments) == 1:
            _check(name, value, arguments[0])
    elif origin is Annotated:
        for rule in arguments[1:]:
            rule(name, value)
    elif origin is Literal:
        one_of(*arguments)(name, value)
    elif hint in PLAIN:
        PLAIN[hint](name, value)
    elif hint is str and value is None:
        raise UserError(f"{name} must be given: {name}=…")
    elif hint is str and not isinstance(value, str):
        raise UserError(f"{name} must be text, got {value}")
    elif hint is str and not value:
        raise UserError(f"{name} is empty; give a value, or leave it out")
    elif (origin or hint) is dict and not isinstance(value, dict):
        raise UserError(f"{name} must be a mapping, got {value}")


def _is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
