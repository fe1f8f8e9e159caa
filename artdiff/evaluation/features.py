"""Feature networks, which turn pictures into vectors to compare. Each score names the network that computed it.

- `random_vgg16`: the first layers of VGG16 with random weights from a fixed seed. It needs no download and always runs.
- `vgg16`: the same layers with ImageNet weights, or those of a file. If the file ends before relu3_3, up to relu3_1.
- `inception`: the InceptionV3 of the original FID (arXiv:1706.08500); `clip`: CLIP ViT-B/32; `dinov2`: DINOv2
  ViT-B/14. These come from torch-fidelity (extra `scores`). It downloads their weights once, or reads a file.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artdiff import UserError, hardware, images
from artdiff.files import user_path
from artdiff.losses.weights import content, described

LAYER, SHORT_LAYER = "relu3_3", "relu3_1"
"""The last layer of VGG16 that is used, and the last one if the weights file has fewer layers."""

SEEN_AT = 128
"""Smaller pictures are enlarged for VGG16, twice at most, up to this size: its first layers see only a few pixels."""


class FeatureNetwork(NamedTuple):
    """A network with its `name` in results, the `source` of its weights, and `run`, uint8 (B,3,H,W) → float (B,D).

    The scales of random features differ by orders of magnitude. So those of `random_vgg16` are standardised before sets
    are compared: each has mean 0 and standard deviation 1 over the real pictures.
    """

    name: str
    source: str
    run: Callable[[Tensor], Tensor]

    def seen(self, parts: Iterable[Tensor], device: torch.device) -> Tensor:
        """The features of batches of pictures uint8 (B,3,H,W): float (N,D), on the CPU."""
        with torch.inference_mode():
            return torch.cat([self.run(part.to(device)).cpu() for part in parts])

    def standardiser(self, real: Tensor) -> Callable[[Tensor], Tensor]:
        """A function to apply to features (N,D) before they are compared, given the features of real pictures."""
        if self.name != "random_vgg16":
            return lambda features: features
        mean, spread = real.mean(0), real.std(0)
        weight = torch.where(spread > 0.01 * spread.median(), 1 / spread, 0)  # drop constant features
        return lambda features: (features - mean) * weight


def load(name: str, weights: str | None, device: torch.device) -> FeatureNetwork:
    """Load the network `name` with its usual weights or a file of them. Raises `UserError` if they are unavailable."""
    if name in ("random_vgg16", "vgg16"):
        if name == "random_vgg16" and weights is not None:
            raise UserError("feature_weights.random_vgg16 cannot be set: its weights are random; take features=[vgg16]")
        return _vgg16(name, weights, device)
    return _from_fidelity(name, weights, device)


def _vgg16(name: str, weights: str | None, device: torch.device) -> FeatureNetwork:
    asked, setting = "random" if name == "random_vgg16" else weights or "imagenet", f"feature_weights.{name}"
    layer = LAYER
    try:
        found, source = vgg16_layers(asked, layer, setting=setting)
    except UserError:
        if weights is None:
            raise
        layer = SHORT_LAYER  # the file may hold only the first layers
        found, source = vgg16_layers(asked, layer, setting=setting)
    network, source = found.to(device), f"{source} up to {layer}"
    in_bf16 = hardware.precision(device) == "bf16-mixed"

    def run(image: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16):
            enlarged = max(1.0, min(2.0, SEEN_AT / max(image.shape[-2:])))
            return pooled(network, image, enlarged=enlarged)

    return FeatureNetwork(name, f"{source} in bfloat16" if in_bf16 else source, run)


def vgg16_layers(weights: str, layer: str, *, setting: str) -> tuple[nn.Sequential, str]:
    """VGG16 up to `layer`, and the source of its weights. Raises `UserError` that names the `setting`."""
    from artdiff.losses.perceptual import PerceptualLoss

    try:
        loss = PerceptualLoss(weights=weights, layer=layer, relative=False, keep=0)
    except UserError as error:
        raise UserError(str(error).replace("loss.perceptual.weights", setting)) from None
    return loss.features, loss.source


def pooled(network: nn.Sequential, image: Tensor, *, enlarged: float) -> Tensor:
    """The mean and standard deviation over positions of every ReLU output of VGG16: uint8 (B,3,H,W) → float32 (B,D).

    Pictures are enlarged by the factor `enlarged` first. On a CPU they are computed in small batches.
    """
    from artdiff.losses.perceptual import at_once

    return torch.cat([_pooled(network, part, enlarged) for part in image.split(at_once(image))])


def _pooled(network: nn.Sequential, image: Tensor, enlarged: float) -> Tensor:
    x = images.signed_to_imagenet(images.to_signed(image))
    if enlarged != 1:
        x = F.interpolate(x, scale_factor=enlarged, mode="bilinear", align_corners=False)
    found = list[Tensor]()
    for layer in network:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            found += _mean_and_spread(x)
    return torch.cat(found, dim=1)


def _mean_and_spread(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each channel of (B,C,H,W), float32 (B,C).

    Computed from the mean of the squares, in half the time of `Tensor.std`, which took longer than the convolutions in
    bfloat16.
    """
    values = x.permute(0, 2, 3, 1).flatten(1, 2).float()
    count = values.shape[1]
    mean, square = values.mean(1), values.square().mean(1)
    return mean, ((square - mean.square()).clamp(min=0) * count / (count - 1)).sqrt()


