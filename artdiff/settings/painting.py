"""Settings of painting: what to paint and how, and where `artdiff.generate` writes it."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from artdiff import UserError
from artdiff.files import user_path
from artdiff.rules import POSITIVE_WHOLE, number, share, whole
from artdiff.settings.base import (
    Accelerator,
    CompileMode,
    Component,
    Settings,
    check_file,
    defaults,
    refuse_file,
    solver,
)
from artdiff.settings.data import Limits
from artdiff.settings.passing import PassingSettings
from artdiff.settings.training import Ranges

Spacing = Literal["uniform", "karras"]
"""Spacing of the sampling times."""

AskedSpacing = Literal["auto", Spacing]
"""`auto` is `karras` for a painter with a codec, else `uniform`."""

SIDES = re.compile(r"([1-9]\d{0,5})(?:x([1-9]\d{0,5}))?", re.ASCII)
"""Format of a size in pixels: `192x128`, or `64` for a square."""


def is_empty(value: Any) -> bool:
    """Whether a value is an empty text or list."""
    return isinstance(value, str | list | tuple) and not value


def size(name: str, value: Any) -> None:
    """Raise `UserError` unless `value` is `train`, `own`, or a size in pixels."""
    is_size = isinstance(value, str | int) and not isinstance(value, bool) and SIDES.fullmatch(str(value))
    if value not in ("train", "own") and not is_size:
        raise UserError(f"{name} must be train, own or WIDTHxHEIGHT, got {value}")


Size = Annotated[str | int, size]
"""Size to paint at: `train` is the training size, `own` the muse's, or `WIDTHxHEIGHT`."""


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """How to sample pictures, whatever they show."""

    SHAPING: ClassVar[tuple[str, ...]] = (
        *("seed", "steps", "solver", "spacing", "guidance", "guidance_interval", "refine_steps", "refine_solver"),
    )
    """The settings here that a picture depends on."""

    seed: Annotated[int, whole(0, 2**63 - 1)]
    steps: Annotated[int, POSITIVE_WHOLE]
    solver: Annotated[str | Component, solver]
    spacing: AskedSpacing
    guidance: Annotated[float, number]
    guidance_interval: list[float]
    refine_steps: Annotated[int, whole(0)]
    refine_solver: Annotated[str | Component, solver]
    batch_size: Annotated[int, POSITIVE_WHOLE] | None


