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

One whose captions can be asked for and read back, which scores of samples want, also has

  captions(count)    so many of them; of one, `size(caption)` is (F, H, W, C) of its pictures, and `seen(caption)`
                     whether there are some to train on
  cells(image)       the parts of a picture [H, W, C] that a classifier reads by themselves, uint8 [P, h, w, C]
  wanted(caption)    the labels that these should have, [P]: with all of them right all words are
  examples(held_out) records {"x", "label"} of such parts, those that are trained on or the others
"""
