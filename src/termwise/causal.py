"""What really happens when paths are taken away: the network is run without some of its residual branches.

Nothing is frozen here: all that comes after a missing branch, its gates among it, sees what it would see if the branch
had been cut out of the code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from termwise.blocks import Block
from termwise.errors import ModelError, UsageError
from termwise.expand import Forward, Output, follow, locate
from termwise.pinning import bare
from termwise.program import Program
from termwise.series import Series
from termwise.steps import BLOCKS, Unit


def without(
    model: Any, x: Any, blocks: Iterable[int | Block], *, output: Output = None, forward: Forward = None
) -> Tensor:
    """The output of `model` at `x` without some of its residual branches.

    Args:
        model: an nn.Module or callable; run in evaluation mode and left as found.
        x: its input, as in `termwise.expand`.
        blocks: which to leave out: their numbers, counted from 0 in the order of the program, or the blocks that
            `termwise.support` lists.
        output: which tensor of the model's result, as in `termwise.expand`.
        forward: how to call the model, as in `termwise.expand`.

    Returns:
        The output, of its usual shape.

    Raises:
        UsageError: when there is no such block.
        ModelError: when the program goes another way without them.
        DataError, RuleError: see `termwise.expand`.
    """
    found = locate(BLOCKS, model, x, output=output, forward=forward)
    known = found.blocks or ()
    chosen = [_chosen(block, known) for block in blocks]
    removed = [place for block in chosen for place in block.places]
    program = Program(bare(model), Unit("nothing"), removed=removed)
    result = follow(program, model, x, output, forward)
    if program.route != found.route:
        raise ModelError(
            "without: the model's control flow depends on its values, and goes another way when the blocks are gone; "
            "what is left cannot be told from what was removed."
        )
    return result.value if isinstance(result, Series) else result


def _chosen(block: int | Block, known: tuple[Block, ...]) -> Block:
    if isinstance(block, int) and 0 <= block < len(known):
        return known[block]
    if block in known:
        return block
    if not known:
        raise UsageError(f"without: {block!r}: the model has no residual branches, so there is none to leave out.")
    raise UsageError(
        f"without: {block!r} is none of the {len(known)} blocks of this model: give numbers from 0 to "
        f"{len(known) - 1}, or blocks of termwise.support(model, x).blocks."
    )
