"""Codecs, one a file: `Codec(...)` with `latent_shape`, `data_shape`, `check`, `fingerprint`, `encode` and
`decode`.

`check` raises a UserError when a file that coding needs is missing or does not fit; jobs call it before long work.
`encode(x, key)` draws from the posterior where there is one. Such a codec also has its two halves: `moments(x)`,
the posterior's mean and standard deviation, unscaled, which `--mode=encode` keeps on disk; and
`draw(mean, std, key)`, latents, scaled.
"""
