"""What the expansion costs, against the floor and against what people would use instead: one table, in one run.

    python -m benchmarks.performance [--quick] [--threads 1] [--repeats 5] [--only WORD ...]
    python -m benchmarks.performance --write docs/performance.md        the page as well

Run from the root of the repository (`make bench` does).  The whole takes about 25 minutes on two idle cores, --quick a
few minutes: smaller networks where there are, medians of fewer, and no figure to be quoted.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch

from benchmarks import expansion, rivals
from benchmarks.measuring import Row

INTRODUCTION = """\
# What the expansion costs

Every line compares Termwise with a floor or with a peer, measured in turns in one run; there are ratios only, since
seconds say more of the machine than of the program.

- *Termwise* and *other* are times per sample in plain forward passes of the same network, each at its best batch size
  and the median of its repetitions. Where the measure is no time, Termwise's figure is the ratio itself.
- The *floor* of a full expansion is its ideal cost: over all convolutions and matrix products, the width of the window
  of depths plus one for the constants, weighted by their arithmetic. Below a ratio of 1 depths were left out that no
  path has.
- For the floor, gradients, growth, memory and recording the ratio is to be *at most* the bar, and is Termwise / other.
  For peers it is to be *at least* the bar, and is other / Termwise: how many times faster Termwise is.
- *Enumeration* walks every path by itself, in batches, and lets paths that begin alike share their beginning.
  *Sampling* draws random paths of each length (Veit, Wilber and Belongie, 2016, arXiv 1605.06431). *Roots of unity* are
  values of the network in complex arithmetic and an inverse Fourier transform. *Nested jvp* and *jet* differentiate.
  All peers work on networks whose gates were frozen by hand, with batch norms folded into convolutions, and give the
  terms without what is born of constants; `benchmarks/peers.py` and `benchmarks/jets.py` have their code, and a test
  holds each against the expansion.
- Memory is the peak of a fresh process above that of one that runs the plain pass. The window counts all depths from
  the shortest path to the longest, also those that no path has; activations are those that modules return.
"""

# Beginning of a measure -> what was tried where its bar was not met.  Kept by hand: what is no longer true goes.
TRIED: dict[str, str] = {
    "aligned depth": "the plain pass, the derivative and the constants are three passes; what is above them is "
    "element-wise work on the two rows and the calls of operators. Tried, with a gain: adding the value to the "
    "derivative in the memory of the product; a ReLU's own derivative for its gate. Tried without one, and taken out "
    "again: sending the scale of a norm through the step into the convolution before it",
    "roots of unity": "saved arithmetic alone allows about 1.8 on this network (28 rows of real numbers and a plain "
    "pass, against 14 terms in the mean over all blocks, one row of constants and the plain pass); the rest has to "
    "come from cheaper rows. Tried, both with a gain: channels last inside the convolutions of all rows; gates applied "
    "by a ReLU's own derivative in the memory of the product",
    "jax.experimental.jet": "a shallow network is bound by the calls of operators, which jax has compiled away; its "
    "rule for a product grows with the square of the order, which deep networks pay",
}


def groups(repeats: int, quick: bool) -> dict[str, Callable[[], Iterable[Row]]]:
    """What is measured, by the words that --only knows."""
    timed = ("ResNet-56", "ViT-Ti at 224") if quick else expansion.TIMED
    memory = {"ViT-Ti at 224": expansion.MEMORY["ViT-Ti at 224"]} if quick else expansion.MEMORY
    depths = (20, 56) if quick else expansion.DEPTHS
    return {
        "floor": lambda: (row for name in timed for row in expansion.time_rows(name, repeats)),
        "gradient": lambda: [expansion.gradient_row("ResNet-20, projections" if quick else "ResNet-56", repeats)],
        "paths": lambda: rivals.path_rows(repeats),
        "sampling": lambda: [rivals.sampling_row(repeats, updates=10 if quick else 100)],
        "jvp": lambda: rivals.nested_rows(repeats, 14, (2, 3)) if quick else rivals.nested_rows(repeats),
        "jet": lambda: rivals.jet_rows(repeats, (8, 20) if quick else (8, 20, 56)),
        "growth": lambda: expansion.growth_rows(repeats, depths),
        "memory": lambda: (expansion.memory_row(name, samples) for name, samples in memory.items()),
        "recording": lambda: [recording_row(epochs=3)] if not quick else [],
    }


def recording_row(epochs: int) -> Row:
    """What `benchmarks.recording` finds, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.recording", "--epochs", str(epochs)]
    done = subprocess.run([*command, "--threads", str(torch.get_num_threads())], capture_output=True, text=True)
    found = re.search(r"(\d+) records of (\d+) samples.*?= ([0-9.]+) ?%", done.stdout, re.DOTALL)
    if found:
        ratio, note = float(found[3]) / 100, f"{found[1]} records of {found[2]} samples"
    else:
        ratio, note = None, (done.stderr.strip() or "no figure in its output").splitlines()[-1]
    return Row(
        "recording / training", f"ResNet-20, {epochs} epochs of Fashion-MNIST", ratio, None, ratio, 0.05, "at most",
        note=note,
    )  # fmt: skip


