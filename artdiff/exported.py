"""The folder of a model that is given away: weights that load without running anything, and settings as plain text.

`model.safetensors` holds what paints: averaged weights, codec and refiners, but no optimizer. `config.json` holds the
settings that build it, as a checkpoint has them, and says how pictures were made square.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from artdiff import UserError, runs
from artdiff.files import write

MODEL = runs.EXPORTED
SETTINGS = runs.EXPORTED_SETTINGS
KEPT = ("artdiff", "hyper_parameters", "datamodule_hyper_parameters", "data")
"""What `config.json` has of a checkpoint. `data` says what it was trained on."""

AVERAGED, TRAINED = "ema.", "network."
"""How the names of weights begin. A painter's trained weights are left out; its averaged ones stand in for them."""


def save_to(folder: Path, content: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write a model to a folder that is there: settings (`KEPT`) and weights by name. Raises `UserError`."""
    averages = any(name.startswith(AVERAGED) for name in state)
    used = {name: weight for name, weight in state.items() if not (averages and name.startswith(TRAINED))}
    whole = {name: weight.detach().cpu().contiguous().clone() for name, weight in used.items()}
    write(folder / MODEL, save(whole, metadata={"format": "pt"}))
    write(folder / SETTINGS, json.dumps({name: content[name] for name in KEPT if name in content}, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """What a checkpoint with the weights of this file would hold. Raises `UserError` if its settings are not there.

    What else may be wrong raises whatever the readers raise.
    """
    settings = path.with_name(SETTINGS)
    if not settings.is_file():
        raise UserError(f"{path} needs {SETTINGS} beside it: give the folder that artdiff.export has written")
    content = json.loads(settings.read_text(encoding="utf-8"))
    state = load_file(path)
    if any(name.startswith(AVERAGED) for name in state):
        state |= {TRAINED + name.removeprefix(AVERAGED): weight for name, weight in state.items()
                  if name.startswith(AVERAGED)}  # fmt: skip
    return {**content, "state_dict": state}