@dataclass(frozen=True, kw_only=True)
class PaintSettings(SamplingSettings):
    """What to paint, and how: the settings of `Painter.paint` and the larger part of `conf/generate.yaml`."""

    REPAINTED: ClassVar[tuple[str, ...]] = (*SamplingSettings.SHAPING, "strength", "size", "max_pixels", "negative")
    """The settings that `from=PICTURE` takes unchanged from a picture's file."""

    muse: Any
    """A path, a Pillow picture, or a list of these; None paints from noise."""
    n: Annotated[int, POSITIVE_WHOLE] | None
    label: str | list[Any] | None
    prompt: str | list[Any] | None = None
    negative: str | None = None
    word_vectors: str | None = None
    """A file of word vectors, to replace words that the model has not learned."""
    strength: Annotated[float, share]
    interpolate: list[int] | None
    trajectory: bool
    refine: Any = None
    """Like `muse`: pictures whose detail the refiner repaints."""
    compile: CompileMode
    size: Size
    max_pixels: Annotated[int, POSITIVE_WHOLE] | None
    limits: Limits

    def __post_init__(self) -> None:
        super().__post_init__()
        check_file("word_vectors", self.word_vectors)
        interval, ends = self.guidance_interval, self.interpolate
        if not isinstance(interval, list | tuple) or len(interval) != 2:
            raise UserError(f"guidance_interval must be two times, such as [0.1,1.0], got {interval}")
        for moment in interval:
            share("guidance_interval", moment)
        if interval[0] > interval[1]:
            raise UserError(f"guidance_interval must start before it ends, got {interval}")
        if is_empty(self.label):
            raise UserError("label is empty; expected a class by name, several, all or none")
        if is_empty(self.prompt):
            raise UserError("prompt is empty; expected a text, or several")
        if isinstance(self.prompt, list | tuple) and None in self.prompt:
            raise UserError(f"prompt must be a text, or several, got {self.prompt}")
        if is_empty(self.muse):
            raise UserError("muse is empty; expected a picture or a folder of pictures")
        begins_with = "muse" if self.refine is None else "refine"
        if ends is not None:
            if not isinstance(ends, list | tuple) or len(ends) != 2:
                raise UserError(f"interpolate must be two seeds, such as [1,2], got {ends}")
            for seed in ends:
                whole(0, 2**63 - 1)("interpolate", seed)
            if self.muse is not None:
                raise UserError(f"interpolate starts from noise: leave {begins_with} out")
        if isinstance(self.muse, str) and not user_path(self.muse).exists():
            raise UserError(f"{begins_with}={self.muse} does not exist; expected a picture or a folder of pictures")

    @property
    def prompts(self) -> list[tuple[str, str]]:
        """All prompts, each with the name of its setting: `prompt` or `negative`."""
        asked = self.prompt if isinstance(self.prompt, list | tuple) else [self.prompt]
        found = [("prompt", one) for one in asked] + [("negative", self.negative)]
        return [(name, str(one)) for name, one in found if one is not None]

    def reworded(self, change: Callable[[str], str]) -> Self:
        """A copy with `change` applied to each prompt, and `word_vectors` set to None."""
        prompt = self.prompt
        if prompt is not None:
            prompt = [change(str(one)) for one in prompt] if isinstance(prompt, list | tuple) else change(str(prompt))
        negative = None if self.negative is None else change(self.negative)
        return dataclasses.replace(self, prompt=prompt, negative=negative, word_vectors=None)

    @property
    def most_pixels(self) -> int:
        """`max_pixels`, which must be set: `Painter.bounded` sets its default."""
        assert self.max_pixels is not None
        return self.max_pixels

    @property
    def sides(self) -> tuple[int, int] | None:
        """Width and height in pixels, from `size`; None for `train` and `own`."""
        found = SIDES.fullmatch(str(self.size))
        return (int(found[1]), int(found[2] or found[1])) if found is not None else None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """As `Settings.of`. `refine` becomes a muse at its own size, with strength 0 and only the detail repainted."""
        if config.get("refine") is None:
            return super().of(config)
        if config.get("muse") is not None:
            raise UserError("refine starts from the picture itself: leave muse out")
        if is_empty(config["refine"]):
            raise UserError("refine is empty; expected a picture or a folder of pictures")
        if config["strength"] not in (0, defaults("generate")["strength"]):
            raise UserError("refine changes only the detail of the picture: leave strength out")
        for name in ("prompt", "negative"):
            if config.get(name) is not None:
                raise UserError(f"refine paints detail, which ignores prompts: leave {name} out")
        size = "own" if config["size"] == "train" else config["size"]
        return super().of({**config, "muse": config["refine"], "strength": 0.0, "size": size})

    @classmethod
    def with_defaults(cls, **given: Any) -> Self:
        """`given` over the defaults of `conf/generate.yaml`; None means the default. Raises `UserError`."""
        known = {field.name for field in dataclasses.fields(cls)}
        base = {name: value for name, value in defaults("generate").items() if name in known}
        return cls.of(base | {name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(PaintSettings, PassingSettings):
    """`conf/generate.yaml`: what to paint, with which model, and where to write it."""

    ckpt: str | None
    repaint: str | None
    """A picture that artdiff painted, to paint again. It is the setting `from` on the command line."""
    out: str
    format: Literal["png", "jpg", "webp"]
    keep_settings: bool
    sheet: Annotated[int, POSITIVE_WHOLE]
    device: Accelerator
    runs_dir: str
    ranges: Ranges | None
    trust_code: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_file("out", self.out)
        if self.ckpt is None and self.repaint is None:
            raise UserError("ckpt must be given: ckpt=… (a run's folder, a checkpoint's file, or last)")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """As `PaintSettings.of`, with `from` renamed to `repaint`, since `from` is a Python keyword."""
        if config.get("from") == "":
            raise UserError("from is empty; expected a picture that artdiff painted")
        return super().of({("repaint" if name == "from" else name): value for name, value in config.items()})