FIDELITY = {"inception": ("inception-v3-compat", "2048"), "clip": ("clip-vit-b-32", "clip"),
            "dinov2": ("dinov2-vit-b-14", "dinov2")}  # fmt: skip
"""The feature extractor of torch-fidelity, and the layer that is used."""

DINOV2_SIDE = 224
INSTALL = "pip install 'artdiff[scores]'"


def _from_fidelity(name: str, weights: str | None, device: torch.device) -> FeatureNetwork:
    try:
        from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY as KNOWN
    except ImportError:
        raise UserError(f"features={name} needs torch-fidelity: {INSTALL}") from None
    kind, layer = FIDELITY[name]
    path = None if weights is None else user_path(weights)
    if path is not None and not path.is_file():
        raise UserError(f"feature_weights.{name}={weights} is no file")
    try:
        if path is not None and name == "inception":
            content(path)  # refuses anything but tensors: torch-fidelity would run a pickle's code
        if path is not None and name == "dinov2":
            return FeatureNetwork(name, described(path), _dinov2(path, device))
        network = KNOWN[kind](kind, [layer], feature_extractor_weights_path=None if path is None else str(path))
    except UserError:
        raise
    except Exception as error:  # such as no network, or a damaged file
        reason = " ".join(f"{type(error).__name__} {error}".split())[:150]
        raise UserError(
            f"the weights of {name} are not available ({reason}); set feature_weights.{name}=FILE"
        ) from None
    network = network.to(device)
    source = "torch-fidelity" if path is None else described(path)
    return FeatureNetwork(name, source, lambda image: network(image)[0].float())


def _dinov2(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """DINOv2 with the weights of a file, with the names of its authors or of timm; torch-fidelity cannot read a file.

    Pictures are prepared as in torch-fidelity. timm resamples the position embeddings with antialiasing, so features
    differ slightly from those of downloaded weights.
    """
    try:
        import timm
        from timm.models.vision_transformer import VisionTransformer
        from timm.models.vision_transformer import checkpoint_filter_fn as renamed
    except ImportError:
        raise UserError(f"feature_weights.dinov2 needs timm: {INSTALL}") from None
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as resized

    network = timm.create_model("vit_base_patch14_dinov2", num_classes=0, img_size=DINOV2_SIDE)
    assert isinstance(network, VisionTransformer)
    network.load_state_dict(renamed(content(path), network))
    network = network.eval().requires_grad_(False).to(device)
    size = (DINOV2_SIDE, DINOV2_SIDE)
    return lambda image: network(images.signed_to_imagenet(resized(images.to_signed(image), size, align_corners=False)))
