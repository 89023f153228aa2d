"""Experiments, each a question, its protocol, and what is found beside what was expected; a file each.

>>> result = run(find("lesion"), seeds=range(5), jobs=2)
>>> print(result)
"""

from termwise.experiments.experiment import Experiment, Result, find
from termwise.experiments.grid import run

__all__ = ["COLLECTIONS", "NAMES", "VERDICT", "Experiment", "Result", "find", "run"]

NAMES = (
    "lesion",
    "gradient-paths",
    "init-length",
    "some-blocks",
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
    "variants",
    "dense-vs-res",
    "overfitting",
    "capacity",
    "parametrisation",
    "path-counts",
    "pre-norm",
    "nonlinear-advantage",
)
"""As on the command line; each is `EXPERIMENT` in the module of its name."""

COLLECTIONS = {
    "counter-examples": (
        "even-activation",
        "lone-parity",
        "parametrisation",
        "path-counts",
        "pre-norm",
        "nonlinear-advantage",
    )
}
"""Names that stand for several: the cases in which the claims fail."""

VERDICT = "claims"
"""The name of the result that `termwise.experiments.reproduce` draws from all of them."""
