"""What every command accepts: frozen dataclasses that check their values when they are made. Free of torch.

The command line, the Python API, the tests and the benchmarks all build these. A field's range stands beside its type,
and a choice is listed once. Defaults live in `conf/` and nowhere else: `defaults("generate")` reads them for Python.

These are not Hydra's structured configs, which were considered. Those report a mistake over several lines before our
code runs, cannot say `"auto" | bool`, do not run `__post_init__` on frozen classes while composing, and reject the keys
of a network or loss that a user wrote. So Hydra composes plain YAML, and the result is checked here as a whole.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from artdiff import UserError, hub
from artdiff.files import is_url, user_path
from artdiff.rules import (
    POSITIVE_WHOLE,
    Rule,
    colour,
    fraction,
    none_or_some,
    not_negative,
    number,
    numbers,
    one_of,
    positive,
    share,
    whole,
)

MULTIPLE = 8
"""Image sides must be a multiple of this: the networks halve them three times."""

_PACKAGE = Path(__file__).parent
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""The configuration folder: inside the package when installed from a wheel, beside it in a checkout."""

Fit = Literal["squash", "crop", "pad"]
"""How a picture becomes square: squashed, cropped to its middle, or padded with the background colour."""

Ranges = Literal["published", "mended"]
"""What the article's sigmoid output means: compared as it is (`published`), or ImageNet-normalised first (`mended`)."""

Accelerator = Literal["auto", "cpu", "gpu"]
"""Where to compute: `auto` takes the GPU if there is one."""

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
"""`auto` is bf16-mixed where the hardware is faster in bf16, else 32-true."""

Spacing = Literal["uniform", "karras"]
"""Of the times that a painter passes through."""

AskedSpacing = Literal["auto", Spacing]
"""`auto` is `karras` for a painter on latents, else `uniform`."""

CompileMode = Literal["auto", "none", "default", "reduce-overhead", "max-autotune"]
"""torch.compile: `auto` compiles long runs on a GPU; the last three are torch.compile's own modes."""

SIDES = re.compile(r"([1-9]\d{0,5})(?:x([1-9]\d{0,5}))?", re.ASCII)
"""A size in pixels as it is written: `192x128`, or `64` for a square."""


def size(name: str, value: Any) -> None:
    """`train`, `own`, or a size in pixels."""
    is_size = isinstance(value, str | int) and not isinstance(value, bool) and SIDES.fullmatch(str(value))
    if value not in ("train", "own") and not is_size:
        raise UserError(f"{name} must be train, own or WIDTHxHEIGHT, got {value}")


def devices(name: str, value: Any) -> None:
    """`auto`, or how many."""
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UserError(f"{name} must be auto or a whole number of at least 1, got {value}")


Size = Annotated[str | int, size]
"""At which size to paint: the size of training, the muse's own, or `WIDTHxHEIGHT`."""

VGG_WEIGHTS = ("auto", "imagenet", "random")
"""VGG16 weights by name; anything else is a file. `auto` is `imagenet`, or `random` with a warning if offline."""

RECONSTRUCTORS = ("artdiff.networks.ConvDiffusionModel",)
CODECS = ("artdiff.networks.Autoencoder",)
"""The networks of ours that map a picture to a picture, and those that encode and decode; all others denoise."""

NETWORK_RENAMED = {"features": "cond_dim", "attention": "attention_resolutions", "blocks": "num_res_blocks"}
RENAMED = {f"network.{old}": f"network.{new}" for old, new in NETWORK_RENAMED.items()}
RENAMED |= {"network.data_std": "task.data_std"}
"""Settings that had another name up to version 0.1; the old one is still accepted, with a warning."""

