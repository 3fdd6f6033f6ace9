"""Feature extractors, one a file: `Features(...)` with `fit`, a call returning [N, D], and `classify`."""
