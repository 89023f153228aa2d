"""Models larger than memory: a Llama expanded to full depth in less memory than its weights take, and what that costs.

    python -m benchmarks.large [--write] [--sequences 2] [--tokens 64] [--networks stories15M ...]

Every network has random weights (bfloat16 in the file, standard deviation 0.02) and the shape of a published Llama; it
is written piece by piece, read lazily in fresh processes, and computed in float32.  The output is the logits of the
last position.  Three parts:

The limit: TinyLlama's shape on one short sequence under RLIMIT_DATA, which counts every private writable byte that the
process has mapped: all anonymous memory, and files while they are mapped by safetensors.  It is below the size of the
weights; the same process that loads the same model whole, in bfloat16, must die under it.

The batch: the same network without the limit on more tokens.

The rule: several sizes, a formula for time, memory and traffic fitted to them, and what it says of larger models.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.optimize import nnls
from torch import Tensor

PAGE = Path(__file__).parents[1] / "docs" / "large-models.md"
GIB = 2**30
LIMIT = int(1.8e9)  # bytes of data; the weights of TinyLlama are 2.2e9
SHORT = (1, 16)
KEPT = 4.0  # bytes of a number in float32


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a Llama, its embedding and its head untied."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    groups: int
    vocabulary: int

    def tensors(self) -> Iterator[dict[str, tuple[int, ...]]]:
        """The weights by name, one piece after the other: embedding, layers, head."""
        h, i = self.hidden, self.intermediate
        kv = h // self.heads * self.groups
        yield {"model.embed_tokens.weight": (self.vocabulary, h)}
        for layer in range(self.layers):
            attention = {"q_proj": (h, h), "k_proj": (kv, h), "v_proj": (kv, h), "o_proj": (h, h)}
            perceptron = {"gate_proj": (i, h), "up_proj": (i, h), "down_proj": (h, i)}
            piece: dict[str, tuple[int, ...]] = {f"self_attn.{name}.weight": size for name, size in attention.items()}
            piece |= {f"mlp.{name}.weight": size for name, size in perceptron.items()}
            piece |= {"input_layernorm.weight": (h,), "post_attention_layernorm.weight": (h,)}
            yield {f"model.layers.{layer}.{name}": size for name, size in piece.items()}
        yield {"model.norm.weight": (h,), "lm_head.weight": (self.vocabulary, h)}

    @property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        return sum(int(np.prod(size)) for piece in self.tensors() for size in piece.values())

    def work(self, sequences: int, tokens: int) -> float:
        """Sum over all products of FLOPs x (width of the window of depths + 1): the ideal cost times one plain pass.

        A layer is entered by depths 0 to 4 l; its attention takes values and output through two weights, and so does
        its perceptron, which is entered by depths 0 to 4 l + 2.
        """
        flops = self._flops(sequences, tokens)
        layers = range(self.layers)
        attention = sum((4 * layer + 2) * flops["attention"] for layer in layers)
        perceptron = sum((4 * layer + 4) * flops["perceptron"] for layer in layers)
        return attention + perceptron + (4 * self.layers + 2) * flops["head"]

    def ideal_cost(self, sequences: int, tokens: int) -> float:
        """The same over the FLOPs of one plain pass."""
        flops = self._flops(sequences, tokens)
        plain = self.layers * (flops["attention"] + flops["perceptron"]) + flops["head"]
        return self.work(sequences, tokens) / plain

    def _flops(self, sequences: int, tokens: int) -> dict[str, float]:
        h, kv, positions = self.hidden, self.hidden // self.heads * self.groups, sequences * tokens
        return {
            "attention": positions * (4 * h * h + 4 * h * kv + 4 * tokens * h),
            "perceptron": positions * 6 * h * self.intermediate,
            "head": sequences * 2 * h * self.vocabulary,
        }

    def widest(self, sequences: int, tokens: int) -> float:
        """Bytes of the widest window x its activation: inside the last perceptron, or the logits."""
        inside = (2 * self.layers + 1) * sequences * tokens * self.intermediate
        return KEPT * max(inside, (2 * self.layers + 1) * sequences * self.vocabulary)

    @property
    def largest(self) -> float:
        """Bytes of the largest module's weights, as they are computed with."""
        return KEPT * self.hidden * max(self.vocabulary, self.intermediate)


NETWORKS = {
    "stories15M": Shape(6, 288, 768, 6, 6, 32000),
    "stories42M": Shape(8, 512, 1376, 8, 8, 32000),
    "stories110M": Shape(12, 768, 2048, 12, 12, 32000),
    "SmolLM-360M": Shape(32, 960, 2560, 15, 5, 49152),
    "TinyLlama-1.1B": Shape(22, 2048, 5632, 32, 4, 32000),
}
PUBLISHED = {
    "Llama 8 B": Shape(32, 4096, 14336, 32, 8, 128256),
    "Llama 70 B": Shape(80, 8192, 28672, 64, 8, 128256),
}
LARGEST = "TinyLlama-1.1B"


