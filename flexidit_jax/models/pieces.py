"""Tokens one piece after the other, where what is made of all of them at once is large."""

from __future__ import annotations


def pieces(whole: int, most: int, tokens: int) -> int:
    """In how many pieces so many tokens come, so that of `whole` bytes about `most` at most are there at once.

    A power of two, which divides most lengths.
    """
    return 1 << (min(-(-whole // most), tokens) - 1).bit_length()
