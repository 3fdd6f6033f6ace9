"""One training step, its state, and where the state lives."""
