"""Stores: artefacts on any fsspec path that are made once, by any number of tasks, and verified when they are read."""
