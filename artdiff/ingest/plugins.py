"""Formats that Pillow reads with plugins of the extra `photos`: HEIC, which phones write, and JPEG XL."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec

from artdiff.ingest import signs

MODULES = {"HEIC": "pillow_heif", "JPEG XL": "pillow_jxl"}
"""Name of the format as in `signs.PICTURES` → the module that reads it."""


@cache
def add(name: str | None) -> bool:
    """Register the plugin for the format `name`, which takes up to 30 ms → False if none is installed."""
    if name not in MODULES:
        return False
    try:
        module = import_module(MODULES[name])
    except ImportError:
        return False
    if name == "HEIC":
        module.register_heif_opener()
    return True


def may_read_now(reason: str) -> bool:
    """Whether a file that was rejected for this reason may be readable with a plugin that is installed now."""
    return any(
        reason.startswith(f"{name}, {signs.CONVERTED}") and find_spec(module) is not None
        for name, module in MODULES.items()
    )
