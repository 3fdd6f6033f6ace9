"""What a training run shows of itself."""
