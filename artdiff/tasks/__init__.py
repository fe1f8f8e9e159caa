"""Training tasks: the LightningModules that compute the losses and log them."""

from artdiff.tasks.autoencoding import Autoencoding
from artdiff.tasks.distillation import Distillation
from artdiff.tasks.generation import Generation
from artdiff.tasks.reconstruction import Reconstruction
from artdiff.tasks.refinement import Refinement

__all__ = ["Autoencoding", "Distillation", "Generation", "Reconstruction", "Refinement"]
