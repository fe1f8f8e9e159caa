"""The trainer and what happens around it."""
