"""What Termwise raises, and the one warning that it gives.

    TermwiseError
      ModelError      a model, its weights or its output cannot be profiled
      DataError       bad data: NaN, empty, labels out of range, half a file
      UsageError      bad arguments
      RuleError       an operator that can neither be followed nor linearised, or a rule that cannot be registered
      RecordError     a saved record that is corrupt, of another kind, or of a newer version
      RunError        a run directory that another process writes, or of another configuration; processes that are lost

    ClosureWarning    the terms do not sum to what the model computed (a UserWarning)

A message says what, where (file, module path, operator), why, and what to do next.
"""

from __future__ import annotations


class TermwiseError(Exception):
    """The root: catch this to catch whatever Termwise refuses."""


class ModelError(TermwiseError):
    """A model, its weights or its output cannot be profiled."""


class DataError(TermwiseError):
    """The data are bad: NaN, empty, labels out of range, half a file."""


class UsageError(TermwiseError):
    """An argument is wrong: nothing has been done yet."""


class RuleError(TermwiseError):
    """An operator can neither be followed nor linearised, or a rule cannot be registered."""


class RecordError(TermwiseError):
    """A saved record is corrupt, of another kind, or of a newer version."""


class RunError(TermwiseError):
    """A run directory is another process's or another configuration's; or one of several processes is lost."""


class ClosureWarning(UserWarning):
    """The terms do not sum to what the model computed: do not trust the numbers."""


def first_line(error: BaseException) -> str:
    """What an exception says, for use in a message of one line; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
