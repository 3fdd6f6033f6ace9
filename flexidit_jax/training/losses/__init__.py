"""Losses, one a file: `Loss(...)`, called as `loss(process, predict, teacher, x0, cond, key, within)`."""
