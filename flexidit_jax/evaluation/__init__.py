"""Samples scored, and the studies made of scores."""
