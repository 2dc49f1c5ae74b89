"""Where an artifact starts to differ from eager: instrumented graphs, a search, and something that reproduces it."""
