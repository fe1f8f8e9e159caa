"""Accepts a configuration or says in one line what is wrong with it, before anything heavy is imported."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from artdiff import UserError
from artdiff.data.folder import scan

ACCELERATORS = ("auto", "cpu", "gpu")

MULTIPLE = 8
"""What a picture's sides must divide by: the networks halve them three times."""


def plain(cfg: DictConfig) -> dict[str, Any]:
    """`cfg` with every reference resolved, in plain Python values: no DictConfig goes past the door."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{' and '.join(missing)} must be given: {' '.join(f'{key}=…' for key in missing)}")
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def check_training(config: dict[str, Any], *, one_of_several: bool) -> None:
    """Raise `UserError` for what a training run could only stumble over later."""
    data, trainer, perceptual = config["data"], config["trainer"], config["loss"]["perceptual"]
    size = _whole("data.image_size", data["image_size"], least=16)
    if size % MULTIPLE:
        below = size - size % MULTIPLE
        raise UserError(
            f"data.image_size must be a multiple of {MULTIPLE}, got {size}; "
            f"set data.image_size={below} or {below + MULTIPLE}"
        )
    _whole("data.batch_size", data["batch_size"], least=1)
    _whole("seed", config["seed"], least=0)
    _whole("trainer.max_epochs", trainer["max_epochs"], least=-1)
    _whole("trainer.max_steps", trainer["max_steps"], least=-1)
    if not (isinstance(data["val_fraction"], float) and 0 < data["val_fraction"] < 1):
        raise UserError(f"data.val_fraction must lie between 0 and 1, got {data['val_fraction']}")
    if data["root"] is not None:
        scan(Path(data["root"]).expanduser())
    if perceptual and perceptual["weights"] not in ("auto", "imagenet", "random"):
        path = Path(str(perceptual["weights"])).expanduser()
        if not path.is_file():
            raise UserError(f"loss.perceptual.weights={path} is no file; expected auto, imagenet, random or a file")
    if one_of_several and trainer["devices"] != 1:
        raise UserError("a multirun trains one job after the other on one device: set trainer.devices=1")


def check_generation(config: dict[str, Any]) -> None:
    """Raise `UserError` for what painting could only stumble over later."""
    for name, choices in (
        ("size", ("train", "own")),
        ("ranges", (None, "published", "mended")),
        ("trainer", ACCELERATORS),
    ):
        if config[name] not in choices:
            expected = ", ".join("null" if choice is None else choice for choice in choices)
            raise UserError(f"{name} must be one of {expected}, got {config[name]}")
    _whole("sheet", config["sheet"], least=1)
    muse = config["muse"]
    if muse is not None and not Path(muse).expanduser().exists():
        raise UserError(f"muse={muse} does not exist; expected a picture or a folder of pictures")


def _whole(name: str, value: object, *, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name} must be a whole number of at least {least}, got {value}")
    return value
