"""The hybrid loss: pixel MSE plus the MSE between VGG16 features (Johnson et al., arXiv:1603.08155).

Both losses are plain objects and no `nn.Module`s on purpose: VGG16 is frozen, and must stay out of checkpoints,
parameter counts and averaged copies of the model. They follow the pictures to whatever device these are on.
"""

import hashlib
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import VGG16_Weights, vgg16

from artdiff import UserError
from artdiff.compiled import Steady
from artdiff.losses.features import KeptFeatures, Unchanging

log = logging.getLogger(__name__)

FALLBACK = """
+-----------------------------------------------------------------------------------------+
| WARNING: VGG16's ImageNet weights cannot be had: the perceptual loss compares RANDOM    |
| features. Its values do not compare with those of runs on the real weights. To mend it: |
| loss.perceptual.weights=FILE (VGG16 as .pth or .safetensors), or a network connection.  |
+-----------------------------------------------------------------------------------------+"""


def _cuts() -> dict[str, int]:
    cuts, entries = {}, 0
    for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for convolution in range(1, convolutions + 1):
            entries += 2  # convolution, ReLU
            cuts[f"relu{block}_{convolution}"] = entries
        entries += 1  # pool
    return cuts


LAYERS = _cuts()
"""Where VGG16 may be cut, and how many entries of its `features` lie up to there: relu1_1 is 2, relu3_3 is 16."""


CPU_PIXELS = 8 * 128 * 128
"""Pixels that go through VGG16 at once on a CPU, whose caches then hold the activations.

Measured at 128 px in batches of 32 (two AVX-512 cores, bf16): a training step takes 5 to 20 % less time.
"""


DOWNLOAD_SECONDS = 20
"""How long a download may stay silent."""


class PerceptualLoss:
    """MSE between the VGG16 features of two ImageNet-normalised pictures.

    Args:
        weights: `imagenet` (torchvision's, downloaded once), a `.pth` or `.safetensors` file of VGG16 or of its
            first layers, `random` (He-initialised from a fixed seed), or `auto`: `imagenet`, else `random` with a
            warning.
        layer: where VGG16 is cut, `relu1_1` to `relu5_3`.
        relative: divide by the mean square of the targets' features, so that what a weight of this term means does not
            depend on the weights of VGG16: 0 is alike, 1 as far as from no features at all.
        keep: gigabytes that the features of unchanging targets may take, so that they are computed once; 0 computes
            them each time.

    `source` says which weights were taken. Raises `UserError` where the weights cannot be had.
    """

    def __init__(self, *, weights: str, layer: str, relative: bool, keep: float) -> None:
        if layer not in LAYERS:
            raise UserError(f"loss.perceptual.layer must be one of {', '.join(LAYERS)}, got {layer}")
        self.features = vgg16(weights=None, init_weights=False).features[: LAYERS[layer]]
        self.layer = layer
        self.relative = relative
        self.keep = keep
        self.kept: KeptFeatures | None = None
        self.source = self._load(weights)
        self.fallback = weights == "auto" and self.source != "imagenet"
        self.features.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.run = Steady(self.features)
        self.warn_of_fallback()

    def __call__(self, image: Tensor, target: Tensor, row: Tensor | None = None) -> Tensor:
        """ImageNet-normalised `image` and `target`, both (B,3,H,W) → of each picture, (B,).

        Gradients reach `image` alone. `row`, int64 (B,) on the CPU, says which of the pictures that `keep_targets` was
        told of the targets are.
        """
        if self.features[0].weight.device != image.device:
            self.features.to(image.device)
        with torch.no_grad():
            wanted = self._wanted(target, row)
        at_once = _at_once(image)
        parts = list(zip(image.split(at_once), wanted.split(at_once), strict=True))
        errors = torch.cat(
            [_means(F.mse_loss(self.run(some), theirs, reduction="none").float()) for some, theirs in parts]
        )
        if not self.relative:
            return errors
        return errors / torch.cat([_means(theirs.float().square()) for _, theirs in parts]).mean()

    def keep_targets(self, pictures: Unchanging) -> None:
        """From now on compute the features of a target that is one of `pictures` once."""
        if self.keep > 0:
            weights = b"".join(weight.cpu().numpy().tobytes() for weight in self.features.parameters())
            recipe = f"VGG16 {self.layer} {hashlib.sha256(weights).hexdigest()}"
            self.kept = KeptFeatures(pictures, recipe, self.keep)

    def _wanted(self, target: Tensor, row: Tensor | None) -> Tensor:
        """The features of targets (B,3,H,W): kept ones where there are."""

        def compute(some: Tensor) -> Tensor:
            return torch.cat([self.run(part) for part in some.split(_at_once(some))])

        if self.kept is None or row is None:
            return compute(target)
        return self.kept(row, lambda places: compute(target if len(places) == len(target) else target[places]))

    def warn_of_fallback(self) -> None:
        """Say, so that it cannot be missed, if `auto` had to fall back to random features."""
        if self.fallback:
            log.warning(FALLBACK)

    def _load(self, weights: str) -> str:
        if weights == "random":
            _initialise(self.features)
            return "random"
        if weights in ("imagenet", "auto"):
            try:
                with _no_longer_than(DOWNLOAD_SECONDS):
                    found = VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
            except Exception as error:  # no network, no disk, an incomplete download, a damaged file in the cache
                reason = " ".join(str(error).split())
                if weights == "imagenet":
                    raise UserError(
                        f"VGG16's ImageNet weights cannot be had ({reason}); set loss.perceptual.weights=FILE (VGG16 "
                        f"as .pth or .safetensors) or =random, or put the file "
                        f"{VGG16_Weights.IMAGENET1K_V1.url.rpartition('/')[2]} into {torch.hub.get_dir()}/checkpoints"
                    ) from None
                log.info("VGG16's ImageNet weights cannot be had (%s)", reason)
                _initialise(self.features)
                return "random, since ImageNet's could not be had"
            _copy(found, self.features, self.layer, "imagenet")
            return "imagenet"
        path = Path(weights).expanduser()
        found = _read(path)
        _copy(found, self.features, self.layer, str(path))
        return f"{path.name} (SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"


