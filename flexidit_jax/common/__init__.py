"""Floor 0: words every other floor shares. Knows nothing of models or diffusion."""
