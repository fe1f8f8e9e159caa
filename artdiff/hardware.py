"""The device to compute on, its fastest precision, and how much it computes at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from artdiff import UserError


def device(accelerator: str) -> torch.device:
    """The device for `auto` (the GPU if there is one), `cpu` or `gpu`. Raises `UserError` if there is no such GPU."""
    found = torch.accelerator.current_accelerator(check_available=True) if accelerator != "cpu" else None
    if found is None and accelerator == "gpu":
        raise UserError("there is no GPU that torch can use: ask for auto or cpu instead of gpu")
    return found or torch.device("cpu")


def precision(on: torch.device) -> str:
    """Lightning's name for the fastest safe precision: `bf16-mixed` if the device computes in bf16 natively."""
    if on.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif on.type == "cpu":
        has = torch.cpu.get_capabilities()
        native = any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))
    else:
        native = False
    return "bf16-mixed" if native else "32-true"


def pictures_at_once(on: torch.device, height: int, width: int) -> int:
    """How many pictures or latents of this size to compute at once; always the same on the same machine.

    On a GPU, 32 KiB of its memory per pixel, several times what the networks here need. On a CPU larger groups would be
    somewhat faster, but a few pictures, which are padded to a whole group, slower.
    """
    if on.type == "cuda":
        pixels = torch.cuda.get_device_properties(on).total_memory // 2**15
        return min(256, max(1, pixels // (height * width)))
    return max(1, 16 * 32 * 32 // (height * width))


def in_groups(compute: Callable[..., Tensor], *parts: Tensor, together: int) -> Tensor:
    """`compute(*parts)` of parts (B,…), always called with `together` pictures; the last one is repeated to fill up.

    Matrix products of other sizes round differently, so a picture would depend on how many are computed with it.
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
