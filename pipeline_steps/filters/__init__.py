"""Cuts of a score, the filters that keep exactly their documents, and a report of what a selection covers."""
