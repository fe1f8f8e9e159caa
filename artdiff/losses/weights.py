"""Load the weights of VGG16: torchvision's download, a file, or a fixed random initialisation."""

import hashlib
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import VGG16_Weights

from artdiff import UserError
from artdiff.files import has_home, user_path

log = logging.getLogger(__name__)

DOWNLOAD_SECONDS = 20
"""Timeout of a download that sends no data."""


def _layers() -> dict[str, int]:
    layers, entries = {}, 0
    for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for convolution in range(1, convolutions + 1):
            entries += 2  # convolution, ReLU
            layers[f"relu{block}_{convolution}"] = entries
        entries += 1  # pool
    return layers


LAYERS = _layers()
"""Layers of VGG16 by name, with the number of entries of its `features` up to them: relu1_1 is 2, relu3_3 is 16."""


def load(features: nn.Sequential, weights: str, *, layer: str) -> str:
    """Load weights into the first layers of VGG16, up to `layer`; returns a description of their source.

    `weights` is `imagenet`, `random`, `auto` (`imagenet`, or `random` if that is not available) or a file. Raises
    `UserError`.
    """
    if weights == "random":
        _initialise(features)
        return "random"
    if weights in ("imagenet", "auto"):
        try:
            _check_folder()
            with _timeout(DOWNLOAD_SECONDS):
                found = VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        except Exception as error:  # no network, no disk, an incomplete download, a damaged file in the cache
            reason = " ".join(str(error).split())
            if weights == "imagenet":
                file = VGG16_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
                put = (
                    f"put the file {file} into {torch.hub.get_dir()}/checkpoints" if _has_folder() else "set TORCH_HOME"
                )
                raise UserError(
                    f"VGG16's ImageNet weights are not available ({reason}); set loss.perceptual.weights=FILE (VGG16 "
                    f"as .pth or .safetensors) or =random, or {put}"
                ) from None
            log.info("VGG16's ImageNet weights are not available (%s)", reason)
            _initialise(features)
            return "random, since ImageNet's could not be had"
        _copy(found, features, layer, "imagenet")
        return "imagenet"
    path = user_path(weights)
    _copy(_read(path), features, layer, str(path))
    return described(path)


def content(path: Path) -> Any:
    """Load a file of weights (`.safetensors`, `.pth`) on the CPU. Runs no code. A damaged file may raise anything."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def described(path: Path) -> str:
    """The name of a file of weights, and its SHA-256."""
    return f"{path.name} (SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"


def _has_folder() -> bool:
    """Whether torch has a folder for downloads. Without a home it would create a folder named `~` here."""
    return has_home() or any(os.environ.get(name) for name in ("TORCH_HOME", "XDG_CACHE_HOME"))


def _check_folder() -> None:
    if not _has_folder():
        raise OSError("this user has no home folder to keep them in")


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Set a socket timeout: torch's download would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _initialise(features: nn.Sequential) -> None:
    """He initialisation (arXiv:1502.01852) from a fixed seed, so that the losses of two runs can be compared."""
    generator = torch.Generator().manual_seed(0)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(
            f"loss.perceptual.weights={path} is no file; expected imagenet, random, auto or a file (.pth, .safetensors)"
        )
    try:
        state = content(path)
    except Exception as error:  # a damaged file can make the readers raise anything
        reason = " ".join(f"{type(error).__name__} {error}".split())[:120]
        raise UserError(f"loss.perceptual.weights={path} cannot be read as weights: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"loss.perceptual.weights={path} holds no state_dict of tensors")
    return state


def _copy(found: dict[str, Tensor], features: nn.Sequential, layer: str, name: str) -> None:
    """Copy what `features` needs from a VGG16 state_dict, whose keys may have the prefix `features.`."""
    found = {key.removeprefix("features."): value for key, value in found.items()}
    wanted = features.state_dict()
    missing = [key for key in wanted if key not in found]
    if missing:
        has = [name for name, entries in LAYERS.items() if f"{entries - 2}.weight" in found]
        remedy = f"it ends at {has[-1]}: set loss.perceptual.layer={has[-1]}" if has else "it holds no VGG16 layers"
        raise UserError(f"loss.perceptual.weights={name} has no {missing[0]}, needed for {layer}; {remedy}")
    for key, value in wanted.items():
        if found[key].shape != value.shape:
            raise UserError(
                f"loss.perceptual.weights={name} is not VGG16: "
                f"expected {key} of shape {tuple(value.shape)}, got {tuple(found[key].shape)}"
            )
    features.load_state_dict({key: found[key] for key in wanted})
