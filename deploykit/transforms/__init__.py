"""One artifact to the same format at another precision; a file per change."""
