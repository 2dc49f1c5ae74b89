"""A running server in the artifact's place: the reference asked over the wire."""
