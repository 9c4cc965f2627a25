"""Hypothesis without deadlines: the time of an example says how busy the machine is."""

from hypothesis import settings


settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")
