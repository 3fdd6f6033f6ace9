"""Datasets, one a file: `Dataset(...)` with `shape`, `source()` and `held_out()`.

A source is random access (`len`, `[i]`) and yields `{"x": [F, H, W, C] float32 in [-1, 1], ...}`, the
other keys being what conditioners read. A dataset may have `augment(record, rng)`, applied in training; it
mirrors half of the images, unless its `flip` is False. One whose files lie anywhere may have `fingerprint(held_out)`,
by which encoding and a resumed run tell its images from others; `names`, which become labels; and `summary()`, what a
job says of it. Records of an encoded dataset (`data.latents`) hold `mean` and `std` in place of `x`; its
`check_origin` refuses those of another dataset or codec.

A dataset of captions has records with `texts`, of which `augment` picks one, `text`; a held-out record has its first.
Its sources have `texts` too: those of every record, with no image read. A dataset of several shapes has `shapes`, and
its sources have `bins`, int [len], which of these a record has; `shape` is the one that `model.latent` is for.
"""
