"""Annotations that others have published, joined with a corpus as a score store."""
