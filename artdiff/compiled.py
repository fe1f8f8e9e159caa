"""torch.compile where it pays: in place, so that the names of weights stay, and for one size of batch."""

import logging
import shutil
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

CALLS = 5_000
"""Calls of a network from which on `auto` compiles it on a GPU: some tens of seconds are to be won back."""


def mode(asked: str, on: torch.device, *, calls: float) -> str | None:
    """The mode of torch.compile for a network that is to be called so often, or None to leave it as it is.

    `asked` is `auto`, `none` or a mode; `reduce-overhead` and `max-autotune` replay CUDA graphs.
    """
    if asked != "auto":
        return None if asked == "none" else asked
    if on.type != "cuda" or calls < CALLS:
        return None
    is_able = torch.cuda.get_device_capability(on) >= (7, 0) and find_spec("triton") is not None
    if not (is_able and any(shutil.which(compiler) for compiler in ("cc", "gcc", "clang"))):
        log.info("nothing is compiled: that needs a GPU of compute capability 7.0 or more, triton and a C compiler")
        return None
    return "default"


def compile_in_place(module: nn.Module, how: str) -> None:
    """Make `module(…)` compiled from its first call on; `module.forward(…)` stays as it is."""
    log.info("compiling %s: its first call may take minutes (compile=none starts at once)", type(module).__name__)
    module.compile(mode=how, dynamic=False)


class Steady:
    """Calls `module` as it was compiled if the batch is as large as those of training, and it trains; else as it is.

    Every other size of batch, and evaluation, would be compiled anew, for minutes.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.count: int | None = None

    def compile_for(self, count: int, how: str) -> None:
        """From now on, compile for batches of `count` pictures."""
        self.count = count
        compile_in_place(self.module, how)

    def __call__(self, image: Tensor, *more: Any) -> Tensor:
        is_usual = len(image) == self.count and not torch.is_inference_mode_enabled()
        return self.module(image, *more) if is_usual else self.module.forward(image, *more)
