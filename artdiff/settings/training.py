"""Settings of a training: the task, the whole configuration, and rules for the arguments of its components."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from artdiff import UserError
from artdiff.files import user_path
from artdiff.rules import POSITIVE_WHOLE, Rule, is_whole, not_negative, number, numbers, one_of, positive, share, whole
from artdiff.settings.base import Accelerator, CompileMode, Component, Settings, is_built_in, refuse_inside, solver
from artdiff.settings.data import DATA, DataSettings, ServingSettings

Ranges = Literal["published", "mended"]
"""How the article's sigmoid output is compared: as it is (`published`), or ImageNet-normalised first (`mended`)."""

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
"""`auto` is bf16-mixed where the hardware is faster in bf16, else 32-true."""


def devices(name: str, value: Any) -> None:
    """Rule: `auto`, or a number of devices."""
    if value != "auto" and (not is_whole(value) or value < 1):
        raise UserError(f"{name} must be auto or a whole number of at least 1, got {value}")


SECONDS = {"weeks": 604800, "days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def seconds(name: str, value: Any) -> float:
    """Convert a time, DD:HH:MM:SS or a mapping such as {minutes: 30}, to seconds. Raises `UserError`."""
    if isinstance(value, Mapping):
        if not set(value) <= set(SECONDS):
            raise UserError(f"{name} must name {', '.join(SECONDS)}, got {', '.join(map(str, value))}")
        for unit, count in value.items():
            not_negative(f"{name}.{unit}", count)
        return float(sum(count * SECONDS[unit] for unit, count in value.items()))
    if isinstance(value, str) and re.fullmatch(r"\d+:\d+:\d+:\d+", value):
        days, hours, minutes, rest = map(int, value.split(":"))
        return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)
    raise UserError(f"{name} must be DD:HH:MM:SS, such as 00:01:30:00, got {value}")


VGG_WEIGHTS = ("auto", "imagenet", "random")
"""Named VGG16 weights; any other value is a file. `auto` is `imagenet`, or `random` with a warning if offline."""

RECONSTRUCTORS = ("artdiff.networks.ConvDiffusionModel",)

CODECS = ("artdiff.networks.Autoencoder",)
"""Networks of artdiff that map a picture to a picture (`RECONSTRUCTORS`), and autoencoders. All others denoise."""

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
    "trainer.strategy": one_of("auto", "ddp", "fsdp"),  # or a class of Lightning's, as `_target_`
    "trainer.max_epochs": whole(-1),
    "trainer.max_steps": whole(-1),
    "trainer.accumulate_grad_batches": POSITIVE_WHOLE,
    "trainer.gradient_clip_algorithm": one_of(None, "norm"),
}
"""Rules for arguments of components, so that a mistake is reported before torch is loaded. Networks and losses are
checked only if they are artdiff's own. A component checks its other arguments when it is built."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings(Settings):
    """Settings of all tasks. The task builds these components itself, so that its checkpoints store their settings."""

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
    """Settings of all denoising tasks."""

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
    vocabulary: list[str] = dataclasses.field(default_factory=list)
    caption_dropout: Annotated[float, share] = 0.1
    word_dropout: Annotated[float, share] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.caption_dropout > 0.5:
            raise UserError(f"task.caption_dropout must be at most 0.5, since it also drops the labels of as many "
                            f"others, got {self.caption_dropout}")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DistillationSettings(GenerationSettings):
    """`conf/task/distillation.yaml`."""

    steps: Annotated[int, POSITIVE_WHOLE]
    teacher_steps: Annotated[int, POSITIVE_WHOLE]
    teacher_guidance: Annotated[float, number] = 1.0
    teacher_solver: Annotated[str, solver] = "dpm_solver_3m"


ENLARGE = 2
"""Factor by which an enlarger scales width and height."""


def refiner_shrink(enlarger: object | None) -> int:
    """Return by which factor a refiner's width and height are below the final ones; `enlarger` may be None."""
    return 1 if enlarger is None else ENLARGE


@dataclass(frozen=True, kw_only=True)
class RefinementSettings(DenoisingSettings):
    """`conf/task/refinement.yaml`."""

    draft_noise: Annotated[float, not_negative]
    trains: Literal["refiner", "enlarger"] = "refiner"
    shrink: Annotated[int, whole(1)] = 1


