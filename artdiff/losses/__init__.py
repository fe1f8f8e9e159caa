"""The hybrid loss: pixel MSE plus the MSE between VGG16 features (Johnson et al., arXiv:1603.08155).

A loss is any object that can be called as `loss(output, target, weight=…, gate=…) -> Losses`.
"""

from artdiff.diffusion.objective import Loss, Losses, Target
from artdiff.losses.hybrid import HybridLoss
from artdiff.losses.perceptual import PerceptualLoss

__all__ = ["HybridLoss", "Loss", "Losses", "PerceptualLoss", "Target"]
