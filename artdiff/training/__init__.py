"""A training run: the trainer, its callbacks, and what it reports."""
