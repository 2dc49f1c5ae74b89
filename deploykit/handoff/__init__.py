"""Bundle to the folder that a serving stack takes as it is; a file per stack."""
