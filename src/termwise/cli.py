"""The command `termwise`: every subcommand is one call that a notebook can make too.

Exit codes: 0, 1 when something is refused (one clear message), 2 when the command line is wrong.
"""

from __future__ import annotations

import logging
import os
import sys
import webbrowser
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from cyclopts import App, CycloptsError, Parameter, validators
from cyclopts import Group as Options
from rich.console import Console

from termwise.distributed import Group, launched, own_device, require_single, speaks
from termwise.errors import ModelError, RunError, TermwiseError, UsageError, first_line
from termwise.models import FORMS, load_model
from termwise.pruning.methods import MethodName
from termwise.steps import UNITS

app = App(
    name="termwise",
    help="A depth-and-degree profiler for neural networks: which depth does the work, and what was learned first.",
    version=lambda: version("termwise"),
)

_DATA = (
    "What to measure on: digits | fashion-mnist[:DIR] | cifar10[:DIR] | induction | tokens:FILE | FILE.npz | "
    "FILE.py:callable."
)
_POSITIVE = validators.Number(gte=1)
Data = Annotated[str, Parameter(help=_DATA)]
Constants = Annotated[
    Literal["pooled", "by_depth"], Parameter(help="Keep what constants bring in one, or split it by depth as well.")
]
Units = Annotated[
    list[str] | None,
    Parameter(help="layers (default), blocks, activations, or names of modules, one --unit for each.", negative=()),
]
Model = Annotated[str, Parameter(help=f"{' | '.join(FORMS)} (that file is run).")]
Weights = Annotated[Path | None, Parameter(help="A .safetensors file (or a .pt file of plain tensors).")]
Pretrained = Annotated[
    bool, Parameter(help="Published weights for a timm: or torchvision: model, downloaded by it.", negative=())
]
Trust = Annotated[bool, Parameter(help="Run the code that comes with an hf: model.", negative=())]
Lazy = Annotated[
    bool,
    Parameter(
        help="Read each module's weights from its .safetensors file when it runs: larger than memory.", negative=()
    ),
]
Precision = Annotated[
    Literal["float64", "float32", "bfloat16", "float16"] | None,
    Parameter(help="What an hf: model computes in; float32 by default, in which half-precision weights are exact."),
]
Device = Annotated[str, Parameter(help="cpu, cuda, cuda:1 or mps.")]
Jobs = Annotated[int | None, Parameter(help="So many at once, of one thread each; by default one a core.")]
Fleet = Annotated[
    Literal["local", "slurm"], Parameter(help="Who runs the jobs: processes of this machine, or a cluster.")
]
Scheduler = Annotated[
    dict[str, str] | None,
    Parameter(help="Options of the cluster's scheduler: --slurm.partition long --slurm.time 600.", negative=()),
]
Language = Annotated[
    Literal["en", "zh"], Parameter(name="--lang", help="That the page opens in: English or Chinese; it has both.")
]
Open = Annotated[bool, Parameter(help="Open the page in the browser.", negative=())]
Output = Annotated[
    int | str | None, Parameter(help="Key or index of the tensor to profile, where the model returns several.")
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
        list[str],
        Parameter(
            help="resnet-20, resnet-20-projection, preact-resnet-20, se-resnet-20, sk-resnet-20, densenet-22-12, "
            "densenet-bc-100-12, plain-20, mlp-64-32-10, vit-4-64, or lstm-64."
        ),
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
    degrees: Annotated[
        bool, Parameter(help="Record the polynomial degrees in the input as well; it takes longer.", negative=())
    ] = False,
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
        recording=Recording(probe=probe, unit=_unit(unit), constants=constants, degrees=degrees),
        seed=seed,
        threads=threads,
    )
    _run(config, directory)


