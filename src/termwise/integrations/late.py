"""Classes whose base is in a library that is imported when the first of them is made."""

from __future__ import annotations

import functools
from typing import Any


class Late:
    """A callback that is made one of its library's, by `bases`, when it is made.

    Subclasses name the library's own class as base for type checkers only.
    """

    @classmethod
    def bases(cls) -> tuple[type, ...]:
        """The classes that the library wants its callbacks to be of."""
        raise NotImplementedError

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        """Make an instance of this class and of the library's."""
        return object.__new__(_joined(cls, cls.bases()))

    def __reduce__(self) -> tuple[Any, ...]:
        # The joined class has no name that it could be found by.
        return _made, (type(self).__mro__[1],), vars(self)


def _made(kind: type[Late]) -> Any:
    return kind.__new__(kind)


@functools.cache
def _joined(cls: type, bases: tuple[type, ...]) -> type:
    if issubclass(cls, bases):
        return cls
    return type(cls.__name__, (cls, *bases), {"__module__": cls.__module__, "__doc__": cls.__doc__})
