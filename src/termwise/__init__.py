"""Termwise: a depth-and-degree profiler for neural networks."""

from termwise.aligned import aligned_depth
from termwise.degree import DegreeSpectrum, degrees
from termwise.expand import Expansion, expand
from termwise.profile import DepthProfile, profile
from termwise.support import Support, support
from termwise.timeline import Recorder, Timeline

__all__ = [
    "DegreeSpectrum",
    "DepthProfile",
    "Expansion",
    "Recorder",
    "Support",
    "Timeline",
    "aligned_depth",
    "degrees",
    "expand",
    "profile",
    "support",
]
