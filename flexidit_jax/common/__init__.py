"""Words every other floor shares. Knows nothing of models or diffusion."""