FROM_DATA = ("classes", "vocabulary")
"""Settings of a task that come from the training pictures."""

TASKS: dict[str, type[TaskSettings]] = {
    "artdiff.tasks.Reconstruction": ReconstructionSettings,
    "artdiff.tasks.Generation": GenerationSettings,
    "artdiff.tasks.Distillation": DistillationSettings,
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
    """The plain mapping that this was built from, which is saved in the run's folder."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        target = config["task"].get("_target_")
        if target not in TASKS:
            raise UserError(
                f"task must be generation, distillation, autoencoder, refinement or reconstruction, got {target}"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        given = {name: value for name, value in config.items() if name in known}  # a user may add keys of their own
        data = config.get("data")
        if not isinstance(data, Mapping):
            raise UserError(f"data must be given: data=folder or data=stream, got {data}")
        data = DATA.get(str(data.get("_target_")), DataSettings).of(data)
        return super().of({**given, "data": data, "task": TASKS[target].of(config["task"]), "config": dict(config)})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("network", "loss", "optimizer", "trainer"):
            component = getattr(self, name)
            if name in ("network", "loss") and not is_built_in(component):
                continue
            for key, value in _flat(name, component):
                if key in COMPONENT_RULES:
                    COMPONENT_RULES[key](key, value)
        if self.data.root is not None:
            refuse_inside("run_dir", self.run_dir, self.data.root, remedy="set runs_dir=DIR elsewhere")
        self._check_pair()
        self._check_trainer()
        perceptual = self.loss.get("perceptual") if is_built_in(self.loss) else None
        if perceptual is not None:
            if "_target_" not in perceptual:
                raise UserError("loss.perceptual.* cannot be set: this loss has no perceptual term; set loss=hybrid")
            weights = perceptual.get("weights", VGG_WEIGHTS[0])
            if is_built_in(perceptual) and weights not in VGG_WEIGHTS and not user_path(str(weights)).is_file():
                raise UserError(
                    f"loss.perceptual.weights={weights} is no file; expected {', '.join(VGG_WEIGHTS)} or a file"
                )

    @property
    def on_several_devices(self) -> bool:
        """Whether the training may have several processes."""
        return self.trainer.get("devices", 1) != 1 or self.trainer.get("num_nodes", 1) != 1

    @property
    def paints(self) -> bool:
        """Whether the task paints new pictures, rather than reconstructing."""
        return isinstance(self.task, GenerationSettings)

    def _check_pair(self) -> None:
        """Raise `UserError` if a network of artdiff does not fit the task. Other networks are not checked."""
        network, task = str(self.task.network.get("_target_")), self.config["task"]["_target_"]
        if isinstance(self.task, DenoisingSettings):
            fits, remedy = network not in RECONSTRUCTORS + CODECS, "network=unet or network=vit"
        elif isinstance(self.task, AutoencodingSettings):
            fits, remedy = network in CODECS, "codec=f4 or codec=f8"
        else:
            fits, remedy = network in RECONSTRUCTORS, "task=generation"
        if is_built_in(self.task.network) and not fits:
            raise UserError(f"{task} cannot train {network}: set {remedy}")

    def _check_trainer(self) -> None:
        if self.trainer.get("strategy") == "fsdp":
            if self.compile not in ("auto", "none"):
                raise UserError(f"compile={self.compile} cannot be used with trainer=fsdp: set compile=none")
            if self.trainer.get("precision") == "16-mixed":
                raise UserError(
                    "trainer.precision=16-mixed cannot be used with trainer=fsdp: set bf16-mixed or 32-true"
                )
        if self.trainer.get("max_time") is not None:
            seconds("trainer.max_time", self.trainer["max_time"])
        if self.trainer.get("gradient_clip_val") is not None:
            positive("trainer.gradient_clip_val", self.trainer["gradient_clip_val"])
        if self.trainer.get("precision") == "16-mixed" and self.optimizer.get("fused") is True:
            raise UserError(
                "trainer.precision=16-mixed scales gradients, which a fused optimizer hides: set optimizer.fused=false"
            )


def _flat(name: str, component: Any) -> Iterator[tuple[str, Any]]:
    """Yield every argument of a component with its dotted name."""
    if isinstance(component, dict):
        for key, value in component.items():
            yield from _flat(f"{name}.{key}", value)
    else:
        yield name, component
