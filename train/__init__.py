"""Pre-train T5 on a selection, for a fixed number of tokens."""
