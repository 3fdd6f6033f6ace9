"""Networks on arrays. Knows nothing of noise levels, losses or solvers."""
