"""Experiments, each a question, its protocol, and what is found beside what was expected; a file each.

>>> result = run(find("lesion"), seeds=range(5), jobs=2)
>>> print(result)
"""

from termwise.experiments.experiment import Experiment, Result, find, run

__all__ = ["NAMES", "Experiment", "Result", "find", "run"]

NAMES = (
    "lesion",
    "gradient-paths",
    "init-length",
    "train-by-paths",
    "four-depths",
    "bn-lag",
    "depth-degree",
    "attention-paths",
    "linear-first",
    "moments",
    "boolean-order",
    "sines",
    "even-activation",
    "lone-parity",
    "shallow-first",
    "dense-vs-res",
    "overfitting",
    "capacity",
    "pre-norm",
    "nonlinear-advantage",
)
"""As on the command line; each is `EXPERIMENT` in the module of its name."""