@app.command
def profile(
    model: Model,
    /,
    *,
    data: Data = "digits",
    weights: Weights = None,
    pretrained: Pretrained = False,
    trust_remote_code: Trust = False,
    lazy_weights: Lazy = False,
    dtype: Precision = None,
    device: Device = "cpu",
    unit: Units = None,
    constants: Constants = "pooled",
    output: Output = None,
    strict: Annotated[bool, Parameter(help="Refuse operators that have no rule of their own.", negative=())] = False,
    size: Annotated[int | None, Parameter(help="Resize images to so many pixels; of tokens, the length.")] = None,
    channels: Annotated[int | None, Parameter(help="Repeat the one channel of grey images so often.")] = None,
    samples: Annotated[int, Parameter(help="At most so many of the test part.", validator=_POSITIVE)] = 1024,
    chunk: Annotated[
        int | None, Parameter(help="Samples that are expanded at once, a power of two; by default what memory holds.")
    ] = None,
    save: Annotated[Path | None, Parameter(help="Keep the profile in this file.")] = None,
) -> None:
    """Print which depth does the work in a model of yours; under torchrun, by several processes."""
    from termwise.data import load
    from termwise.inputs import check_input, shaped
    from termwise.profile import profile as measure

    loading: dict[str, Any] = {"pretrained": pretrained, "trust_remote_code": trust_remote_code}
    options: dict[str, Any] = {"unit": _unit(unit), "constants": constants, "output": output, "strict": strict}

    def prepare() -> tuple[Any, Any]:
        network, _ = _load(model, weights, own_device(device), dtype, lazy_weights=lazy_weights, **loading)
        chosen = shaped(load(data, size=size), channels)
        inputs, targets = chosen.test_inputs[:samples], chosen.test_targets[:samples]
        check_input(network, inputs[:1], model, data)
        return network, (inputs, targets)

    def finish() -> None:
        if processes.rank != 0:
            return
        print(result)
        if save is not None:
            result.save(save)
            print(f"saved: {save}")

    with launched() as group:
        processes = Group(group)
        network, pair = processes.together(prepare)
        result = measure(network, pair, **options, batch_size=max(32, chunk or 0), chunk=chunk, group=group)
        processes.together(finish)


