"""Losses, one a file: `Loss(...)`, which draws for a whole batch and is then evaluated on any part of it.

`loss.draw(process, key, shape, within)` gives times and noise; `loss(process, predict, teacher, x0, cond, t, noise)`
the value of every record and of its terms. The step takes means, so that a batch may be split (`training.step`).
"""
