"""Published files to plain DiT parameters and back."""
