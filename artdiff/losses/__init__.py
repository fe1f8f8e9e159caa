"""The hybrid loss: pixel MSE plus the MSE between VGG16 features (Johnson et al., arXiv:1603.08155)."""

from artdiff.losses.hybrid import HybridLoss, Terms
from artdiff.losses.perceptual import PerceptualLoss

__all__ = ["HybridLoss", "PerceptualLoss", "Terms"]
