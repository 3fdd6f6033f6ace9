"""Frozen networks of others, each with its file layout."""
