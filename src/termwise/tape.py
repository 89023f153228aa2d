"""One run of a model with its gradients recorded: where the steps are on the way back, and the places asked for.

`record` runs the model inside `termwise.pinning.pinned` and leaves a `Tape`: the root that cotangents start from, the
nodes and operands at which they move up by one, and the edges of autograd's graph that stand for inputs, modules and
parameters.  Nothing is accumulated into .grad.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge
from torch.autograd.graph import Node as GradNode
from torch.nn.modules.module import register_module_forward_hook
from torch.utils import _pytree as pytree

from termwise.alongside import Alongside, Followed, Visit, following
from termwise.backward import Cotangent, Edge, edge_of, nodes_behind
from termwise.blocks import Block, find_blocks
from termwise.errors import ModelError, RuleError, UsageError, first_line
from termwise.expand import Forward, Output, call, check_input, check_weights, explain, input_of, pick_output
from termwise.graph import Graph
from termwise.operators import check_followed
from termwise.pinning import bare
from termwise.series import Series, carries
from termwise.steps import BLOCKS, Unit, unit_of

Loss = Callable[[Tensor], Tensor] | Tensor
Kind = Literal["input", "module", "parameter"]
Name = tuple[Kind, str]


@dataclasses.dataclass(eq=False)
class Tape:
    """A run that has been recorded.

    Attributes:
        start: where cotangents start, and with what: the loss itself with 1, or the output with a cotangent.
        loss: the value of the loss, if one was given.
        places: the edges of what was asked for.
        steps: by how many steps a cotangent moves up on its way through a node.
        branches: the same for one operand of a node: (node, index among its next functions).
        visits: the calls that gradients may flow back through.
        program: the program that was followed beside.
        unit: the unit of depth.
    """

    start: Mapping[Edge, Tensor]
    loss: float | None
    places: Mapping[Name, Edge]
    steps: Mapping[GradNode, int]
    branches: Mapping[Edge, int]
    visits: list[Visit]
    program: Followed
    unit: Unit

    def plainly(self) -> dict[Name, Tensor]:
        """The gradient at each place by autograd itself; places that it does not reach are not there.

        Raises:
            ModelError: when autograd cannot go back, or a gradient is not finite, as in a network that has diverged.
        """
        try:
            found = torch.autograd.grad(
                [GradientEdge(*edge) for edge in self.start],
                [GradientEdge(*edge) for edge in self.places.values()],
                list(self.start.values()),
                retain_graph=True,
                allow_unused=True,
            )
        except RuntimeError as error:
            raise ModelError(
                f"expand_gradient: autograd cannot go back through the model ({first_line(error)}); loss.backward() "
                "would fail as well."
            ) from error
        reached = {name: g for name, g in zip(self.places, found, strict=True) if g is not None}
        dense = {name: g.to_dense() if g.layout is not torch.strided else g for name, g in reached.items()}
        for (kind, name), gradient in dense.items():
            if not bool(torch.isfinite(gradient).all()):
                raise ModelError(
                    f"the gradient at the {kind} '{name}' is not finite, and so has no terms. Check the loss, the data "
                    "and the weights: a training that diverges gives this."
                )
        return dense

    def cotangents(self) -> dict[Edge, Cotangent]:
        """What a walk back starts from."""
        return {edge: Cotangent(value[None], (0,), {0: 1}) for edge, value in self.start.items()}


@dataclasses.dataclass(eq=False)
class _Run:
    """One forward run, as it was seen."""

    output: Tensor
    series: Tensor
    inputs: dict[str, Tensor]
    modules: dict[str, list[Tensor | Edge]]
    module_steps: list[GradNode]
    alongside: Alongside


def record(
    model: Any,
    x: Any,
    loss: Loss,
    unit: str | Sequence[str] | Unit,
    at: Sequence[str] | None,
    output: Output,
    forward: Forward,
    *,
    lengths: bool = False,
) -> Tape:
    """Run the model once with its gradients recorded (twice where blocks have to be found before their parts move).

    The arguments are those of `expand_gradient`; `lengths` keeps the operands of each call, by depth from the input.

    Raises:
        DataError, ModelError, UsageError, RuleError: see `expand_gradient`.
    """
    network = bare(model)
    resolved = unit_of(unit, network)
    names = _names(network, at)
    check_input(x)
    check_weights(network)
    blocks: tuple[Block, ...] = ()
    if resolved.name == BLOCKS:
        program = Followed(network, Unit("nothing"), graph=Graph(), lengths=False)
        run = _run(program, model, x, output, forward, names, keep=False)
        assert program.graph is not None
        check_followed(program.unsupported)
        blocks = find_blocks(program.graph, run.series.born) if isinstance(run.series, Series) else ()
        resolved = dataclasses.replace(resolved, blocks=blocks, route=program.route, wiring=program.wiring)
    if resolved.name != BLOCKS or lengths:
        program = Followed(network, resolved, lengths=lengths)
        run = _run(program, model, x, output, forward, names, keep=lengths)
        if resolved.name == BLOCKS and program.wiring != resolved.wiring:
            raise ModelError(
                "the model takes another way through its code each time that it is run on the same input, so that its "
                "blocks cannot be found. Fix what it depends on (a counter, a random choice), or use another unit."
            )
    program.check_modules()
    start, value = _start(run.output, loss)
    return Tape(
        start=start,
        loss=value,
        places=_places(run, network, names),
        steps=_steps(run, resolved),
        branches=_branches(run.alongside.visits, blocks),
        visits=run.alongside.visits,
        program=program,
        unit=resolved,
    )


def _names(network: Any, at: Sequence[str] | None) -> list[Name]:
    """What is asked for, modules and parameters by name."""
    parameters = dict(network.named_parameters()) if isinstance(network, nn.Module) else {}
    modules = dict(network.named_modules()) if isinstance(network, nn.Module) else {}
    for name, parameter in parameters.items():
        if parameter.is_inference():
            raise ModelError(
                f"expand_gradient: '{name}' of the model was made in torch.inference_mode(), and autograd cannot "
                "record what is done with it. Build or load the model outside of that mode."
            )
    if at is None:
        return [("parameter", name) for name, parameter in parameters.items() if parameter.requires_grad]
    if isinstance(at, str):
        raise UsageError(f"at={at!r}: expected a list of names. To name one write at=[{at!r}].")
    names: list[Name] = []
    for name in at:
        if name in parameters:
            if not parameters[name].requires_grad:
                raise UsageError(
                    f"at: the parameter '{name}' requires no gradient. Call .requires_grad_() on it, or leave it out."
                )
            names.append(("parameter", name))
        elif name in modules:
            names.append(("module", name))
        else:
            near = difflib.get_close_matches(name, [*parameters, *modules], n=3)
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise UsageError(f"at: the model has no parameter and no module called {name!r}.{hint}")
    return names


# The run.


def _run(
    program: Followed, model: Any, x: Any, output: Output, forward: Forward, names: list[Name], *, keep: bool
) -> _Run:
    leaves: dict[str, Tensor] = {}
    with _only(names, bare(model), everything=keep), following(program, keep=keep) as alongside:
        lifted = _lifted(x, program, alongside, leaves)
        with _watching(program, alongside, names) as (modules, module_steps):
            try:
                result = call(model, lifted, forward)
            except Exception as error:
                explain(error)
                raise
        tensor = pick_output(result, output)
    series = program.series_of(alongside.beside(tensor))
    if not isinstance(series, Series):
        raise ModelError(
            "expand_gradient: the output does not depend on the input through any operator that was seen. "
            "If the model leaves PyTorch (NumPy, a compiled extension) on the way, its gradient cannot be followed."
        )
    if not tensor.requires_grad:
        raise ModelError(
            "expand_gradient: no gradient leads back from the output: it was computed under torch.no_grad(), "
            "torch.inference_mode() or detached, or by operators that have no derivative."
        )
    return _Run(tensor, series, leaves, modules, module_steps, alongside)


def _lifted(x: Any, program: Followed, alongside: Alongside, leaves: dict[str, Tensor]) -> Any:
    """The input with gradients, and a Series beside each of its tensors."""

    def lift(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        series = program.lifted(leaf.detach(), input_of)
        tensor = leaf.detach().clone()
        if isinstance(series, Series) and carries(tensor):
            leaves[_place(path)] = tensor.requires_grad_()
            tensor = tensor.clone()  # models may write into their input, and none may write into a leaf
        alongside.put(tensor, series)
        return tensor

    return pytree.tree_map_with_path(lift, x)


@contextlib.contextmanager
def _only(names: list[Name], network: Any, *, everything: bool) -> Iterator[None]:
    """Gradients for the parameters that are asked for alone: autograd makes those of all operands of a node."""
    idle: list[nn.Parameter] = []
    if isinstance(network, nn.Module) and not everything:
        parameters = network.named_parameters()
        idle = [p for name, p in parameters if p.requires_grad and ("parameter", name) not in names]
    try:
        for parameter in idle:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in idle:
            parameter.requires_grad_(True)


def _place(path: Any) -> str:
    return ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path) or "input"


@contextlib.contextmanager
def _watching(
    program: Followed, alongside: Alongside, names: list[Name]
) -> Iterator[tuple[dict[str, list[Tensor | Edge]], list[GradNode]]]:
    """Note the outputs of modules that are asked for, and make a node of each module that is a step."""
    asked = {name for kind, name in names if kind == "module"}
    outputs: dict[str, list[Tensor | Edge]] = {}
    steps: list[GradNode] = []

    def stepped(tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        # A copy of its own, so that what reads the tensor inside of the module takes no step.
        copy = tensor.clone()
        edge = edge_of(copy)
        steps.append(edge[0])
        alongside.step(copy)
        return copy

    def leave(module: nn.Module, args: Any, out: Any) -> Any:
        name = program.name_of(module)
        if name in program.unit.modules:
            out = pytree.tree_map_only(Tensor, stepped, out)
        if name in asked:
            tensors = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
            # As it leaves the module: what is written into it later is another value.
            outputs.setdefault(name, []).extend(edge_of(t) if t.requires_grad else t for t in tensors)
        return out

    hook = register_module_forward_hook(leave)
    try:
        yield outputs, steps
    finally:
        hook.remove()


# What the run says.


def _start(output: Tensor, loss: Loss) -> tuple[dict[Edge, Tensor], float | None]:
    if isinstance(loss, Tensor):
        if loss.shape != output.shape:
            raise UsageError(
                f"loss: a cotangent must have the output's shape {tuple(output.shape)}, not {tuple(loss.shape)}."
            )
        return {edge_of(output): loss.detach().to(output)}, None
    with torch.enable_grad():
        value = loss(output)
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UsageError(f"loss: it must give one number, not {what}. Reduce it, as by .mean() or .sum().")
    if not value.requires_grad or edge_of(output)[0] not in nodes_behind([edge_of(value)[0]]):
        raise UsageError(
            "loss: no gradient leads from it to the output of the model. It must be computed from its argument by "
            "operators that have a derivative, without .detach(), .item() or torch.no_grad()."
        )
    return {edge_of(value): torch.ones_like(value)}, float(value.detach())


def _places(run: _Run, network: Any, names: list[Name]) -> dict[Name, Edge]:
    places: dict[Name, Edge] = {("input", name): edge_of(leaf) for name, leaf in run.inputs.items()}
    for kind, name in names:
        if kind == "parameter":
            places[kind, name] = edge_of(network.get_parameter(name))
            continue
        seen = run.modules.get(name, [])
        if len(seen) != 1:
            raise ModelError(
                f"at: the module '{name}' gave {len(seen)} tensors in this run (each time that it runs counts), so its "
                "output is not one. Name a module that runs once and returns a tensor."
            )
        if isinstance(seen[0], Tensor):
            raise ModelError(
                f"at: the output of the module '{name}' has no gradient: it is detached, or computed by operators that "
                "have no derivative."
            )
        places[kind, name] = seen[0]
    return places


def _steps(run: _Run, unit: Unit) -> dict[GradNode, int]:
    steps = dict.fromkeys(run.module_steps, 1)
    if unit.modules or unit.name == BLOCKS:
        return steps
    hidden = [visit for visit in run.alongside.hidden if visit.is_step]
    custom = [n for n in nodes_behind([edge_of(run.output)[0]]) if isinstance(n, BackwardCFunction)]
    if hidden and custom:
        raise _untold(hidden[0], f"is called without gradients, perhaps inside of {custom[0].name()}")
    for visit in run.alongside.visits:
        if visit.is_step:
            assert visit.node is not None
            if len(visit.numbers) != 1:
                raise _untold(visit, "is taken apart into steps and others")
            if visit.node.name() == "CopySlices":
                raise _untold(visit, "writes its result into part of a tensor")
            steps[visit.node] = 1
    return steps


def _branches(visits: Sequence[Visit], blocks: Sequence[Block]) -> dict[Edge, int]:
    """The operands of joins that are branches, as edges of the graph."""
    by_number = {number: visit for visit in visits for number in visit.numbers}
    branches: dict[Edge, int] = {}
    for place in (place for block in blocks for place in block.places):
        visit = by_number.get(place.call)
        if visit is None or visit.node is None:
            continue  # no gradient flows back through this join
        edge = visit.edges[place.operand]
        if len(visit.numbers) != 1 or isinstance(visit.node, BackwardCFunction):
            raise _untold(visit, "is taken apart, or inside of another function, with a residual branch")
        if edge is None or (visit.node.name() == "CopySlices" and edge == 0):
            raise _untold(visit, "adds a residual branch into part of a tensor")
        branches[visit.node, edge] = 1
    return branches


def _untold(visit: Visit, why: str) -> RuleError:
    """The refusal of a call whose steps cannot be told apart on the way back."""
    where = f"module '{visit.module}'" if visit.module else "the model itself"
    return RuleError(
        f"expand_gradient: {visit.func.overloadpacket} in {where} {why}, so that its steps cannot be told apart on the "
        "way back. Write the operator out in the model, or choose another unit."
    )
