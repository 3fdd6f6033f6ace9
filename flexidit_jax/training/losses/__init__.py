"""Losses, one a file: `Loss(...)`, called as `loss(process, predict, x0, cond, key)`."""
