"""Depth pruning: which residual blocks a network can do without, predicted by frozen gates, removed, and measured."""

from termwise.pruning.healing import Healing
from termwise.pruning.methods import METHODS
from termwise.pruning.plan import Plan
from termwise.pruning.prune import prune

__all__ = ["METHODS", "Healing", "Plan", "prune"]
