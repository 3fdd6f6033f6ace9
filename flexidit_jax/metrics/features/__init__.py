"""Feature extractors, one a file: images -> arrays that scores are made of. A module is found by its name.

Asked of every `Features`:

  extract(images)   uint8 [B, H, W, C] -> {"pool": [B, D], ...}. Every array has a row for each image, whatever the
                    batches were; distances are of `pool`, and what other names there are the class says.

One with published weights takes `path=` first, where they are (the default is a place of `./weights`), and has

  sha256            of the file that is used, 64 hex digits
  protocol          what a number made of these features must say of them, JSON-ready: `convention` and the like; all
                    that decides them beside the images
  kinds             names of its arrays
  metrics           names of what is usually measured on them (modules of `metrics`)
  save(path, overwrite=False)
                    writes its weights as one .safetensors file, which is read instead from then on
  text(prompts)     one that embeds texts too -> [B, D], which are the features `prompts`
  tokenizer_sha256  of what makes tokens of texts, where the module has `text`

One that is fitted on the data itself has

  fit(images, labels)   before the first `extract`
  classify(images)      -> [B] labels

A scored feature is float32 arithmetic on every backend, resizing included.
"""
