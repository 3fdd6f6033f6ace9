"""Noise processes and solver steps. Knows callables and numbers, never a network."""
