"""Artifact to session; a file per engine."""
