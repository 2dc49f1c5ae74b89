"""The small embedded server: the Open Inference Protocol v2 over HTTP, for trying and testing."""
