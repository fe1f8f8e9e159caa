"""The folder of an exported model: weights that load without running code, and settings as plain text.

`model.safetensors` holds what painting needs: EMA weights, codec and refiners, but no optimizer. `config.json` holds
the settings that build the model, how pictures were made square, and the settings that it paints best with. It has no
paths, and no settings of training.
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
"""The settings of the data that are exported."""

WITHOUT_TRAINING: dict[str, Any] = {"optimizer": {}, "scheduler": None}
"""Settings of the task that only training needs, with the values that replace them."""

AVERAGED, TRAINED, TEACHER = "ema.", "network.", "teacher."
"""Prefixes of weight names. If there are EMA weights, the trained weights and a teacher's are not exported: the EMA
weights take their place."""


def save_to(
    folder: Path, content: Mapping[str, Any], state: Mapping[str, Tensor], stored: StoredSampling | None
) -> None:
    """Write a model to an existing folder. Raises `UserError`.

    Args:
        folder: where.
        content: the checkpoint's settings and metadata (`checkpoints.described`).
        state: weights by name.
        stored: the settings that its run paints best with, if they are known.
    """
    averages = any(name.startswith(AVERAGED) for name in state)
    used = {name: weight for name, weight in state.items() if not (averages and name.startswith((TRAINED, TEACHER)))}
    whole = {name: weight.detach().cpu().contiguous().clone() for name, weight in used.items()}
    write(folder / MODEL, save(whole, metadata={"format": "pt"}))
    square = {name: content["datamodule_hyper_parameters"][name] for name in SQUARE}
    told = {"artdiff": content["artdiff"], "hyper_parameters": {**content["hyper_parameters"], **WITHOUT_TRAINING},
            "datamodule_hyper_parameters": square, "data": content["data"]}  # fmt: skip
    if stored is not None:
        told["painting"] = {"settings": stored.settings, "chosen_by": stored.chosen_by}
    write(folder / SETTINGS, json.dumps(told, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read an exported model in the form of a checkpoint's content. Raises `UserError` if its settings are missing.

    Other problems raise the exceptions of the readers.
    """
    content, state = _settings(path), load_file(path)
    averages = {name: weight for name, weight in state.items() if name.startswith(AVERAGED)}
    for prefix in (TRAINED, *([TEACHER] if content["artdiff"].get("task") == "Distillation" else [])):
        state |= {prefix + name.removeprefix(AVERAGED): weight for name, weight in averages.items()}
    return {**content, "state_dict": state}


def stored_sampling(path: Path) -> StoredSampling | None:
    """The settings that the model of this file paints best with; None if they were not known. Raises `UserError`."""
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