def write(shape: Shape, directory: Path) -> None:
    """A model in a directory, as save_pretrained would write it, with never more than one piece of it in memory."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(directory)
    generator = torch.Generator().manual_seed(0)
    place: dict[str, str] = {}
    for number, piece in enumerate(shape.tensors()):
        file = f"model-{number:05}.safetensors"
        numbers = {name: _numbers(size, generator) for name, size in piece.items()}
        save_file(numbers, directory / file, metadata={"format": "pt"})
        place |= dict.fromkeys(piece, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))


def _numbers(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    return torch.empty(size, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)


# In the fresh process.


class AnonymousPeak(threading.Thread):
    """The greatest anonymous memory of this process, looked at every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._over = threading.Event()

    def run(self) -> None:
        """Look until told to stop."""
        while not self._over.wait(0.005):
            self.bytes = max(self.bytes, status("RssAnon"))

    def stop(self) -> int:
        """The greatest value seen, in bytes."""
        self._over.set()
        self.join()
        return max(self.bytes, status("RssAnon"))


def status(field: str) -> int:
    """A size of this process, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(field)).split()[1]) * 1024


def task(directory: Path, sequences: int, tokens: int, limit: int, how: str) -> dict[str, Any]:
    """Load and expand; what was found."""
    torch.set_num_threads(1)
    from termwise import expand
    from termwise.lazy import FileWeights
    from termwise.models import load_model

    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    if how == "whole":
        load_model(f"hf:{directory}", dtype=torch.bfloat16)
        return {"loaded": True}
    read: dict[str, int] = {}
    original = FileWeights.__getitem__

    def counted(self: FileWeights, key: str) -> Tensor:
        tensor = original(self, key)
        read[key] = read.get(key, 0) + tensor.numel() * tensor.element_size()
        return tensor

    FileWeights.__getitem__ = counted
    model = load_model(f"hf:{directory}", lazy_weights=True)
    before = status("RssAnon")
    x = torch.randint(model.config.vocab_size, (sequences, tokens), generator=torch.Generator().manual_seed(1))
    peak = AnonymousPeak()
    peak.start()
    wall, spent = time.perf_counter(), time.process_time()
    found = expand(model, x, forward=lambda m, x: m(input_ids=x, use_cache=False, logits_to_keep=1))
    seconds = {"wall": time.perf_counter() - wall, "seconds": time.process_time() - spent}
    norms = {depth: float(term.double().norm(dim=-1).mean()) for depth, term in found.terms.items()}
    return {
        "closure": found.closure,
        "depths": [min(found.depths), max(found.depths), len(found.depths)],
        "mean": sum(depth * norm for depth, norm in norms.items()) / sum(norms.values()),
        "ideal": found.ideal_cost,
        "before": before,
        "anonymous": peak.stop(),
        "resident": status("VmHWM"),
        "traffic": sum(read.values()),
        **seconds,
    }


# In the first process.


def run(directory: Path, sequences: int, tokens: int, *, limit: int = 0, how: str = "lazy") -> dict[str, Any]:
    """The task in a fresh process; {"died": the last line that it said} where it did not end well."""
    options = json.dumps([str(directory), sequences, tokens, limit, how])
    command = [sys.executable, "-m", "benchmarks.large", "--task", options]
    # What malloc and thread pools keep in reserve would count against the limit.
    quiet = {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "4194304",
        "OMP_NUM_THREADS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    quiet["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | quiet)
    if done.returncode:
        return {"died": (done.stderr.strip().splitlines() or [f"signal {-done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def told(found: dict[str, Any]) -> str:
    """One expansion in a few lines."""
    low, high, count = found["depths"]
    return (
        f"closure {found['closure']:.1e}; {count} terms, depths {low} to {high}; mean path length {found['mean']:.2f}\n"
        f"{found['seconds']:.0f} s of one core; memory: {found['anonymous'] / 1e9:.2f} GB anonymous at its peak "
        f"({found['before'] / 1e9:.2f} of it before the run), {found['resident'] / 1e9:.2f} GB resident with what "
        f"was mapped of files; {found['traffic'] / 1e9:.2f} GB of weights read"
    )


def limited(directory: Path, shape: Shape) -> str:
    """The expansion in less memory than the weights take, and the check that the limit bites."""
    whole = run(directory, *SHORT, limit=LIMIT, how="whole")
    if "died" not in whole:
        raise SystemExit("the limit does not bite: the model was loaded whole under it")
    found = run(directory, *SHORT, limit=LIMIT)
    if "died" in found:
        raise SystemExit(f"the expansion died under the limit: {found['died']}")
    return (
        f"{LARGEST}, {shape.parameters / 1e9:.2f} billion parameters, {2 * shape.parameters / 1e9:.2f} GB in the file; "
        f"RLIMIT_DATA {LIMIT / 1e9:.2f} GB; {SHORT[0]} sequence of {SHORT[1]} tokens\n"
        f"loaded whole in bfloat16: ended by the limit ({whole['died'].replace(str(directory), 'DIR')[:200]})\n"
        f"read lazily: {told(found)}"
    )


def fitted(rows: Sequence[tuple[Shape, int, int, dict[str, Any]]]) -> tuple[np.ndarray, np.ndarray]:
    """By least squares: seconds a unit of (work, bytes of weights, layers), and bytes a unit of (widest, largest).

    No coefficient is negative, and every measurement counts by its relative error.
    """

    def slopes(measured: list[float], causes: list[list[float]]) -> np.ndarray:
        scale = np.array(measured)
        return nnls(np.array(causes) / scale[:, None], np.ones(len(scale)))[0]

    seconds = slopes(
        [found["seconds"] for *_, found in rows],
        [[shape.work(n, t), 2.0 * shape.parameters, shape.layers] for shape, n, t, _ in rows],
    )
    memory = slopes(
        [float(found["anonymous"] - found["before"]) for *_, found in rows],
        [[shape.widest(n, t), shape.largest] for shape, n, t, _ in rows],
    )
    return seconds, memory


def rule(rows: Sequence[tuple[str, int, int, dict[str, Any]]], sequences: int, tokens: int) -> str:
    """The table of sizes, measured and by the formula, and what the formula says of larger ones."""
    known = [(NETWORKS[name], n, t, found) for name, n, t, found in rows]
    (work, weights, layer), (window, module) = fitted(known)
    lines = [
        "| network | parameters | tokens | ideal cost | seconds | formula | memory, GB | formula | read, GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def line(name: str, shape: Shape, n: int, t: int, found: dict[str, Any] | None) -> str:
        seconds = work * shape.work(n, t) + weights * 2 * shape.parameters + layer * shape.layers
        memory = window * shape.widest(n, t) + module * shape.largest
        measured = "" if found is None else f"{found['seconds']:.1f}"
        peak = "" if found is None else f"{(found['anonymous'] - found['before']) / 1e9:.2f}"
        read = 2 * shape.parameters if found is None else found["traffic"]
        return (
            f"| {name} | {shape.parameters / 1e6:,.0f} M | {n} x {t} | {shape.ideal_cost(n, t):.1f} | {measured} | "
            f"{seconds:,.1f} | {peak} | {memory / 1e9:.2f} | {read / 1e9:.2f} |"
        )

    lines += [line(name, NETWORKS[name], n, t, found) for name, n, t, found in rows]
    lines += [line(f"{name}, extrapolated", shape, sequences, tokens, None) for name, shape in PUBLISHED.items()]
    rate = f"work / {1 / work / 1e9:.1f} GFLOP/s" if work else "0 x work"
    return "\n".join(lines) + (
        f"\n\nseconds = {rate} + {weights * 1e9:.2f} s x GB of weights + {layer:.3f} s x layers, "
        f"with work = FLOPs of a plain pass x ideal cost;  \n"
        f"memory = {window:.1f} x (rows of the widest window x its activation) + {module:.1f} x "
        "(largest module in float32), over what the process held before the run;  \n"
        "read = the weights, once for each batch."
    )


def main() -> None:
    """Measure, print, and write the page if that is asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put what was measured into docs/large-models.md")
    parser.add_argument("--sequences", type=int, default=2, help="of the batch that is not limited")
    parser.add_argument("--tokens", type=int, default=64, help="of each sequence of the batch")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        directory, *numbers = json.loads(options.task)
        print(json.dumps(task(Path(directory), *numbers)))
        return
    written = "\n\n".join(measured(options.networks, options.sequences, options.tokens))
    if options.write:
        page = PAGE.read_text()
        PAGE.write_text(
            re.sub(r"(?s)(<!-- measured -->\n).*(<!-- end -->)", lambda m: m[1] + written + "\n" + m[2], page)
        )


