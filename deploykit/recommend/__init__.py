"""Measurements and verdicts to a ranked choice."""