@app.command
def degrees(
    model: Model,
    /,
    *,
    data: Data = "digits",
    inputs: Annotated[
        Literal["fitted", "standard", "boolean", "real"],
        Parameter(
            help="Gaussian with the moments of the data, N(0, I), uniform on -1 and 1, or the data themselves (by "
            "polynomials in their first components)."
        ),
    ] = "fitted",
    weights: Weights = None,
    pretrained: Pretrained = False,
    trust_remote_code: Trust = False,
    device: Device = "cpu",
    output: Output = None,
    size: Annotated[int | None, Parameter(help="Resize images to so many pixels.")] = None,
    channels: Annotated[int | None, Parameter(help="Repeat the one channel of grey images so often.")] = None,
    samples: Annotated[int | None, Parameter(help="Circles (2000), or real inputs (at most 20000).")] = None,
    highest: Annotated[int | None, Parameter(help="Degree: of the fit to circles (12), of polynomials (3).")] = None,
    angles: Annotated[int | None, Parameter(help="Points on a circle; by default as many as are needed.")] = None,
    components: Annotated[int | None, Parameter(help="Of real inputs (10).")] = None,
    seed: int = 0,
    save: Annotated[Path | None, Parameter(help="Keep the spectrum in this file.")] = None,
) -> None:
    """Print of which polynomial degrees a model of yours is made, as a function of its input."""
    from rich.progress import Progress

    from termwise.data import load
    from termwise.degree import degrees as measure
    from termwise.inputs import check_input, shaped

    loading: dict[str, Any] = {"pretrained": pretrained, "trust_remote_code": trust_remote_code, "lazy_weights": False}
    network, _ = _load(model, weights, device, None, **loading)
    chosen = shaped(load(data, size=size), channels)
    x = torch.cat([chosen.train_inputs, chosen.test_inputs]) if inputs == "real" else chosen.train_inputs
    check_input(network, x[:1], model, data)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(inputs, total=None)
        result = measure(
            network,
            x,
            inputs=inputs,
            output=output,
            samples=samples,
            highest=highest,
            angles=angles,
            components=components,
            batch_size=256,
            seed=seed,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    print(result)
    if save is not None:
        result.save(save)
        print(f"saved: {save}")


@app.command
def prune(
    model: Model,
    /,
    *,
    keep: Annotated[float | None, Parameter(help="Keep this fraction of all blocks.")] = None,
    flops: Annotated[float | None, Parameter(help="Keep at most this fraction of the operations.")] = None,
    latency: Annotated[float | None, Parameter(help="Keep at most this fraction of the time of a pass.")] = None,
    loss: Annotated[float | None, Parameter(help="Take out what this loss on the test part allows.")] = None,
    method: Annotated[
        MethodName, Parameter(help="What blocks are chosen by: the expansion, or a rival.")
    ] = "expansion",
    blocks: Annotated[
        list[str] | None, Parameter(help="Modules that may go, one --blocks for each.", negative=())
    ] = None,
    heal: Annotated[
        int, Parameter(help="Then so many updates by the whole network's output.", validator=validators.Number(gte=0))
    ] = 0,
    data: Data = "digits",
    weights: Weights = None,
    pretrained: Pretrained = False,
    trust_remote_code: Trust = False,
    dtype: Precision = None,
    device: Device = "cpu",
    output: Output = None,
    size: Annotated[int | None, Parameter(help="Resize images to so many pixels; of tokens, the length.")] = None,
    channels: Annotated[int | None, Parameter(help="Repeat the one channel of grey images so often.")] = None,
    samples: Annotated[
        int, Parameter(help="At most so many of the training part, and of the test part.", validator=_POSITIVE)
    ] = 1024,
    seed: int = 0,
    save: Annotated[Path | None, Parameter(help="Write the shortened model to this new directory.")] = None,
) -> None:
    """Take out the blocks that a model can do without, chosen on the training part, and measured on the test part."""
    from termwise.data import load
    from termwise.inputs import check_input, shaped
    from termwise.pruning import Healing
    from termwise.pruning import prune as shorten
    from termwise.pruning.removal import check_place

    if save is not None:
        check_place(save)
    loading: dict[str, Any] = {"pretrained": pretrained, "trust_remote_code": trust_remote_code}
    network, _ = _load(model, weights, device, dtype, lazy_weights=False, **loading)
    chosen = shaped(load(data, size=size), channels)
    inputs, targets = chosen.train_inputs, chosen.train_targets
    check_input(network, inputs[:1], model, data)
    plan = shorten(
        network,
        (inputs[:samples], targets[:samples]),
        keep=keep,
        flops=flops,
        latency=latency,
        loss=loss,
        method=method,
        blocks=blocks,
        test=(chosen.test_inputs[:samples], chosen.test_targets[:samples]),
        healing=Healing((inputs, targets), steps=heal, seed=seed) if heal else None,
        output=output,
        seed=seed,
    )
    print(plan)
    if save is not None:
        print(f"saved: {plan.save(save)}")


@app.command
def support(
    model: Model,
    /,
    *,
    shape: Annotated[
        str | None, Parameter(help="Of one sample, such as 3x224x224; by default the one that the model was made for.")
    ] = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    trust_remote_code: Trust = False,
    lazy_weights: Lazy = False,
    dtype: Precision = None,
    device: Device = "cpu",
    unit: Units = None,
    output: Output = None,
) -> None:
    """Say what a model is to Termwise, and what its expansion will cost, before any real work."""
    from termwise.inputs import example
    from termwise.support import support as ask

    options: dict[str, Any] = {"pretrained": pretrained, "trust_remote_code": trust_remote_code}
    network, where = _load(model, weights, device, dtype, lazy_weights=lazy_weights, **options)
    sample = example(network, model, shape, where)
    try:
        found = ask(network, sample, unit=_unit(unit), output=output)
    except TermwiseError:
        raise
    except Exception as error:
        given = "the input that is made up for it" if shape is None else f"--shape {shape}"
        raise ModelError(f"{model} fails on {given}: {type(error).__name__}: {first_line(error)}") from error
    print(found)
    if not found.supported:
        sys.exit(1)


@app.command
def experiment(
    name: Annotated[str | None, Parameter(help="Which; without one, all are listed.")] = None,
    /,
    *,
    seeds: Annotated[int, Parameter(help="How often all is repeated; fewer than 5 decide nothing.")] = 5,
    jobs: Jobs = None,
    executor: Fleet = "local",
    slurm: Scheduler = None,
    quick: Annotated[bool, Parameter(help="The same job in seconds; its numbers show nothing.", negative=())] = False,
    directory: Annotated[
        Path | None, Parameter(help="Where each job, the result and its page are kept; a stopped run goes on there.")
    ] = None,
) -> None:
    """Run an experiment, and print what it finds beside what was expected."""
    from termwise.experiments import COLLECTIONS, NAMES, find, run
    from termwise.report import write_page

    if name is None:
        for each in NAMES:
            print(f"{each:<20} {find(each).question}")
        for each, members in COLLECTIONS.items():
            print(f"{each:<20} all of {', '.join(members)}")
        return
    if executor != "local" and directory is None:
        raise UsageError(f"experiment: --executor {executor} needs --directory, one that all nodes see.")
    for each in COLLECTIONS.get(name, (name,)):
        chosen = find(each)
        result = run(
            chosen,
            range(seeds),
            chosen.protocol.quick() if quick else None,
            directory=directory,
            jobs=_workers(jobs),
            executor=executor,
            options=slurm,
            progress=_told,
        )
        print(result)
        if directory is not None:
            print(f"saved: {result.save(directory / f'{each}.termwise')}")
    if quick:
        print("This was a quick run, to see that it works: its numbers and verdicts show nothing.")
    if directory is not None:
        print(f"report: {write_page(directory)}")


def _workers(jobs: int | None) -> int:
    return len(os.sched_getaffinity(0)) if jobs is None else jobs


def _told(line: str) -> None:
    """A line on progress, which is not what was asked for."""
    print(line, file=sys.stderr, flush=True)


_SCALE = Options("Scale", validator=validators.MutuallyExclusive())


@app.command
def reproduce(
    *,
    quick: Annotated[
        bool, Parameter(group=_SCALE, negative=(), help="Four networks, 88 updates each; minutes (the default).")
    ] = False,
    standard: Annotated[
        bool, Parameter(group=_SCALE, negative=(), help="Six thousand images, networks of the paper; hours.")
    ] = False,
    full: Annotated[
        bool, Parameter(group=_SCALE, negative=(), help="All images, deeper networks, 10 seeds; for a cluster.")
    ] = False,
    data: Annotated[
        str | None,
        Parameter(help="digits | fashion-mnist[:DIR] | cifar10[:DIR]; by default digits if quick, else fashion-mnist."),
    ] = None,
    jobs: Jobs = None,
    executor: Fleet = "local",
    slurm: Scheduler = None,
    directory: Annotated[
        Path | None, Parameter(help="Where all is kept; the same command goes on there after a stop.")
    ] = None,
) -> None:
    """Put the claims on trial: run the experiments that decide H1 to H5, and write one page of them all."""
    from termwise.experiments import VERDICT
    from termwise.experiments.reproduce import plan
    from termwise.experiments.reproduce import reproduce as run
    from termwise.report import write_page

    scale = "standard" if standard else "full" if full else "quick"
    chosen = plan(scale, data)
    place = Path(f"termwise-reproduce-{scale}") if directory is None else directory
    _told(str(chosen))
    for result in run(chosen, place, jobs=_workers(jobs), executor=executor, options=slurm, progress=_told):
        result.save(place / f"{result.name}.termwise")
        page = write_page(place)
        if result.name == VERDICT:
            print(result)
            print(f"report: {page}")


@app.command
def trace(
    model: Annotated[str, Parameter(help=f"{' | '.join(FORMS)} (that file is run), or as for `train`: resnet-20, ...")],
    checkpoints: Annotated[
        list[str],
        Parameter(
            help="Files of weights (.safetensors; .pt, .pth, .bin or .ckpt of plain tensors), directories of them (the "
            "folder of a Hugging Face or Lightning Trainer too), or STEP:FILE where nothing tells the step."
        ),
    ],
    /,
    *,
    directory: Annotated[Path, Parameter(help="Where records, tables and report are kept; a stopped trace goes on.")],
    data: Data = "digits",
    probe: Annotated[int, Parameter(help="Samples of the test part that every record is measured on.")] = 256,
    calibration: Annotated[
        int, Parameter(help="Training samples for the batch-norm statistics; 0: those in the checkpoints.")
    ] = 512,
    unit: Units = None,
    constants: Constants = "pooled",
    output: Output = None,
    size: Annotated[int | None, Parameter(help="Resize images to so many pixels; of tokens, the length.")] = None,
    channels: Annotated[int | None, Parameter(help="Repeat the one channel of grey images so often.")] = None,
    degrees: Annotated[
        bool, Parameter(help="Record the polynomial degrees in the input as well; it takes longer.", negative=())
    ] = False,
    threads: Annotated[int, Parameter(help="Of PyTorch, while the trace lasts.")] = 2,
    name: Annotated[str | None, Parameter(help="The title of the report.")] = None,
) -> None:
    """Make the timeline of a training that is over from its checkpoints, and write the report; nothing is trained."""
    from rich.progress import Progress

    from termwise.traced import TraceConfig, run_trace
    from termwise.training import Recording

    recording = Recording(probe=probe, calibration=calibration, unit=_unit(unit), constants=constants, degrees=degrees)
    config = TraceConfig(
        name if name is not None else f"{model} on {data.partition(':')[0]}, from checkpoints",
        model,
        data=data,
        size=size,
        channels=channels,
        output=output,
        recording=recording,
        threads=threads,
    )
    require_single(config.name)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("checkpoints", total=None)
        summary = run_trace(
            config,
            checkpoints,
            directory,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    _tell(summary, directory, "records")


@app.command
def report(
    run: Annotated[
        Path, Parameter(help="The directory of a finished run, or of experiments; or one saved experiment.")
    ],
    /,
    *,
    language: Language = "en",
    open: Open = False,
) -> None:
    """Write the page of a run, or of experiments, again, from what is saved."""
    from termwise.report import write_page

    _show(write_page(run, language=language), open)


@app.command
def compare(
    *runs: Annotated[Path, Parameter(help="Directories of finished runs, two or more.")],
    to: Annotated[Path, Parameter(help="The page to write.")] = Path("comparison.html"),
    language: Language = "en",
    open: Open = False,
) -> None:
    """Write one page of several runs: all of their networks side by side, on equal scales.

    Runs that differ in nothing but their seed are taken together: what holds of all seeds has an interval over them.
    """
    from termwise.report import write_comparison

    _show(write_comparison(runs, to, language=language), open)


def _show(page: Path, open: bool) -> None:
    """Say where a page is, and open it in the browser where that is wanted."""
    print(f"report: {page}")
    if open and not webbrowser.open(page.resolve().as_uri()):
        print("There is no browser here to open it in.", file=sys.stderr)


@app.command
def cite(
    *keys: Annotated[str, Parameter(help="Of works; by default Termwise itself, and the paper whose claims it tests.")],
    format: Annotated[
        Literal["text", "bibtex", "ris"], Parameter(help="To read, or for a reference manager.")
    ] = "text",
    everything: Annotated[bool, Parameter(name="--all", help="The whole literature.", negative=())] = False,
) -> None:
    """Say how to cite Termwise, the paper whose claims it tests, and the works that it rests on."""
    from termwise.literature import cite as cited

    if keys and everything:
        raise UsageError(f"cite: --all has {', '.join(keys)} in it; give one or the other.")
    print(cited(None if everything else keys or ("termwise", "sun2022"), format).rstrip())


@app.command
def mcp(
    *directories: Annotated[Path, Parameter(help="All that may be read; nothing is written.")],
    run_code: Annotated[
        bool, Parameter(help="Let FILE.py:callable run the Python files in them, which can do anything.", negative=())
    ] = False,
) -> None:
    """Serve support, profile, degrees, pruning plans and reports to another program, by the Model Context Protocol."""
    from termwise.integrations.mcp import serve

    serve(directories, run_code=run_code)


def _load(model: str, weights: Path | None, device: str, dtype: str | None, **options: Any) -> tuple[Any, torch.device]:
    """The model where it is to run, and that place."""
    from termwise.inputs import device_of, place

    where = device_of(device)
    precision = None if dtype is None else getattr(torch, dtype)
    if options["lazy_weights"] and where.type != "cpu":
        raise UsageError(f"--lazy-weights reads weights into the memory of the processor; omit --device {device}.")
    network = load_model(model, weights, dtype=precision, **options)
    return (network if options["lazy_weights"] else place(network, where)), where


def _unit(units: Sequence[str] | None) -> Any:
    if not units:
        return "layers"
    return units[0] if len(units) == 1 and units[0] in UNITS else tuple(units)


def _network(spelling: str) -> Any:
    """The configuration of a network as a user spells it."""
    from termwise.nets.names import parse
    from termwise.training import NetworkConfig

    return NetworkConfig(spelling, *parse(spelling))


def _run(config: Any, directory: Path) -> None:
    """Train with a live display, write the report, and say where everything is."""
    from termwise.display import Display
    from termwise.training import run_training

    require_single(config.name)
    console = Console()
    with Display(console) as display:
        summary = run_training(config, directory, progress=display.show)
    _tell(summary, directory, "checkpoints")


def _tell(summary: Any, directory: Path, networks: str) -> None:
    """Write the report, and say what a run shows and where everything is; `networks`: what their folders hold."""
    from termwise.report import write_page

    console = Console()
    page = write_page(directory)
    console.print()
    console.print(summary.verdict, highlight=False, markup=False, soft_wrap=True)
    console.print()
    for label, path in (
        ("report", page),
        ("tables", directory / "tables"),
        ("summary", directory / "summary.json"),
        (networks, directory / "networks"),
    ):
        console.print(f"{label:<12} {path}", highlight=False, markup=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exits with 0, 1 or 2."""
    errors = Console(stderr=True)
    notes = logging.StreamHandler() if speaks() else logging.NullHandler()
    notes.setFormatter(logging.Formatter("termwise: %(message)s"))
    logging.getLogger("termwise").addHandler(notes)
    try:
        app(arguments, exit_on_error=False, print_error=speaks(), result_action="return_none")
    except CycloptsError:
        sys.exit(2)
    except TermwiseError as error:
        # What one process refuses all refuse; but process 0 may be the one that is lost.
        if speaks() or isinstance(error, RunError):
            errors.print(f"termwise: {error}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except msgspec.ValidationError as error:
        errors.print(f"termwise: {error}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        told = f"termwise: {error.filename}: {error.strerror}. Give a place that can be read and written."
        errors.print(told, highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print(
            "termwise: interrupted. A training goes on where it was when its command is given again.", highlight=False
        )
        sys.exit(1)
    finally:
        logging.getLogger("termwise").removeHandler(notes)
