"""The device to compute on, its faster precision, and its batch sizes."""

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from artdiff import UserError


def device(accelerator: str) -> torch.device:
    """The device for `auto` (the GPU if there is one), `cpu` or `gpu`. Raises `UserError` if there is no such GPU."""
    found = torch.accelerator.current_accelerator(check_available=True) if accelerator != "cpu" else None
    if found is None and accelerator == "gpu":
        raise UserError("there is no GPU that torch can use: set auto or cpu instead of gpu")
    return found or torch.device("cpu")


def precision(on: torch.device) -> str:
    """Lightning's name of the faster precision: `bf16-mixed` if that is faster than `32-true`."""
    if on.type == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    elif on.type == "cpu":
        has = torch.cpu.get_capabilities()
        native = any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))
        faster = native and _faster_in_bf16()
    else:
        faster = False
    return "bf16-mixed" if faster else "32-true"


@cache
def _faster_in_bf16() -> bool:
    """True if a matrix product is faster in bf16 than in float32 on this CPU, which its instruction set does not tell.

    Measured: twice as fast on an AMD EPYC with AVX-512 bf16, half as fast on an Intel Xeon with AVX-512 bf16 but
    without AMX. The minimum of six times tells these apart on a busy machine too. Takes 20 ms.
    """
    least = dict[torch.dtype, float]()
    parts = {dtype: torch.ones(512, 512, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    for _ in range(6):  # the first is a warm-up, and never the fastest
        for dtype, part in parts.items():
            begun = time.perf_counter()
            part @ part
            least[dtype] = min(least.get(dtype, float("inf")), time.perf_counter() - begun)
    return least[torch.bfloat16] < least[torch.float32]


def pictures_at_once(on: torch.device, height: int, width: int) -> int:
    """Batch size for pictures or latents of this size; always the same on the same machine.

    On a GPU, 32 KiB of its memory per pixel, several times what the networks here need. On a CPU, a larger batch would
    be somewhat faster per picture, but slower for a few pictures, which are padded to a full batch.
    """
    if on.type == "cuda":
        pixels = torch.cuda.get_device_properties(on).total_memory // 2**15
        return min(256, max(1, pixels // (height * width)))
    return max(1, 16 * 32 * 32 // (height * width))


def in_groups(compute: Callable[..., Tensor], *parts: Tensor, together: int) -> Tensor:
    """Call `compute(*parts)` on parts (B,…) in groups of exactly `together`; the last group is padded by repetition.

    Matrix products of another size round differently. So with a variable size, a picture would depend on its batch.
    """
    count = len(parts[0])
    padded = torch.arange(-(-count // together) * together, device=parts[0].device).clamp(max=count - 1)
    groups = (part[padded].split(together) for part in parts)
    return torch.cat([compute(*group) for group in zip(*groups, strict=True)])[:count]


def describe(on: torch.device) -> str:
    """The device's name for the log."""
    if on.type == "cuda":
        return torch.cuda.get_device_name(on)
    return f"{on.type.upper()}, {torch.get_num_threads()} threads" if on.type == "cpu" else on.type.upper()
