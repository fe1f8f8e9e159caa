"""Plain `nn.Module`s: no noise, no Lightning, no Hydra."""

from artdiff.networks.conv import ConvDiffusionModel

__all__ = ["ConvDiffusionModel"]
