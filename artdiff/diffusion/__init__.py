"""Diffusion: the path from noise to picture, what training asks of a denoiser on it, and the ways to follow it."""
