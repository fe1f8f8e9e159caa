"""Networks: plain `nn.Module`s, without noise, Lightning or Hydra. Denoisers: `net(noisy, time, label) -> output`.

Input and ideal output of a denoiser have unit variance: `artdiff.diffusion.path.Preconditioned` scales both.
"""

from artdiff.networks.autoencoder import Autoencoder
from artdiff.networks.conv import ConvDiffusionModel
from artdiff.networks.unet import UNet
from artdiff.networks.vit import ViT

__all__ = ["Autoencoder", "ConvDiffusionModel", "UNet", "ViT"]
