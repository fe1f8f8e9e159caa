"""From noise to picture and back."""
