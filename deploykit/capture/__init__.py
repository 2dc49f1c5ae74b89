"""What untouched eager PyTorch answers, recorded before any exporter sees the module."""
