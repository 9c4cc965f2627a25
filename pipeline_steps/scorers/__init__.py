"""Scorers: datatrove steps that give each document a number; `base` is what a new one subclasses."""
