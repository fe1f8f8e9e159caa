"""What is trained: LightningModules that take a step and log it."""

from artdiff.tasks.generation import Generation
from artdiff.tasks.reconstruction import Reconstruction

__all__ = ["Generation", "Reconstruction"]
