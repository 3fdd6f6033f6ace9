"""Floor 2: codecs, one a file: `Codec(...)` with `encode`, `decode` and `latent_shape`."""
