"""Text encoders, one a file: `Encoder(...)` with `length`, `width`, `check`, `fingerprint`, `encode` and `free`.

`width` is k, and `length` M; one that is None becomes as many tokens as the model reads. `check(width)` raises a
UserError when a file that encoding needs is missing or does not fit, or makes features of other than `width` channels;
jobs call it before long work. `encode(prompts)` gives the tokens [B, M, k] of texts and their mask [B, M], which
conditioners of tokens read. `fingerprint()` is what these depend on: `encoder`, `length` and `clean`. `free` gives
back the memory of the network, until it is used again.
"""
