"""Live module to one file of one format; a file per format."""
