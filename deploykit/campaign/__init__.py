"""Drawing the questions that every variant is asked: real samples, and seeded inputs of every class around them."""
