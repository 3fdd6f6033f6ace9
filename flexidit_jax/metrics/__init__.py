"""Floor 3: how good samples are."""
