"""From what a model is asked for to painted pictures."""
