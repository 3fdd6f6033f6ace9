"""Floor 3: one training step, its state, and where the state lives."""