def measured(networks: Sequence[str], sequences: int, tokens: int) -> Iterator[str]:
    """The parts of the page, printed as they come."""

    def said(text: str) -> str:
        print(text, flush=True)
        return text

    rows: list[tuple[str, int, int, dict[str, Any]]] = []
    for name in networks:
        shape = NETWORKS[name]
        with tempfile.TemporaryDirectory() as folder:
            write(shape, Path(folder))
            if name == LARGEST:
                yield said(f"```text\n{limited(Path(folder), shape)}\n```")
            for n, t in (SHORT, (sequences, tokens)):
                found = run(Path(folder), n, t)
                if "died" in found:
                    raise SystemExit(f"{name}, {n} x {t}: {found['died']}")
                expected = shape.ideal_cost(n, t)
                if abs(found["ideal"] / expected - 1) > 0.01 or found["traffic"] != 2 * shape.parameters:
                    raise SystemExit(f"{name}: the formula is not that of the program: {expected}, {found}")
                rows.append((name, n, t, found))
                print(f"{name}, {n} x {t}: {told(found)}", file=sys.stderr, flush=True)
    yield said(rule(rows, sequences, tokens))
    heading = f"{rows[-1][0]} without the limit, {sequences} x {tokens} tokens"
    yield said(f"```text\n{heading}\n{told(rows[-1][3])}\n```")


if __name__ == "__main__":
    main()
