"""The console text of a Support: what was found, what it will cost, and what to do about the rest."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from termwise.operators import OperatorUse, grouped, listed
from termwise.report.text import short

if TYPE_CHECKING:
    from termwise.support import Support

_WIDTH = 100
_INDENT = 14
_ADVICE = {
    "frozen": "gates, patterns and statistics: held at their values, as the expansion means it",
    "linearised": (
        "no rule of their own: each is taken as affine where the model stands; to make it exact, name its family: "
        'termwise.rules.register("gate", termwise.rules.gated, [torch.ops.LIBRARY.NAME]), see docs/add-a-rule.md'
    ),
}


def support_text(support: Support) -> str:
    """The verdict first, then depth, price, and every operator by how it is treated."""
    lines = [_verdict(support), ""]
    lines += _entry("paths", _paths(support))
    lines += _entry("weights", f"{support.weights:,} calls of a convolution or a linear layer")
    lines += _entry("blocks", _blocks(support))
    if support.paths:
        lines += _entry("ideal cost", f"{support.ideal_cost:.1f} plain forward passes: no expansion can be cheaper")
        lines += _entry("memory", f"{_bytes(support.memory)} at the least, for the terms of this batch")
    lines.append("")
    for kind in ("exact", "frozen", "linearised"):
        uses = [use for use in support.operators if use.kind == kind]
        lines += _entry(kind, _uses(uses))
        if uses and kind in _ADVICE:
            lines += _entry("", _ADVICE[kind])
    lines += _missing(support)
    return "\n".join(lines)


def _verdict(support: Support) -> str:
    if support.failure is not None:
        return f"not supported: {support.failure}"
    if support.missing:
        names = {call.operator for call in support.missing}
        return f"not supported: no rule can follow {', '.join(sorted(names))}"
    if support.linearised:
        return f"supported, but {len(support.linearised)} of the operators only to first order"
    return "supported: every operator has a rule"


def _paths(support: Support) -> str:
    if not support.paths:
        return "none reaches the output"
    depths = list(support.paths)
    unit = support.unit if not support.unit.startswith("modules") else "named modules"
    if len(depths) == 1:
        return f"{_count(support)}, of {depths[0]} {unit}: a single term, nothing to split"
    return f"{_count(support)}, of {depths[0]} to {depths[-1]} {unit}: {len(depths)} terms"


def _count(support: Support) -> str:
    total = sum(support.paths.values())
    return "1 path" if total == 1 else f"{short(str(total))} paths"


def _blocks(support: Support) -> str:
    if not support.blocks:
        return "none: no addition or concatenation carries its own input along"
    names = [block.name or "(the model itself)" for block in support.blocks]
    listed = names if len(names) <= 6 else [*names[:3], "...", *names[-2:]]
    return f"{len(names)} residual branches: {', '.join(listed)}"


def _uses(uses: Iterable[OperatorUse]) -> str:
    counts: dict[str, int] = {}
    for use in uses:
        counts[use.operator] = counts.get(use.operator, 0) + use.count
    return ", ".join(f"{name}\u00a0x{count}" for name, count in counts.items()) or "none"


def _missing(support: Support) -> list[str]:
    if not support.missing:
        return _entry("missing", "none")
    lines: list[str] = []
    for (operator, reason), modules in grouped(support.missing).items():
        lines += _entry("" if lines else "missing", f"{operator} x{len(modules)} in {listed(modules)}: {reason}")
    return lines


def _entry(label: str, text: str) -> list[str]:
    wrapped = textwrap.wrap(text, _WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False)
    # A count stays beside its operator: the space between them is none to wrap at.
    lines = [line.replace("\u00a0", " ") for line in wrapped]
    return [f"{label if not i else '':<{_INDENT}}{line}" for i, line in enumerate(lines)]


def _bytes(count: int) -> str:
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if size >= 10 else f"{size:.1f} {units[0]}"
