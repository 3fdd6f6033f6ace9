"""Floor 2: published files to plain DiT parameters and back."""
