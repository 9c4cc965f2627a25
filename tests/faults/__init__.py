"""Faults on purpose: input that nobody meant to give. See `malformed`."""
