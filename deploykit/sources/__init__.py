"""What the user named to a loaded model; a file per kind of source."""
