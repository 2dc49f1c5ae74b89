"""Copies of an artifact with one known fault each: what a gate must be able to see."""
