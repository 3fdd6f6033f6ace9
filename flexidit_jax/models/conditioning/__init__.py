"""Conditioners, one a file: `Conditioner(width, ...)` turns a condition into a vector [B, width].

A conditioner also speaks for its data on the host: `parse` checks what a user typed, `null` is the
unconditional one, `drop` replaces a share of a batch by it.
"""
