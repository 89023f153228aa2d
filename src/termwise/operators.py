"""How the operators that a model called were treated, and the refusal of calls that no rule can follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from termwise.errors import RuleError
from termwise.rules.registry import Kind

_SHOWN = 3  # modules in a message


@dataclasses.dataclass(frozen=True)
class OperatorUse:
    """How one operator was treated in a run.

    Attributes:
        operator: its name, such as "aten.relu".
        rule: the family of the rule.
        kind: "exact"; "frozen" where a value or an operand lost its parts; "linearised" by the affine fallback.
        count: the number of calls.
        modules: the paths of the modules that called it.
    """

    operator: str
    rule: str
    kind: Kind
    count: int
    modules: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Unsupported:
    """A call that no rule could follow.

    Attributes:
        operator: its name.
        module: the path of the module that called it.
        reason: why.
    """

    operator: str
    module: str
    reason: str


def grouped(calls: Iterable[Unsupported]) -> Mapping[tuple[str, str], list[str]]:
    """The modules of the calls, one for each call, by operator and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for call in calls:
        groups.setdefault((call.operator, call.reason), []).append(call.module)
    return groups


def listed(modules: Sequence[str]) -> str:
    """The first few of the modules, by name."""
    names = [repr(name) if name else "the model itself" for name in dict.fromkeys(modules)]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def check_followed(calls: Sequence[Unsupported]) -> None:
    """Refuse a run in which these calls could not be followed, if there are any.

    Raises:
        RuleError: naming all of them, where they are, and what to type.
    """
    if not calls:
        return
    groups = grouped(calls)
    lines = [
        f"  {operator} in {listed(modules)} ({len(modules)} call{'s' if len(modules) > 1 else ''}): {reason}"
        for (operator, reason), modules in groups.items()
    ]
    names = dict.fromkeys(operator for operator, _ in groups)
    packets = ", ".join(f"torch.ops.{name}" for name in names)
    what, advice = f"{len(names)} operators", "without them, or name the family of each"
    if len(names) == 1:
        what, advice = "1 operator", "without it, or name its family"
    raise RuleError(
        f"{what} cannot be followed:\n" + "\n".join(lines) + "\n"
        f"Write the model {advice} (docs/add-a-rule.md); for a nonlinearity:\n"
        f'  termwise.rules.register("gate", termwise.rules.gated, [{packets}])'
    )
