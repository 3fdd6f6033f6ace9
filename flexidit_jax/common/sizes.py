"""Sizes in words."""

from __future__ import annotations


def in_bytes(n: int) -> str:
    """`"9.8 GB"`."""
    power = min((len(str(n)) - 1) // 3, 4)
    return f"{n} bytes" if power == 0 else f"{n / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"
