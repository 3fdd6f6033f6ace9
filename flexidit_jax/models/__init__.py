"""Floor 1: networks on arrays. Knows nothing of noise levels, losses or solvers."""
