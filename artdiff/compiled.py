"""torch.compile, if it pays. It is applied in place, so that weights keep their names, and for one batch size."""

import logging
import shutil
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

CALLS = 5_000
"""On a GPU, `auto` compiles from this many evaluations of a network on, since compiling takes tens of seconds."""


def mode(asked: str, on: torch.device, *, calls: float) -> str | None:
    """The torch.compile mode for a network with about `calls` evaluations ahead; None does not compile.

    `asked` is `auto`, `none` or a mode; `reduce-overhead` and `max-autotune` replay CUDA graphs.
    """
    if asked != "auto":
        return None if asked == "none" else asked
    if on.type != "cuda" or calls < CALLS:
        return None
    can_compile = torch.cuda.get_device_capability(on) >= (7, 0) and find_spec("triton") is not None
    if not (can_compile and any(shutil.which(compiler) for compiler in ("cc", "gcc", "clang"))):
        log.info("not compiling: this needs a GPU of compute capability 7.0 or more, triton and a C compiler")
        return None
    return "default"


def compile_in_place(module: nn.Module, how: str) -> None:
    """Compile `module(…)` at its first call; `module.forward(…)` stays as it is."""
    log.info("compiling %s: its first call may take minutes (compile=none skips this)", type(module).__name__)
    module.compile(mode=how, dynamic=False)


class FixedBatch:
    """Calls a module, compiled for batches of one size. Other sizes, and evaluation, run the uncompiled module.

    Each further batch size would be compiled separately, which takes minutes.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.count: int | None = None

    def compile_for(self, count: int, how: str) -> None:
        """From now on, compile for batches of `count` pictures."""
        self.count = count
        compile_in_place(self.module, how)

    def __call__(self, image: Tensor, *more: Any) -> Tensor:
        if self.count is None:
            return self.module(image, *more)
        is_compiled = len(image) == self.count and not torch.is_inference_mode_enabled()
        return self.module(image, *more) if is_compiled else self.module.forward(image, *more)
