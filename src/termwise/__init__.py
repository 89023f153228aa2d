"""Termwise: a depth-and-degree profiler for neural networks."""

from termwise.expand import Expansion, expand
from termwise.profile import DepthProfile, profile

__all__ = [
    "DepthProfile",
    "Expansion",
    "expand",
    "profile",
]
