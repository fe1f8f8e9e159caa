"""Diffusion: the path from noise to picture, the training objective on it, and samplers that follow it."""
