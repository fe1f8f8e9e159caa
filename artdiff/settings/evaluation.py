"""Settings of `artdiff.evaluate`: which model is scored, on which pictures, and which settings it compares."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

from artdiff import UserError
from artdiff.rules import POSITIVE_WHOLE, Rule, none_or_some, number, one_of, whole
from artdiff.settings.base import Accelerator, Settings, check_out, defaults, solver
from artdiff.settings.painting import PaintSettings, SamplingSettings, Spacing

Weights = Literal["averaged", "raw"]
"""Which weights paint: the EMA weights, or the trained weights themselves."""

FEATURES = ("random_vgg16", "vgg16", "inception", "clip", "dinov2")
"""Feature networks; `artdiff.evaluation.features` describes them."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedData(Settings):
    """Which pictures the painted ones are compared with."""

    prefix: ClassVar[str] = "data."

    root: str | None


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """Checkpoints and sampling settings to compare, in every combination; None does not vary one."""

    prefix: ClassVar[str] = "compare."
    PAINTING: ClassVar[tuple[str, ...]] = ("steps", "solver", "spacing", "guidance")
    """The names that are sampling settings."""
    STORED: ClassVar[tuple[str, ...]] = tuple(name for name in SamplingSettings.SHAPING if name != "seed")
    """Sampling settings that `store=true` stores with a run, so that it paints as it was scored."""

    checkpoints: str | list[str] | None
    steps: list[int] | None
    solver: list[Any] | None
    spacing: list[str] | None
    guidance: list[float] | None

    def __post_init__(self) -> None:
        super().__post_init__()
        rules: dict[str, Rule] = {"steps": POSITIVE_WHOLE, "solver": solver, "spacing": one_of(*get_args(Spacing)),
                                  "guidance": number}  # fmt: skip
        for name, rule in rules.items():
            values = getattr(self, name)
            if values is not None and (not isinstance(values, list | tuple) or not values):
                raise UserError(f"compare.{name} must be a list, such as [{defaults('generate')[name]}], got {values}")
            for value in values or ():
                rule(f"compare.{name}", value)
        names = [self.checkpoints] if isinstance(self.checkpoints, str) else self.checkpoints
        if names is not None and not (isinstance(names, list | tuple) and names and all(map(_is_name, names))):
            raise UserError(f"compare.checkpoints must be all or a list such as [best,last], got {self.checkpoints}")

    @property
    def asks(self) -> bool:
        """Whether anything is to be compared."""
        return any(getattr(self, name) is not None for name in ("checkpoints", *self.PAINTING))


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(SamplingSettings):
    """`conf/evaluate.yaml`: which model to score, on which pictures, and how it paints."""

    ckpt: str
    out: str | None
    data: EvaluatedData
    n: Annotated[int, whole(2)]
    most_held_out: Annotated[int, whole(2)]
    features: list[str]
    feature_weights: dict[str, str | None]
    lpips: str | None
    weights: list[Weights]
    compare: CompareSettings
    store: bool
    bootstrap: Annotated[int, whole(0)]
    originality: bool
    representation: Annotated[int, none_or_some]
    most_trained: Annotated[int, whole(2)]
    device: Accelerator
    runs_dir: str
    trust_code: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, given, known in (("features", self.features, FEATURES), ("weights", self.weights, get_args(Weights))):
            if not isinstance(given, list | tuple) or not given:
                raise UserError(f"{name} must be a list, such as [{known[0]}], got {given}")
            for one in given:
                one_of(*known)(name, one)
        for one in self.feature_weights:
            one_of(*FEATURES)("feature_weights", one)
        if self.out is not None:
            check_out(self.out, self.data.root)
        if self.lpips in ("random", "auto"):
            raise UserError(f"lpips={self.lpips} would not be LPIPS: set lpips=imagenet or a file of VGG16's weights")
        if self.store and not self.compare.asks and len(self.weights) == 1:
            raise UserError(
                "store=true stores the best of the compared settings: set compare.guidance=[1.0,2.0], for example"
            )
        self.paint_settings()

    def paint_settings(self, **way: Any) -> PaintSettings:
        """The settings to paint with; those in `way` replace others of the same name."""
        ours, theirs = ({field.name for field in dataclasses.fields(one)} for one in (self, PaintSettings))
        return PaintSettings.with_defaults(**{name: getattr(self, name) for name in ours & theirs - {"n"}} | way)


def _is_name(value: Any) -> bool:
    """Whether a value is a plain file name, without a folder."""
    return isinstance(value, str) and bool(value) and not {"/", os.sep} & set(value)
