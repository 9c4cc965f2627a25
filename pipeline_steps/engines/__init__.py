"""Engines: models that answer, encode and score many texts at a time; where they come from and in which precision."""
