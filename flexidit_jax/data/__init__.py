"""Datasets, one a file: `Dataset(...)` with `shape`, `source()` and `held_out()`.

A source is random access (`len`, `[i]`) and yields `{"x": [F, H, W, C] float32 in [-1, 1], ...}`, the
other keys being what conditioners read; of captions a training record has `texts`, one or several, and a held-out one
`text`. A dataset may have `augment(record, rng)`, applied in training; it mirrors half of the images, and leaves one
of several captions as `text`. Where records are of several sizes, `shapes` are all of them, `shape` the one that a
model's latent is for, and sources have `bins` [len], the number of the shape of each record. One whose files lie
anywhere may have `fingerprint(held_out)`, by which encoding and a resumed run tell its images from others; `names`,
which become labels; and `summary()`, what a job says of it. Records of an encoded dataset (`data.latents`) hold `mean`
and `std` in place of `x`; its `check_origin` refuses those of another dataset or codec.
"""
