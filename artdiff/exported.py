"""The folder of a model that is given away: weights that load without running anything, and settings as plain text.

`model.safetensors` holds what paints: averaged weights, codec and refiners, but no optimizer. `config.json` holds the
settings that build it, how pictures were made square, and how it paints best; no paths, nothing of how it was trained.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from artdiff import UserError, runs
from artdiff.files import write
from artdiff.runs import StoredSampling

MODEL = runs.EXPORTED
SETTINGS = runs.EXPORTED_SETTINGS
SUFFIX = ".safetensors"

SQUARE = ("image_size", "fit", "background")
"""What is kept of the data's settings."""

UNTRAINED: dict[str, Any] = {"optimizer": {}, "scheduler": None}
"""Settings of the task that say how it was trained."""

AVERAGED, TRAINED, TEACHER = "ema.", "network.", "teacher."
"""How the names of weights begin. A painter's trained weights, and those it learned from, are left out; its averaged
ones stand in for them."""


def save_to(
    folder: Path, content: Mapping[str, Any], state: Mapping[str, Tensor], stored: StoredSampling | None
) -> None:
    """Write a model to a folder that is there. Raises `UserError`.

    Args:
        folder: where.
        content: what a checkpoint says of it (`checkpoints.described`).
        state: weights by name.
        stored: how its run paints best, if that is known.
    """
    averages = any(name.startswith(AVERAGED) for name in state)
    used = {name: weight for name, weight in state.items() if not (averages and name.startswith((TRAINED, TEACHER)))}
    whole = {name: weight.detach().cpu().contiguous().clone() for name, weight in used.items()}
    write(folder / MODEL, save(whole, metadata={"format": "pt"}))
    square = {name: content["datamodule_hyper_parameters"][name] for name in SQUARE}
    told = {"artdiff": content["artdiff"], "hyper_parameters": {**content["hyper_parameters"], **UNTRAINED},
            "datamodule_hyper_parameters": square, "data": content["data"]}  # fmt: skip
    if stored is not None:
        told["painting"] = {"settings": stored.settings, "chosen_by": stored.chosen_by}
    write(folder / SETTINGS, json.dumps(told, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """What a checkpoint with the weights of this file would hold. Raises `UserError` if its settings are not there.

    What else may be wrong raises whatever the readers raise.
    """
    content, state = _settings(path), load_file(path)
    averages = {name: weight for name, weight in state.items() if name.startswith(AVERAGED)}
    for prefix in (TRAINED, *([TEACHER] if content["artdiff"].get("task") == "Distillation" else [])):
        state |= {prefix + name.removeprefix(AVERAGED): weight for name, weight in averages.items()}
    return {**content, "state_dict": state}


def stored_sampling(path: Path) -> StoredSampling | None:
    """How the model of this file paints best; None if that was not known. Raises `UserError`."""
    told = _settings(path).get("painting")
    return None if told is None else StoredSampling(path.name, "", "averaged", told["settings"], told["chosen_by"])


def _settings(path: Path) -> dict[str, Any]:
    settings = path.with_name(SETTINGS)
    if not settings.is_file():
        raise UserError(f"{path} needs {SETTINGS} beside it: give the folder that artdiff.export has written")
    content = json.loads(settings.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or "hyper_parameters" not in content:
        raise UserError(f"{settings} is damaged: it does not describe a model")
    return content
