"""Plain `nn.Module`s: no noise, no Lightning, no Hydra. Those that denoise are called `net(noisy, time, label)`."""

from artdiff.networks.conv import ConvDiffusionModel
from artdiff.networks.unet import UNet
from artdiff.networks.vit import ViT

__all__ = ["ConvDiffusionModel", "UNet", "ViT"]
