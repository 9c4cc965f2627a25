"""Measure what a selection was worth."""
