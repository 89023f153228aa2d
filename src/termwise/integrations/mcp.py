"""Termwise for programs: a server of the Model Context Protocol, over standard input and output.

The tools are the verbs of the command, with typed arguments and small typed answers.  They read what lies in the
folders that the server was started with (`termwise.integrations.folders`), write nothing, and use no network.  One tool
runs at a time, in a thread of its own, so that the server still answers while it computes; others wait for their turn.
What Termwise refuses is the error of the tool, in Termwise's own words.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from termwise.data import load
from termwise.degree import degrees as measure_degrees
from termwise.errors import TermwiseError, UsageError, first_line
from termwise.inputs import check_input, device_of, example, place, shaped
from termwise.integrations import answers
from termwise.integrations.answers import DegreesAnswer, ProfileAnswer, PruneAnswer, ReportAnswer, SupportAnswer
from termwise.integrations.folders import Folders
from termwise.models import load_model
from termwise.profile import profile as measure_profile
from termwise.pruning import prune as shorten
from termwise.pruning.methods import MethodName
from termwise.report.reading import Run
from termwise.report.results import read_saved
from termwise.steps import UNITS
from termwise.support import support as ask

_Pair = tuple[Tensor, Tensor]
Precision = Literal["float64", "float32", "bfloat16", "float16"]

PARAMETERS = {
    "model": "timm:NAME, torchvision:NAME (both with random weights unless weights are given), hf:DIR (a directory "
    "written by save_pretrained), or FILE.py:callable (only where the server was started with --run-code).",
    "data": "What to measure on: digits, induction, fashion-mnist:DIR, cifar10:DIR, tokens:FILE, FILE.npz, or "
    "FILE.py:callable (only with --run-code).",
    "weights": "A .safetensors file, or a .pt, .pth, .bin or .ckpt file of plain tensors.",
    "shape": "Of one sample, such as 3x224x224; by default the one that the model was made for.",
    "unit": "What a step of depth is: layers, blocks, activations, or a list of names of modules.",
    "constants": "Keep what constants bring in one, or split it by depth as well.",
    "output": "Key or index of the tensor to look at, where the model returns several.",
    "strict": "Refuse operators that have no rule of their own.",
    "dtype": "What an hf: model computes in; float32 by default.",
    "device": "cpu, cuda, cuda:1 or mps.",
    "size": "Resize images to so many pixels; of tokens, the length of a sequence.",
    "channels": "Repeat the one channel of grey images so often.",
    "samples": "How many to measure on, at most: of the test part (profile, 1024), of the training part as well "
    "(prune, 1024); circles (degrees, 2000), or real inputs (degrees, 20000).",
    "chunk": "Samples that are expanded at once, a power of two; by default what memory holds.",
    "inputs": "Gaussian with the moments of the data (fitted), N(0, I) (standard), uniform on -1 and 1 (boolean), or "
    "the data themselves, by polynomials in their first components (real).",
    "highest": "Degree: of the fit to circles (12), of polynomials (3).",
    "angles": "Points on a circle; by default as many as are needed.",
    "components": "Of real inputs (10).",
    "seed": "Of everything that is drawn at random.",
    "keep": "Keep this fraction of all blocks. Give exactly one of keep, flops, latency and loss.",
    "flops": "Keep at most this fraction of the operations.",
    "latency": "Keep at most this fraction of the time of a pass.",
    "loss": "Take out what this loss on the test part allows.",
    "method": "What blocks are chosen by: the expansion, or a rival.",
    "blocks": "Names of the modules that may go; by default all that can.",
    "path": "The directory of a finished run or of experiments, or one saved experiment.",
    "language": "Of the sentences: English or Chinese.",
}
"""What each argument means; one of the same name means the same in every tool."""

# The most that may be asked for: one tool runs at a time, and a slip of zeros would hold it for days.
_MOST = {"samples": 100_000, "size": 8192, "channels": 4096, "highest": 100, "angles": 100_000, "components": 1000}
_NUMBERS = 2**26  # in a made-up input

_log = logging.getLogger(__name__)


class Tools:
    """The verbs of the command, on what lies in some folders."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def support(
        self,
        model: str,
        *,
        shape: str | None = None,
        weights: str | None = None,
        unit: str | list[str] = "layers",
        output: int | str | None = None,
        dtype: Precision | None = None,
        device: str = "cpu",
    ) -> SupportAnswer:
        """Say what a model is to Termwise and what its expansion by depth will cost, before any real work.

        Answers with the depths of its paths, its residual blocks, how every operator is treated, and what is missing.
        """
        network, where = self._load(model, weights, device, dtype)
        found = ask(network, example(network, model, shape, where), unit=_unit(unit), output=output)
        return answers.of_support(found)

    def profile(
        self,
        model: str,
        *,
        data: str = "digits",
        weights: str | None = None,
        unit: str | list[str] = "layers",
        constants: Literal["pooled", "by_depth"] = "pooled",
        output: int | str | None = None,
        strict: bool = False,
        size: int | None = None,
        channels: int | None = None,
        samples: int = 1024,
        chunk: int | None = None,
        dtype: Precision | None = None,
        device: str = "cpu",
    ) -> ProfileAnswer:
        """Measure how much of a model's output comes from its paths of each depth, exactly.

        With gates held at their values the output is a sum of terms, one for each number of steps on a path. A share
        says what a depth contributes; it does not say what would be left without it.
        """
        network, _ = self._load(model, weights, device, dtype)
        _, test = self._parts(data, size, channels, samples)
        check_input(network, test[0][:1], model, data)
        result = measure_profile(
            network,
            test,
            unit=_unit(unit),
            constants=constants,
            output=output,
            strict=strict,
            batch_size=max(32, chunk or 0),
            chunk=chunk,
        )
        return answers.of_profile(result)

    def degrees(
        self,
        model: str,
        *,
        data: str = "digits",
        inputs: Literal["fitted", "standard", "boolean", "real"] = "fitted",
        weights: str | None = None,
        output: int | str | None = None,
        size: int | None = None,
        channels: int | None = None,
        samples: int | None = None,
        highest: int | None = None,
        angles: int | None = None,
        components: int | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> DegreesAnswer:
        """Measure of which polynomial degrees a model is made, as a function of its input.

        A degree belongs to a function and a distribution of inputs: another distribution gives another spectrum.
        """
        network, _ = self._load(model, weights, device, None)
        chosen = shaped(load(self._folders.data(data), size=size), channels)
        x = torch.cat([chosen.train_inputs, chosen.test_inputs]) if inputs == "real" else chosen.train_inputs
        check_input(network, x[:1], model, data)
        result = measure_degrees(
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
        )
        return answers.of_degrees(result)

    def prune(
        self,
        model: str,
        *,
        keep: float | None = None,
        flops: float | None = None,
        latency: float | None = None,
        loss: float | None = None,
        method: MethodName = "expansion",
        blocks: list[str] | None = None,
        data: str = "digits",
        weights: str | None = None,
        output: int | str | None = None,
        size: int | None = None,
        channels: int | None = None,
        samples: int = 1024,
        dtype: Precision | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> PruneAnswer:
        """Plan which residual blocks to take out of a model: predicted by frozen gates, then taken out and measured.

        Blocks are chosen on the training part of the data, and losses measured on the test part. Nothing is trained or
        written; the command `termwise prune` with the same arguments writes the shortened model.
        """
        network, _ = self._load(model, weights, device, dtype)
        train, test = self._parts(data, size, channels, samples)
        check_input(network, train[0][:1], model, data)
        plan = shorten(
            network,
            train,
            test=test,
            keep=keep,
            flops=flops,
            latency=latency,
            loss=loss,
            method=method,
            blocks=blocks,
            output=output,
            seed=seed,
        )
        return answers.of_plan(plan)

    def report(self, path: str, *, language: Literal["en", "zh"] = "en") -> ReportAnswer:
        """Read what a finished run, or some experiments, found.

        Answers with the verdict, the titles of the figures (findings computed from the data), closures of a run's
        networks, and what experiments found beside what was expected. The seed of a single run decides no claim.
        """
        found = read_saved(self._folders.folder(path))
        if isinstance(found, Run):
            return answers.of_run(found, language)
        return answers.of_experiments(found, language)

    def _parts(self, data: str, size: int | None, channels: int | None, samples: int) -> tuple[_Pair, _Pair]:
        """So many inputs and targets of the training part, and of the test part."""
        if samples < 1:
            raise UsageError(f"samples is {samples}: give at least 1.")
        chosen = shaped(load(self._folders.data(data), size=size), channels)
        train = chosen.train_inputs[:samples], chosen.train_targets[:samples]
        return train, (chosen.test_inputs[:samples], chosen.test_targets[:samples])

    def _load(self, model: str, weights: str | None, device: str, dtype: Precision | None) -> tuple[Any, torch.device]:
        where = device_of(device)
        file = None if weights is None else self._folders.file(weights)
        precision = None if dtype is None else getattr(torch, dtype)
        return place(load_model(self._folders.model(model), file, dtype=precision), where), where


def _unit(unit: str | Sequence[str]) -> str | tuple[str, ...]:
    """As on the command line: a name that is no unit is that of a module."""
    if isinstance(unit, str):
        return unit if unit in UNITS else (unit,)
    return tuple(unit)


# --- the server ---


def serve(folders: Sequence[str | os.PathLike[str]], *, run_code: bool = False) -> None:
    """Serve the tools over standard input and output until that is closed.

    Args:
        folders: what may be read.
        run_code: let FILE.py:callable run the Python files in them.

    Raises:
        UsageError: a folder is not there, or the extra is not installed.
    """
    ready = server(Folders(folders, run_code=run_code))
    # What is imported late must not be found where files are served: `python -m` looks in the working directory first.
    sys.path[:] = [path for path in sys.path if path and Path(path).resolve() != Path.cwd()]
    # Read when that library is imported, which is when a model first asks for it.
    os.environ["HF_HUB_OFFLINE"] = "1"
    ready.run("stdio")
    computing = [
        thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()
    ]
    for thread in computing:
        thread.join(1)
    if any(thread.is_alive() for thread in computing):  # for nobody: who asked is gone
        sys.stderr.flush()
        os._exit(0)


def server(folders: Folders) -> Any:
    """The server, an `mcp.server.mcpserver.MCPServer`.

    Raises:
        UsageError: the extra is not installed.
    """
    try:
        from anyio import CapacityLimiter
        from mcp.server.mcpserver import MCPServer
    except ImportError as error:
        raise UsageError(f"mcp cannot be imported ({error}). Install it: pip install 'termwise[mcp]'") from error
    tools = Tools(folders)
    turns = _Turns(CapacityLimiter(1), threading.Lock())
    verbs: list[Callable[..., Any]] = [tools.support, tools.profile, tools.degrees, tools.prune, tools.report]
    return MCPServer(
        "termwise",
        version=version("termwise"),
        instructions=_instructions(folders),
        tools=[_tool(verb, turns) for verb in verbs],
        log_level="WARNING",
    )


def _instructions(folders: Folders) -> str:
    code = "may be run" if folders.run_code else "are not run"
    return (
        "Termwise says how much of a neural network's output comes from its paths of each depth, and of which "
        f"polynomial degrees it is made. Files are read in {', '.join(map(str, folders.roots))} alone, by names "
        f"relative to these; Python files {code}, nothing is written or downloaded. Ask for support before a profile, "
        "and look at the closure of every result first."
    )


def _tool(verb: Callable[..., Any], turns: _Turns) -> Any:
    """A verb as a tool: arguments described, unknown ones refused."""
    from mcp.server.mcpserver.tools import Tool
    from mcp_types import ToolAnnotations

    annotations = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    tool = Tool.from_function(_in_turn(verb, turns), annotations=annotations, structured_output=True)
    model = tool.fn_metadata.arg_model
    model.model_config["extra"] = "forbid"  # else a misspelt argument would be dropped without a word
    model.model_rebuild(force=True)
    tool.parameters = model.model_json_schema(by_alias=True)
    for name, schema in tool.parameters["properties"].items():
        schema["description"] = PARAMETERS[name]
    return tool


def _check_sizes(arguments: Mapping[str, Any]) -> None:
    """Refuse what would never be answered.

    Raises:
        UsageError: a number is too large.
    """
    for name, most in _MOST.items():
        if (arguments.get(name) or 0) > most:
            raise UsageError(f"{name} is {arguments[name]}: give at most {most} here, for other tools wait meanwhile.")
    shape = arguments.get("shape") or ""
    lengths = [float(length) for length in re.findall(r"\d+", shape)]
    if math.prod(lengths) > _NUMBERS:
        raise UsageError(f"shape is {shape[:60]}: give one of at most {_NUMBERS} numbers here.")


@dataclasses.dataclass(frozen=True)
class _Turns:
    """One tool at a time: calls wait for the limiter, which a cancelled one leaves, and its thread keeps the lock."""

    limiter: Any
    lock: threading.Lock


def _in_turn(verb: Callable[..., Any], turns: _Turns) -> Callable[..., Awaitable[Any]]:
    """The verb in a thread, one at a time; what is refused is an error of the tool."""
    from anyio import to_thread
    from mcp.server.mcpserver.exceptions import ToolError

    @functools.wraps(verb)
    async def run(**arguments: Any) -> Any:
        try:
            _check_sizes(arguments)
            work = functools.partial(_noted, verb, arguments, turns.lock)
            return await to_thread.run_sync(work, limiter=turns.limiter, abandon_on_cancel=True)
        except TermwiseError as error:
            raise ToolError(str(error)) from error
        except SystemExit as error:  # of a Python file that was run: the server is not its to end
            raise ToolError(f"the code that was run called sys.exit({error.code!r}).") from error
        except Exception as error:  # of the model, or of its library: who asked would only be told that it failed
            _log.warning("%s failed", verb.__name__, exc_info=True)
            raise ToolError(f"it failed with {type(error).__name__}: {first_line(error)}") from error

    return run


def _noted(verb: Callable[..., Any], arguments: Mapping[str, Any], lock: threading.Lock) -> Any:
    """The answer, with what Termwise logged and warned of meanwhile."""
    with lock, _notes() as notes:
        answer = verb(**arguments)
    return dataclasses.replace(answer, notes=notes)


class _Notes(logging.Handler):
    """Keeps what is logged by the thread that it was made in."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.lines.append(record.getMessage())


@contextlib.contextmanager
def _notes() -> Iterator[list[str]]:
    handler, log = _Notes(), logging.getLogger("termwise")
    log.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            yield handler.lines
        handler.lines += [str(each.message) for each in caught if each.category.__module__.startswith("termwise.")]
    finally:
        log.removeHandler(handler)
