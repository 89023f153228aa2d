"""A Watch as a callback of a library that is imported when the first callback is made."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, Unpack

from torch import Tensor

from termwise.integrations.sinks import Sink
from termwise.integrations.watch import Options, Watch
from termwise.timeline import Timeline


class WatchCallback:
    """A Watch that is made a callback of its library, by `bases`, when it is made; its arguments are those of a Watch.

    Subclasses name the library's own class as base for type checkers only.
    """

    def __init__(
        self,
        probe: tuple[Tensor, Tensor],
        *,
        directory: str | os.PathLike[str] | None = None,
        module: str = "",
        sinks: Sequence[Sink] = (),
        strict: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._watch = Watch(probe, directory=directory, module=module, sinks=sinks, strict=strict, **options)

    @property
    def timeline(self) -> Timeline:
        """Everything on record so far; see `termwise.integrations.watch.Watch`."""
        return self._watch.timeline

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


def _made(kind: type[WatchCallback]) -> Any:
    return kind.__new__(kind)


@functools.cache
def _joined(cls: type, bases: tuple[type, ...]) -> type:
    if issubclass(cls, bases):
        return cls
    return type(cls.__name__, (cls, *bases), {"__module__": cls.__module__, "__doc__": cls.__doc__})
