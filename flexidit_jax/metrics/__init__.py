"""How good samples are: features of images, moments of features, numbers.

A metric is a file with functions of arrays, and with `Metric`, found by the name of its module, its keys keywords:

  reads, compares                       kinds of features it wants of the samples, and arrays of the reference
  fits                                  kinds of the reference of which what is fitted to them is enough, if any
  numbers                               what its numbers are called; each is a name of the metric too
  check(samples, reference)             refuses too few images before any feature is taken
  check_labels(labels)                  one that reads classes ([N], or None where nobody says them) refuses them here
  scores(samples, reference, features)  its numbers (`metrics.score`), the last argument naming the extractor
"""
