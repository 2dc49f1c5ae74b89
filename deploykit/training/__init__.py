"""The seed model's data, training loop and checkpoints."""
