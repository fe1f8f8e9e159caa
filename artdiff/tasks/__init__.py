"""What is trained: LightningModules that take a step and log it."""

from artdiff.tasks.autoencoding import Autoencoding
from artdiff.tasks.distillation import Distillation
from artdiff.tasks.generation import Generation
from artdiff.tasks.reconstruction import Reconstruction
from artdiff.tasks.refinement import Refinement

__all__ = ["Autoencoding", "Distillation", "Generation", "Reconstruction", "Refinement"]
