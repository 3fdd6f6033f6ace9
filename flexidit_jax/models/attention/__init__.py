"""Attention: the module, and one file for each way to compute it."""