def _at_once(image: Tensor) -> int:
    """How many pictures (B,3,H,W) go through VGG16 together."""
    return max(1, CPU_PIXELS // image[0, 0].numel()) if image.device.type == "cpu" else len(image)


def _means(errors: Tensor) -> Tensor:
    """(B,…) → the mean of each picture, (B,)."""
    return errors.flatten(1).mean(dim=1)


@contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    """Give up on a connection that stays silent for so long; torch's download would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _initialise(features: nn.Sequential) -> None:
    """He initialisation (arXiv:1502.01852) from a fixed seed, so that losses of two runs compare."""
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
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise whatever a strange file makes of them
        reason = " ".join(f"{type(error).__name__} {error}".split())[:120]
        raise UserError(f"loss.perceptual.weights={path} cannot be read as weights: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"loss.perceptual.weights={path} holds no state_dict of tensors")
    return state


def _copy(found: dict[str, Tensor], features: nn.Sequential, layer: str, name: str) -> None:
    """Copy what `features` needs out of a VGG16 state_dict, with or without the prefix `features.`."""
    found = {key.removeprefix("features."): value for key, value in found.items()}
    wanted = features.state_dict()
    missing = [key for key in wanted if key not in found]
    if missing:
        has = [name for name, entries in LAYERS.items() if f"{entries - 2}.weight" in found]
        remedy = f"it reaches to {has[-1]}: set loss.perceptual.layer={has[-1]}" if has else "it holds no VGG16 layers"
        raise UserError(f"loss.perceptual.weights={name} has no {missing[0]}, needed for {layer}; {remedy}")
    for key, value in wanted.items():
        if found[key].shape != value.shape:
            raise UserError(
                f"loss.perceptual.weights={name} is not VGG16: "
                f"expected {key} of shape {tuple(value.shape)}, got {tuple(found[key].shape)}"
            )
    features.load_state_dict({key: found[key] for key in wanted})
