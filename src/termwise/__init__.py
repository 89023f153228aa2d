"""Termwise: a depth-and-degree profiler for neural networks."""

from termwise.aligned import aligned_depth
from termwise.degree import DegreeSpectrum, degrees
from termwise.expand import Expansion, expand
from termwise.gradient import GradientExpansion, GradientTerms, expand_gradient
from termwise.lengths import GradientLengths, gradient_lengths, path_gradient
from termwise.profile import DepthProfile, profile
from termwise.pruning import Plan, prune
from termwise.support import Support, support
from termwise.timeline import Recorder, Timeline
from termwise.trace import trace

__all__ = [
    "DegreeSpectrum",
    "DepthProfile",
    "Expansion",
    "GradientExpansion",
    "GradientLengths",
    "GradientTerms",
    "Plan",
    "Recorder",
    "Support",
    "Timeline",
    "aligned_depth",
    "degrees",
    "expand",
    "expand_gradient",
    "gradient_lengths",
    "path_gradient",
    "profile",
    "prune",
    "support",
    "trace",
]
