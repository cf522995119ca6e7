"""Where the time and memory of a run go, against the limits of its machine."""

from llds.callbacks.profile.iteration_profile import IterationProfile

__all__ = ["IterationProfile"]
