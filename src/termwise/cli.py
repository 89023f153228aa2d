"""The command `termwise`: every subcommand is one call that a notebook can make too.

Exit codes: 0, 1 when something is refused (one clear message), 2 when the command line is wrong.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from termwise.errors import TermwiseError, UsageError

app = App(
    name="termwise",
    help="A depth-and-degree profiler for neural networks: which depth does the work, and what was learned first.",
    version=lambda: version("termwise"),
)

_DATA = "What to measure on: digits | fashion-mnist[:DIR] | cifar10[:DIR] | tokens:FILE | FILE.npz | FILE.py:callable."
Data = Annotated[str, Parameter(help=_DATA)]
Constants = Annotated[
    Literal["pooled", "by_depth"], Parameter(help="Keep what constants bring in one, or split it by depth as well.")
]
Units = Annotated[
    list[str] | None,
    Parameter(help="layers (default), activations, or names of modules, one --unit for each.", negative=()),
]


@app.command
def demo(
    *,
    quick: Annotated[bool, Parameter(help="The same job in under a minute.")] = False,
    directory: Annotated[Path | None, Parameter(help="Where the run is kept; an interrupted one goes on.")] = None,
) -> None:
    """Train a ResNet and a DenseNet on embedded data, watch the depth of both, and write the report."""
    from termwise.training import demo_config

    default = Path("termwise-demo-quick" if quick else "termwise-demo")
    _run(demo_config(quick), directory or default)


@app.command
def train(
    networks: Annotated[
        list[str], Parameter(help="resnet-20, resnet-20-projection, densenet-22-12, plain-20, or mlp-64-32-10.")
    ],
    /,
    *,
    directory: Annotated[Path, Parameter(help="Where the run is kept; an interrupted one goes on.")],
    data: Data = "digits",
    epochs: Annotated[int, Parameter(help="Passes over the training data.")] = 15,
    batch_size: Annotated[int, Parameter(help="Samples an update.")] = 64,
    probe: Annotated[int, Parameter(help="Held-out samples that every record is measured on.")] = 256,
    unit: Units = None,
    constants: Constants = "pooled",
    seed: int = 0,
    threads: Annotated[int, Parameter(help="Of PyTorch, while the run lasts.")] = 2,
    name: Annotated[str | None, Parameter(help="The title of the report.")] = None,
) -> None:
    """Train one network or more on any data, record the depth of each while it learns, and write the report."""
    from termwise.training import Recording, RunConfig, Training

    config = RunConfig(
        name if name is not None else f"{', '.join(networks)} on {data.partition(':')[0]}",
        tuple(_network(network) for network in networks),
        data=data,
        training=Training(epochs=epochs, batch_size=batch_size),
        recording=Recording(probe=probe, unit=_unit(unit), constants=constants),
        seed=seed,
        threads=threads,
    )
    _run(config, directory)


@app.command
def profile(
    model: Annotated[str, Parameter(help="FILE.py:callable; that file is run, and the function returns the model.")],
    /,
    *,
    data: Data = "digits",
    weights: Annotated[Path | None, Parameter(help="A .safetensors file (or a .pt file of plain tensors).")] = None,
    unit: Units = None,
    constants: Constants = "pooled",
    output: Annotated[str | None, Parameter(help="The key of the logits, where the model returns several.")] = None,
    samples: Annotated[int, Parameter(help="At most so many of the test part.")] = 1024,
    save: Annotated[Path | None, Parameter(help="Keep the profile in this file.")] = None,
) -> None:
    """Print which depth does the work in a model of yours."""
    from termwise.data import load
    from termwise.profile import profile as measure

    network = load_model(model, weights)
    chosen = load(data)
    pair = (chosen.test_inputs[:samples], chosen.test_targets[:samples])
    result = measure(network, pair, unit=_unit(unit), constants=constants, output=output, batch_size=32)
    print(result)
    if save is not None:
        result.save(save)
        print(f"saved: {save}")


@app.command
def report(run: Annotated[Path, Parameter(help="The directory of a finished run.")], /) -> None:
    """Write the page of a run again, from its tables."""
    from termwise.report import write_page

    print(f"report: {write_page(run)}")


def load_model(spec: str, weights: Path | None = None) -> Any:
    """The model that `FILE.py:callable` returns, with weights from a file.

    Raises:
        UsageError: the spec or the file's name is of no known form.
        ModelError: the function returns no model, or the weights do not fit.
        DataError: the file of weights is missing or damaged.
    """
    import torch

    from termwise.datafiles import load_callable
    from termwise.errors import DataError, ModelError

    if not re.search(r"\.py:", spec):
        raise UsageError(
            f"model {spec!r}: write FILE.py:callable, where the function takes nothing and returns a model."
        )
    model = load_callable(spec)()
    if isinstance(model, dict):
        raise ModelError(f"{spec} returns a state dictionary: numbers without the program. Return the model itself.")
    if not callable(model):
        raise ModelError(f"{spec} returns a {type(model).__name__}; return a torch.nn.Module.")
    if weights is None:
        return model
    if not isinstance(model, torch.nn.Module):
        raise ModelError(f"{spec} returns a {type(model).__name__}, which takes no weights; omit --weights.")
    try:
        model.load_state_dict(_weights(weights))
    except FileNotFoundError as error:
        raise DataError(f"{weights}: there is no such file of weights.") from error
    except RuntimeError as error:
        raise ModelError(f"{weights} does not fit {spec}: {error}") from error
    return model


def _weights(path: Path) -> dict[str, Any]:
    import safetensors
    import safetensors.torch
    import torch

    from termwise.errors import DataError

    if not path.is_file():
        raise DataError(f"{path}: there is no such file of weights.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix in (".pt", ".pth"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(f"{path}: not readable as weights ({str(error).splitlines()[0]}).") from error
    except Exception as error:
        # torch.load raises pickle's own error for anything beyond plain tensors; it has not been executed.
        raise DataError(
            f"{path}: damaged, or holds more than plain tensors; save model.state_dict() as .safetensors."
        ) from error
    raise UsageError(f"--weights {path}: expected a .safetensors file, or .pt with plain tensors.")


def _unit(units: Sequence[str] | None) -> Any:
    if not units:
        return "layers"
    return units[0] if len(units) == 1 and units[0] in ("layers", "activations") else tuple(units)


_SPELLINGS = {
    "resnet": (r"resnet-?(\d+)(-projection)?", "resnet-20 or resnet-20-projection"),
    "densenet": (r"densenet-?(\d+)-(\d+)", "densenet-22-12 (depth, growth)"),
    "plain": (r"plain-?(\d+)", "plain-20"),
    "mlp": (r"mlp((?:-\d+){2,})", "mlp-64-32-10 (the width of every layer)"),
}


def _network(spelling: str) -> Any:
    """The configuration of a network as a user spells it."""
    from termwise.training import NetworkConfig

    for family, (pattern, _) in _SPELLINGS.items():
        match = re.fullmatch(pattern, spelling)
        if match is None:
            continue
        if family == "mlp":
            return NetworkConfig(spelling, family, {"sizes": [int(n) for n in match[1].split("-")[1:]]})
        arguments: dict[str, Any] = {"depth": int(match[1])}
        if family == "densenet":
            arguments["growth"] = int(match[2])
        if family == "resnet" and match[2]:
            arguments["shortcut"] = "projection"
        return NetworkConfig(spelling, family, arguments)
    forms = "; ".join(form for _, form in _SPELLINGS.values())
    raise UsageError(f"network {spelling!r} is unknown. Write {forms}.")


def _run(config: Any, directory: Path) -> None:
    """Train with a live display, write the report, and say where everything is."""
    from termwise.display import Display
    from termwise.report import write_page
    from termwise.training import run_training

    console = Console()
    with Display(console) as display:
        summary = run_training(config, directory, progress=display.show)
    page = write_page(directory)
    console.print()
    console.print(summary.verdict, highlight=False, markup=False, soft_wrap=True)
    console.print()
    for label, path in (
        ("report", page),
        ("tables", directory / "tables"),
        ("summary", directory / "summary.json"),
        ("checkpoints", directory / "networks"),
    ):
        console.print(f"{label:<12} {path}", highlight=False, markup=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exits with 0, 1 or 2."""
    errors = Console(stderr=True)
    try:
        app(arguments, exit_on_error=False, print_error=True, result_action="return_none")
    except CycloptsError:
        sys.exit(2)
    except TermwiseError as error:
        errors.print(f"termwise: {error}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except msgspec.ValidationError as error:
        errors.print(f"termwise: {error}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print("termwise: interrupted; the same command goes on from here.", highlight=False)
        sys.exit(1)
