"""Readers that lose no row: a user's files, and the documentation of the installed Python packages."""
