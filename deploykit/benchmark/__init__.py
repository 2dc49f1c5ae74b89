"""The measuring harness: schedule, launches, statistics."""