TEXTS = (
    *(
        "label",
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
    *("search.out", "lpips"),
    *("loss.perceptual.weights", "data.root", "data.cache_dir", "data.exclude", "data.background"),
)
"""Settings that name a file, a folder, a colour or a class: always text, even if they look like numbers."""

Component = dict[str, Any]
"""An object that Hydra builds: a mapping with `_target_` and its arguments."""


def solver(name: str, value: Any) -> None:
    """A file of `artdiff/diffusion/samplers`, or a class of the user's by its dotted path or as `_target_`."""
    if isinstance(value, Mapping) and "_target_" in value:
        return
    known = sorted(path.stem for path in (_PACKAGE / "diffusion/samplers").glob("[!_]*.py"))
    if value not in known and not (isinstance(value, str) and "." in value):
        raise UserError(f"{name} must be {' or '.join(known)}, got {value}")


COMPONENT_RULES: dict[str, Rule] = {
    "optimizer.lr": number,
    "loss.mse_weight": number,
    "loss.perceptual_weight": number,
    "loss.perceptual.keep": not_negative,
    "optimizer.momentum": share,
    "network.dropout": share,
    "network.detail_channels": whole(0),
    "network.channels": numbers(POSITIVE_WHOLE, fewest=1),
    "network.attention_resolutions": numbers(POSITIVE_WHOLE, fewest=0),
    **{f"network.{name}": POSITIVE_WHOLE for name in ("patch", "patches", "num_res_blocks", "width", "depth")},
    **{f"network.{name}": POSITIVE_WHOLE for name in ("bottleneck", "cond_dim")},
    "trainer.accelerator": one_of(*get_args(Accelerator)),
    "trainer.precision": one_of(*get_args(Precision)),
    "trainer.devices": devices,
    "trainer.num_nodes": POSITIVE_WHOLE,
    "trainer.strategy": one_of("auto", "ddp"),  # or a class of Lightning's, as `_target_`
    "trainer.max_epochs": whole(-1),
    "trainer.max_steps": whole(-1),
    "trainer.accumulate_grad_batches": POSITIVE_WHOLE,
    "trainer.gradient_clip_algorithm": one_of(None, "norm"),
}
"""Checked wherever a component has an argument of that name, so that the mistake is reported before torch is loaded.
The component checks the rest itself when it is built."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Checks each field against its annotation. Raises `UserError` with the field's full name."""

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


@dataclass(frozen=True, kw_only=True)
class Limits(Settings):
    """What decoding one file may take; memory is bounded on Linux only."""

    prefix: ClassVar[str] = "limits."

    seconds: Annotated[float, positive]
    gigabytes: Annotated[float, positive]


@dataclass(frozen=True, kw_only=True)
class ServingSettings(Settings):
    """How pictures are served, wherever they come from."""

    prefix: ClassVar[str] = "data."

    root: str | None
    image_size: Annotated[int, whole(16)]
    batch_size: Annotated[int, POSITIVE_WHOLE]
    flip: Annotated[float, share]
    random_crop: Annotated[int, whole(0)]
    train_crop: Annotated[int, whole(16)] | None = None
    seed: Annotated[int, whole(0, 2**32 - 1)]
    cache_dir: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % MULTIPLE:
            below = self.image_size - self.image_size % MULTIPLE
            raise UserError(
                f"data.image_size must be a multiple of {MULTIPLE}, got {self.image_size}; "
                f"set data.image_size={below} or {below + MULTIPLE}"
            )
        whole(0, self.image_size)("data.random_crop", self.random_crop)
        if self.train_crop is not None and self.train_crop % MULTIPLE:
            raise UserError(f"data.train_crop must be a multiple of {MULTIPLE}, got {self.train_crop}")
        if self.root is not None:
            cache_dir = os.environ.get("ARTDIFF_CACHE") if self.cache_dir is None else self.cache_dir
            if cache_dir:
                remedy = "set it, or ARTDIFF_CACHE, to one elsewhere"
                refuse_inside("data.cache_dir", cache_dir, self.root, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class DataSettings(ServingSettings):
    """`conf/data/folder.yaml`: which pictures, at which size, and how they are served."""

    source: Component | None = None
    fit: Fit
    background: Annotated[str, colour]
    val_fraction: Annotated[float, fraction]
    min_side: Annotated[int, whole(0)]
    exclude: str | None
    cache: bool
    resident: Annotated[bool | str, one_of("auto", True, False)]
    num_workers: Annotated[int, whole(0)] | None
    limits: Limits

    def __post_init__(self) -> None:
        if self.root == "":
            raise UserError("data.root is empty; expected a folder, or null for the built-in sample art")
        if self.root is not None and is_url(self.root):
            raise UserError(f"data.root={self.root} is no folder; shards in an object store are read with data=stream")
        super().__post_init__()
        if self.resident is True and not self.cache:
            raise UserError("data.resident=true needs data.cache=true")
        if self.num_workers is not None and not self.cache:
            whole(1)("data.num_workers", self.num_workers)
        if self.exclude is not None and not user_path(self.exclude).is_file():
            raise UserError(f"data.exclude={self.exclude} is no file; expected a list of paths or SHA-256 hashes")


@dataclass(frozen=True, kw_only=True)
class StreamSettings(ServingSettings):
    """`conf/data/stream.yaml`: shards that `artdiff.pack` has written, in a folder or an object store."""

    fit: Fit | None = None
    cache_gigabytes: Annotated[float, positive]

    def __post_init__(self) -> None:
        if not self.root:
            raise UserError("data.root must be given: the folder or URL of shards that artdiff.pack has written")
        super().__post_init__()


DATA: dict[str, type[ServingSettings]] = {
    "artdiff.data.datamodule.ArtDataModule": DataSettings,
    "artdiff.data.streaming.StreamDataModule": StreamSettings,
}
"""The settings of each kind of data; a data module of the user's takes those of a folder."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings(Settings):
    """What all tasks have: components that the task builds itself, so that a checkpoint can name them."""

    prefix: ClassVar[str] = "task."

    network: Component
    optimizer: Component
    scheduler: Component | None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings(TaskSettings):
    """`conf/task/reconstruction.yaml`."""

    ranges: Ranges


@dataclass(frozen=True, kw_only=True)
class AutoencodingSettings(TaskSettings):
    """`conf/task/autoencoder.yaml`."""

    latent_noise: Annotated[float, not_negative]


@dataclass(frozen=True, kw_only=True)
class DenoisingSettings(TaskSettings):
    """What the denoising tasks share."""

    codec: Component | None = None
    classes: list[str]
    warmup: Annotated[int, whole(0)]
    time_mean: Annotated[float, number]
    time_std: Annotated[float, number]
    gate: Annotated[float, share]
    label_dropout: Annotated[float, share]
    ema_half_life: Annotated[float, positive]
    ema_ramp: Annotated[float, positive]


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(DenoisingSettings):
    """`conf/task/generation.yaml`."""

    refiner: Component | None = None
    enlarger: Component | None = None
    data_std: Annotated[float, positive] = 0.5


ENLARGE = 2
"""By how much an enlarger makes the sides longer."""


def refiner_shrink(enlarger: object | None) -> int:
    """At which part of the sides a refiner works that this enlarger follows; None is no enlarger."""
    return 1 if enlarger is None else ENLARGE


@dataclass(frozen=True, kw_only=True)
class RefinementSettings(DenoisingSettings):
    """`conf/task/refinement.yaml`."""

    draft_noise: Annotated[float, not_negative]
    trains: Literal["refiner", "enlarger"] = "refiner"
    shrink: Annotated[int, whole(1)] = 1


TASKS: dict[str, type[TaskSettings]] = {
    "artdiff.tasks.Reconstruction": ReconstructionSettings,
    "artdiff.tasks.Generation": GenerationSettings,
    "artdiff.tasks.Autoencoding": AutoencodingSettings,
    "artdiff.tasks.Refinement": RefinementSettings,
}


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """`conf/train.yaml` and its groups: everything about a training run."""

    seed: Annotated[int, whole(0, 2**32 - 1)]
    compile: CompileMode
    ckpt: str | None
    init: str | None = None
    codec_from: str | None = None
    finetune_codec: bool = False
    trust_code: bool
    runs_dir: str
    run_dir: str
    stages: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: ServingSettings
    task: TaskSettings
    network: Component
    loss: Component
    optimizer: Component
    scheduler: Component | None
    trainer: Component
    callbacks: dict[str, Component | None]
    logger: Component
    config: dict[str, Any]
    """The plain mapping that this was built from, as it is kept in the run's folder."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        target = config["task"].get("_target_")
        if target not in TASKS:
            raise UserError(f"task must be generation, autoencoder, refinement or reconstruction, got {target}")
        known = {field.name for field in dataclasses.fields(cls)}
        given = {name: value for name, value in config.items() if name in known}  # a user may add notes of their own
        data = config.get("data")
        if not isinstance(data, Mapping):
            raise UserError(f"data must be given: data=folder or data=stream, got {data}")
        data = DATA.get(str(data.get("_target_")), DataSettings).of(data)
        return super().of({**given, "data": data, "task": TASKS[target].of(config["task"]), "config": dict(config)})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("network", "loss", "optimizer", "trainer"):
            for key, value in _flat(name, getattr(self, name)):
                if key in COMPONENT_RULES:
                    COMPONENT_RULES[key](key, value)
        if self.data.root is not None:
            refuse_inside("run_dir", self.run_dir, self.data.root, remedy="set runs_dir=DIR elsewhere")
        self._check_pair()
        self._check_trainer()
        perceptual = self.loss.get("perceptual")
        if perceptual is not None:
            if "_target_" not in perceptual:
                raise UserError("loss.perceptual.* cannot be set: this loss has no perceptual term; set loss=hybrid")
            weights = perceptual.get("weights", VGG_WEIGHTS[0])
            if weights not in VGG_WEIGHTS and not user_path(str(weights)).is_file():
                raise UserError(
                    f"loss.perceptual.weights={weights} is no file; expected {', '.join(VGG_WEIGHTS)} or a file"
                )

    @property
    def on_several_devices(self) -> bool:
        """Whether the training may have several processes."""
        return self.trainer.get("devices", 1) != 1 or self.trainer.get("num_nodes", 1) != 1

    @property
    def paints(self) -> bool:
        """Whether the task is to paint new pictures, rather than to reconstruct."""
        return isinstance(self.task, GenerationSettings)

    def _check_pair(self) -> None:
        """A network of ours must fit the task; one of the user's is taken at their word."""
        network, task = str(self.task.network.get("_target_")), self.config["task"]["_target_"]
        if isinstance(self.task, DenoisingSettings):
            fits, remedy = network not in RECONSTRUCTORS + CODECS, "network=unet or network=vit"
        elif isinstance(self.task, AutoencodingSettings):
            fits, remedy = network in CODECS, "codec=f4 or codec=f8"
        else:
            fits, remedy = network in RECONSTRUCTORS, "task=generation"
        if network.startswith("artdiff.") and not fits:
            raise UserError(f"{task} cannot train {network}: set {remedy}")

    def _check_trainer(self) -> None:
        if self.trainer.get("gradient_clip_val") is not None:
            positive("trainer.gradient_clip_val", self.trainer["gradient_clip_val"])
        if self.trainer.get("precision") == "16-mixed" and self.optimizer.get("fused") is True:
            raise UserError(
                "trainer.precision=16-mixed scales gradients, which a fused optimizer hides: set optimizer.fused=false"
            )


@dataclass(frozen=True, kw_only=True)
class PaintSettings(Settings):
    """What to paint, and how: the settings of `Painter.paint` and the larger part of `conf/generate.yaml`."""

    REPAINTED: ClassVar[tuple[str, ...]] = (
        *("seed", "steps", "solver", "spacing", "guidance", "guidance_interval", "strength", "refine_steps", "size"),
        "max_pixels",
    )
    """Those that a picture is painted again with as they are in its file."""

    muse: Any
    """A path, a Pillow picture, or a list of these; None paints from noise."""
    n: Annotated[int, POSITIVE_WHOLE] | None
    label: str | list[Any] | None
    seed: Annotated[int, whole(0, 2**63 - 1)]
    steps: Annotated[int, POSITIVE_WHOLE]
    solver: Annotated[str | Component, solver]
    spacing: AskedSpacing
    guidance: Annotated[float, number]
    guidance_interval: list[float]
    strength: Annotated[float, share]
    interpolate: list[int] | None
    trajectory: bool
    refine: Any = None
    """Like `muse`: pictures whose detail the refiner paints anew."""
    refine_steps: Annotated[int, whole(0)]
    batch_size: Annotated[int, POSITIVE_WHOLE] | None
    compile: CompileMode
    size: Size
    max_pixels: Annotated[int, POSITIVE_WHOLE] | None
    limits: Limits

    def __post_init__(self) -> None:
        super().__post_init__()
        interval, ends = self.guidance_interval, self.interpolate
        if not isinstance(interval, list | tuple) or len(interval) != 2:
            raise UserError(f"guidance_interval must be two times, such as [0.1,1.0], got {interval}")
        for moment in interval:
            share("guidance_interval", moment)
        if interval[0] > interval[1]:
            raise UserError(f"guidance_interval must begin before it ends, got {interval}")
        if self.label in ([], ""):
            raise UserError("label is empty; expected a class by name, several, all or none")
        if self.muse in ([], ""):
            raise UserError("muse is empty; expected a picture or a folder of pictures")
        if ends is not None:
            if not isinstance(ends, list | tuple) or len(ends) != 2:
                raise UserError(f"interpolate must be two seeds, such as [1,2], got {ends}")
            for seed in ends:
                whole(0, 2**63 - 1)("interpolate", seed)
            if self.muse is not None:
                raise UserError("interpolate starts from noise: leave muse out")
        if isinstance(self.muse, str) and not user_path(self.muse).exists():
            name = "muse" if self.refine is None else "refine"
            raise UserError(f"{name}={self.muse} does not exist; expected a picture or a folder of pictures")

    @property
    def most_pixels(self) -> int:
        """`max_pixels`, once `Painter.bounded` has set what was left open."""
        assert self.max_pixels is not None
        return self.max_pixels

    @property
    def sides(self) -> tuple[int, int] | None:
        """Width and height in pixels if `size` gives them; None for `train` and `own`."""
        found = SIDES.fullmatch(str(self.size))
        return (int(found[1]), int(found[2] or found[1])) if found is not None else None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """As `Settings.of`. To `refine` a picture is to begin with it at its own size and add only the detail."""
        if config.get("refine") is None:
            return super().of(config)
        if config.get("muse") is not None:
            raise UserError("refine begins with the picture itself: leave muse out")
        size = "own" if config["size"] == "train" else config["size"]
        return super().of({**config, "muse": config["refine"], "strength": 0.0, "size": size})

    @classmethod
    def with_defaults(cls, **given: Any) -> Self:
        """`given` over the defaults of `conf/generate.yaml`; None means the default. Raises `UserError`."""
        known = {field.name for field in dataclasses.fields(cls)}
        base = {name: value for name, value in defaults("generate").items() if name in known}
        return cls.of(base | {name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(PaintSettings):
    """`conf/generate.yaml`: what to paint, with which model, and where to write it."""

    ckpt: str | None
    repaint: str | None
    """Called `from` on the command line: a picture of ours to paint again."""
    out: str
    format: Literal["png", "jpg", "webp"]
    keep_settings: bool
    sheet: Annotated[int, POSITIVE_WHOLE]
    originality: bool
    hold_back: bool
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
        """As `PaintSettings.of`; `from` is no name that Python lets a field have."""
        if config.get("from") == "":
            raise UserError("from is empty; expected a picture that artdiff painted")
        return super().of({("repaint" if name == "from" else name): value for name, value in config.items()})


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """`conf/export.yaml`: which model to give away, where to, and what its card says."""

    ckpt: str
    to: str
    license: str
    name: str | None
    intended_use: str | None
    push: str | None
    public: bool
    samples: Annotated[int, whole(0)]
    seed: Annotated[int, whole(0, 2**63 - 1)]
    device: Accelerator
    runs_dir: str
    trust_code: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_file("to", self.to)
        if not self.license.strip():
            raise UserError("license is empty: name one, such as cc-by-4.0 or unknown")
        if self.push is not None:
            hub.named(self.push, f"push={self.push}")


@dataclass(frozen=True, kw_only=True)
class GallerySettings(Settings):
    """`conf/gallery.yaml`: which runs the page offers, where it keeps pictures, and who may open it."""

    ckpt: str | None
    runs_dir: str
    out: str
    host: str
    port: Annotated[int, whole(0, 65535)]
    user: str
    password: str | None
    upload_megabytes: Annotated[float, positive]
    max_pixels: Annotated[int, POSITIVE_WHOLE]
    device: Accelerator
    trust_code: bool
    open: bool
    limits: Limits

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_file("out", self.out)
        if self.host not in LOOPBACK and not self.password:
            raise UserError(f"host={self.host} lets others open the page: give a password=… as well")


LOOPBACK = ("127.0.0.1", "localhost")
"""Hosts that only this machine reaches."""

Weights = Literal["averaged", "raw"]
"""Of a painter: the moving average, or those that were trained."""

FEATURES = ("random_vgg16", "vgg16", "inception", "clip", "dinov2")
"""Networks that pictures are compared by; `artdiff.evaluation.features` says which they are."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedData(Settings):
    """Which pictures a model is compared with."""

    prefix: ClassVar[str] = "data."

    root: str | None


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """Ways to paint that are compared, in every combination; None leaves one as it is."""

    prefix: ClassVar[str] = "compare."
    PAINTING: ClassVar[tuple[str, ...]] = ("steps", "solver", "spacing", "guidance")
    """Those that are settings of painting."""

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
        """Whether there is anything to compare."""
        return any(getattr(self, name) is not None for name in ("checkpoints", *self.PAINTING))


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Settings):
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
    seed: Annotated[int, whole(0, 2**63 - 1)]
    steps: Annotated[int, POSITIVE_WHOLE]
    solver: Annotated[str | Component, solver]
    spacing: AskedSpacing
    guidance: Annotated[float, number]
    guidance_interval: list[float]
    refine_steps: Annotated[int, whole(0)]
    batch_size: Annotated[int, POSITIVE_WHOLE] | None
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
            _check_out(self.out, self.data.root)
        if self.lpips in ("random", "auto"):
            raise UserError(f"lpips={self.lpips} would not be LPIPS: set lpips=imagenet or a file of VGG16's weights")
        if self.store and not self.compare.asks and len(self.weights) == 1:
            raise UserError(
                "store=true keeps the best of what is compared: set compare.guidance=[1.0,2.0], for example"
            )
        self.paint_settings()

    def paint_settings(self, **way: Any) -> PaintSettings:
        """How pictures are painted, with `way` in place of settings of the same names."""
        ours, theirs = ({field.name for field in dataclasses.fields(one)} for one in (self, PaintSettings))
        return PaintSettings.with_defaults(**{name: getattr(self, name) for name in ours & theirs - {"n"}} | way)


@dataclass(frozen=True, kw_only=True)
class AuditSettings(Settings):
    """`conf/audit.yaml`."""

    data: DataSettings
    out: str
    contact_sheet: Annotated[int, POSITIVE_WHOLE]
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_out(self.out, self.data.root)


@dataclass(frozen=True, kw_only=True)
class PackSettings(Settings):
    """`conf/pack.yaml`."""

    data: DataSettings
    out: str
    shard_megabytes: Annotated[float, positive]
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_url(self.out):
            _check_out(self.out, self.data.root)


@dataclass(frozen=True, kw_only=True)
class PruneSettings(Settings):
    """`conf/prune.yaml`."""

    unused_days: Annotated[float, not_negative]
    dry_run: bool
    cache_dir: str | None


@cache
def _conf(name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"), resolve=False)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items() if key not in ("defaults", "hydra")}


def defaults(name: str) -> dict[str, Any]:
    """The values in `conf/NAME.yaml`, without its groups: `defaults("generate")["steps"]` is 30."""
    return dict(_conf(name))


def refuse_inside(name: str, folder: str, root: str, *, remedy: str = "choose a folder elsewhere") -> None:
    """Raise `UserError` if `folder` lies among the pictures: what is written there would be read as one next time.

    Nothing lies in an object store.
    """
    if not is_url(root) and user_path(folder).resolve().is_relative_to(user_path(root).resolve()):
        raise UserError(f"{name}={folder} lies in data.root={root}, among the pictures; {remedy}")


def _check_out(out: str, root: str | None) -> None:
    """Raise `UserError` unless `out` is a folder to write to, outside the pictures."""
    refuse_file("out", out)
    if root is not None:
        refuse_inside("out", out, root)


def refuse_file(name: str, folder: str) -> None:
    """Raise `UserError` if the folder to write to is a file."""
    if user_path(folder).exists() and not user_path(folder).is_dir():
        raise UserError(f"{name}={folder} is a file; expected a folder to write to")


def _hints(cls: type[Settings]) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _check(name: str, value: Any, hint: Any) -> None:
    """Raise `UserError` unless `value` is what an annotation allows."""
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
    elif hint is bool:
        one_of(True, False)(name, value)
    elif hint is str and value is None:
        raise UserError(f"{name} must be given: {name}=…")
    elif hint is str and not isinstance(value, str):
        raise UserError(f"{name} must be text, got {value}")
    elif hint is str and not value:
        raise UserError(f"{name} is empty; give a value, or leave it out")
    elif (origin or hint) is dict and not isinstance(value, dict):
        raise UserError(f"{name} must be a mapping, got {value}")


def _is_name(value: Any) -> bool:
    """Whether a value names a file in a folder that is known."""
    return isinstance(value, str) and bool(value) and not {"/", os.sep} & set(value)


def _is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _flat(name: str, component: Any) -> Iterator[tuple[str, Any]]:
    """Every argument of a component with its dotted name."""
    if isinstance(component, dict):
        for key, value in component.items():
            yield from _flat(f"{name}.{key}", value)
    else:
        yield name, component