def measured(chosen: dict[str, Callable[[], Iterable[Row]]]) -> Iterator[Row]:
    """The rows, with a line on standard error for each as it comes."""
    start = time.perf_counter()
    for name, rows in chosen.items():
        for row in rows():
            minutes = (time.perf_counter() - start) / 60
            print(
                f"{minutes:5.1f} min  {name}: {row.measure}, {row.network}: {row.verdict}", file=sys.stderr, flush=True
            )
            yield row


def table(rows: list[Row]) -> str:
    """The rows in Markdown, aligned, so that it can be read as it is; then their notes."""
    header = ("measure", "network", "Termwise", "other", "ratio", "bar", "verdict")
    lines: list[tuple[str, ...]] = [header]
    notes: list[str] = []
    for row in rows:
        mark = ""
        if row.note:
            # Lines that say the same share a note.
            if row.note not in notes:
                notes.append(row.note)
            mark = f" [{notes.index(row.note) + 1}]"
        bar = f"{row.bound} {row.bar:,g}" + ("" if row.moonshot is None else f"; moonshot {row.moonshot:g}")
        figures = [_figure(row.ours), _figure(row.other), _figure(row.ratio)]
        if row.interval is not None:
            figures[2] += f" [{', '.join(map(_figure, row.interval))}]"
        lines.append((row.measure + mark, row.network, *figures, bar, row.verdict))
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*text, "", *(f"{i}. {note}." for i, note in enumerate(notes, 1))])


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if abs(value) < 1000 else f"{float(f'{value:.2g}'):,.0f}" if value < 1e7 else f"{value:.1e}"


def tried(rows: list[Row], known_ways: Mapping[str, str] = TRIED) -> str:
    """What was tried for each bar that was not met."""
    missed = dict.fromkeys(row.measure for row in rows if row.verdict == "NOT MET")
    lines = []
    for measure in missed:
        known = [text for beginning, text in known_ways.items() if measure.startswith(beginning)]
        lines.append(f"- {measure}: {known[0] if known else 'nothing yet that is worth telling'}.")
    return "\n".join(["Not met, and what was tried:", "", *lines]) if lines else ""


def machine() -> str:
    """The cores and the memory of this machine, and PyTorch's version."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    threads = torch.get_num_threads()
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB of memory; PyTorch {torch.__version__.partition('+')[0]} on "
        f"{threads} thread{'s' if threads > 1 else ''}"
    )


def main() -> None:
    """Measure, print the table, and write the page where it is asked for."""
    parser = argparse.ArgumentParser(description="What the expansion costs, against the floor and against its peers.")
    parser.add_argument("--quick", action="store_true", help="fewer networks and repetitions, for development")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, help="timed calls that a median is of: 5, or 2 with --quick")
    parser.add_argument("--only", nargs="*", metavar="WORD", choices=list(groups(1, True)), help="some of the measures")
    parser.add_argument("--write", type=Path, metavar="FILE", help="where to write the page")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    torch.set_num_threads(options.threads)
    repeats = options.repeats or (2 if options.quick else 5)
    chosen = groups(repeats, options.quick)
    rows = list(measured({word: chosen[word] for word in options.only or chosen}))
    how = f"{machine()}. Medians of {repeats}" + (
        ", a quick run: for its form, not for its figures." if options.quick else "."
    )
    parts = [how, table(rows), tried(rows), rivals.limits() if "jet" in (options.only or chosen) else ""]
    output = "\n\n".join(part for part in parts if part)
    print(output)
    if options.write:
        options.write.write_text(f"{INTRODUCTION}\n{wrapped(output)}\n")


def wrapped(text: str) -> str:
    """Lines of prose broken as in the other pages; tables as they are."""
    return "\n".join(
        line if line.startswith("|") else "\n".join(textwrap.wrap(line, 120, subsequent_indent=_indent(line)))
        for line in text.splitlines()
    )


def _indent(line: str) -> str:
    found = re.match(r"(- |\d+\. )", line)
    return " " * len(found[0]) if found else ""


if __name__ == "__main__":
    main()
