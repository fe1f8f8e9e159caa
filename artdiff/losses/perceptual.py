"""The perceptual loss: the MSE between VGG16 features of output and target.

Losses are plain objects and not modules: VGG16 is frozen and must stay out of checkpoints, parameter counts and EMA
weights. It moves to the device of the pictures.
"""

import hashlib
import logging

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import vgg16

from artdiff import UserError
from artdiff.compiled import FixedBatch
from artdiff.diffusion.objective import Target
from artdiff.losses import weights as sources
from artdiff.losses.weights import LAYERS
from artdiff.picture_cache import PictureCache
from artdiff.store import Contents

log = logging.getLogger(__name__)

FALLBACK = """
+-----------------------------------------------------------------------------------------+
| WARNING: VGG16's ImageNet weights are not available: the perceptual loss compares       |
| RANDOM features. Its values do not compare with those of runs on the real weights. Set  |
| loss.perceptual.weights=FILE (VGG16 as .pth or .safetensors), or connect to a network.  |
+-----------------------------------------------------------------------------------------+"""

CPU_PIXELS = 8 * 128 * 128
"""Largest batch of VGG16 on a CPU, in pixels, so that the activations fit into its caches.

Measured at 128 px in batches of 32 (two AVX-512 cores, bf16): a training step takes 5 to 20 % less time.
"""


class PerceptualLoss:
    """MSE between the VGG16 features of two ImageNet-normalised pictures.

    Args:
        weights: `imagenet` (torchvision's, downloaded once), a `.pth` or `.safetensors` file of VGG16 or of its first
            layers, `random` (He initialisation from a fixed seed), or `auto`: `imagenet`, else `random` with a warning.
        layer: the layer of VGG16 whose output is compared, `relu1_1` to `relu5_3`.
        relative: divide by the mean square of the target features, so that the scale of VGG16's weights does not
            matter: 0 is equal, 1 is as far as features that are all zero.
        keep: gigabytes that cached target features may take; 0 caches nothing.

    `source` says which weights were loaded. Raises `UserError` if they are not available.
    """

    def __init__(self, *, weights: str, layer: str, relative: bool, keep: float) -> None:
        if layer not in LAYERS:
            raise UserError(f"loss.perceptual.layer must be one of {', '.join(LAYERS)}, got {layer}")
        self.features = vgg16(weights=None, init_weights=False).features[: LAYERS[layer]]
        self.layer = layer
        self.relative = relative
        self.keep = keep
        self.cache: PictureCache | None = None
        self.source = sources.load(self.features, weights, layer=layer)
        self.fallback = weights == "auto" and self.source != "imagenet"
        self.features.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.run = FixedBatch(self.features)
        self.warn_of_fallback()

    def __call__(self, output: Tensor, target: Target) -> Tensor:
        """The loss of each picture, (B,), for `output` (B,3,H,W). Gradients reach the output only."""
        if self.features[0].weight.device != output.device:
            self.features.to(output.device)
        with torch.no_grad():
            wanted = self._target_features(target)
        size = at_once(output)
        parts = list(zip(output.split(size), wanted.split(size), strict=True))
        errors = torch.cat(
            [picture_means(F.mse_loss(self.run(part), theirs, reduction="none").float()) for part, theirs in parts]
        )
        if not self.relative:
            return errors
        return errors / torch.cat([picture_means(theirs.float().square()) for _, theirs in parts]).mean()

    def cache_targets(self, contents: Contents) -> None:
        """Cache the target features of these pictures; `Target.index` then points into them."""
        if self.keep > 0:
            weights = b"".join(weight.cpu().numpy().tobytes() for weight in self.features.parameters())
            recipe = f"VGG16 {self.layer} {hashlib.sha256(weights).hexdigest()}"
            self.cache = PictureCache(contents, recipe, self.keep, room="features")

    def warn_of_fallback(self) -> None:
        """Warn, in a box, if `auto` had to fall back to random features."""
        if self.fallback:
            log.warning(FALLBACK)

    def _target_features(self, target: Target) -> Tensor:
        """VGG16 features of the target (B,C,H,W), cached if possible."""

        def compute(pictures: Tensor) -> Tensor:
            return torch.cat([self.run(part) for part in pictures.split(at_once(pictures))])

        image, index = target
        if self.cache is None or index is None:
            return compute(image)
        return self.cache(index, lambda places: compute(image if len(places) == len(image) else image[places]))


def picture_means(errors: Tensor) -> Tensor:
    """(B,…) → the mean of each picture, (B,)."""
    return errors.flatten(1).mean(dim=1)


def at_once(image: Tensor) -> int:
    """Batch size of VGG16 for pictures (B,3,H,W)."""
    return max(1, CPU_PIXELS // image[0, 0].numel()) if image.device.type == "cpu" else len(image)
