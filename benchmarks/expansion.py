"""What the expansion costs: time and memory against the floor, side by side in one run.

    python benchmarks/expansion.py [--threads 1] [--repeats 7] [--networks ResNet-20 ...]

Time: `expand` per sample at its best batch size, over (ideal cost x one plain forward pass per sample at its own best
batch size).  The ideal cost of a program is the sum over its convolutions and matrix products of (width of the window
of depths + 1 for the constants) x FLOPs, over the sum of FLOPs: what all terms cost were only arithmetic paid.
A ratio of 1 is that floor; below 1 the expansion left out depths that no path has.

Memory: peak of a fresh process that expands, less that of a fresh process that runs the plain pass, over (widest window
x largest activation).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from termwise import expand, nets

TIME_BAR, MEMORY_BAR = 1.6, 4.0
MEMORY_BATCH = 640
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-20": lambda: nets.resnet(20),
    "ResNet-20, projections": lambda: nets.resnet(20, shortcut="projection"),
    "ResNet-56": lambda: nets.resnet(56),
    "ResNet-56, projections": lambda: nets.resnet(56, shortcut="projection"),
    "DenseNet-22 (k=12)": lambda: nets.densenet(22, 12),
}


def seconds(run: Callable[[Tensor], object], x: Tensor) -> float:
    """One call, timed."""
    start = time.perf_counter()
    run(x)
    return time.perf_counter() - start


def best_per_sample(
    runs: dict[str, Callable[[Tensor], object]], repeats: int, sizes: tuple[int, ...]
) -> dict[str, tuple[float, int]]:
    """For each run the least median time per sample over batch sizes, in seconds, and the size that gave it.

    The runs take turns, so that a machine that slows down slows all of them.
    """
    times: dict[tuple[str, int], list[float]] = {}
    for turn in range(repeats + 1):
        for size in sizes:
            for name, run in runs.items():
                spent = seconds(run, images(size)) / size
                if turn:  # the first turn warms up
                    times.setdefault((name, size), []).append(spent)
    return {name: min((statistics.median(times[name, size]), size) for size in sizes) for name in runs}


def images(n: int) -> Tensor:
    """A batch of random 32 x 32 colour images."""
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(n))


def plain_pass(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """One forward pass without gradients."""

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x)

    return run


def time_row(name: str, repeats: int) -> str:
    """One line of the table of times."""
    model = NETWORKS[name]().eval()
    runs = {"plain": plain_pass(model), "expand": lambda x: expand(model, x)}
    best = best_per_sample(runs, repeats, (8, 16, 32, 64))
    (plain, plain_size), (whole, size) = best["plain"], best["expand"]
    ideal = expand(model, images(2)).ideal_cost
    ratio = whole / (ideal * plain)
    verdict = "met" if ratio <= TIME_BAR else "NOT MET"
    return (
        f"{name:<24} {ideal:6.2f} {plain * 1e3:9.3f} ({plain_size:>3}) {whole * 1e3:9.3f} ({size:>3})"
        f" {whole / plain:8.2f} {ratio:7.2f}  {verdict}"
    )


def peak_bytes(task: str) -> int:
    """The peak memory of a fresh process that runs `task` ("plain" or "expand") once."""
    command = [sys.executable, __file__, "--memory-task", task]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory_task(task: str) -> None:
    """Run in the fresh process: print the peak resident size in bytes."""
    torch.set_num_threads(1)
    model = nets.resnet(20, shortcut="projection").eval()
    x = images(MEMORY_BATCH)
    if task == "plain":
        plain_pass(model)(x)
    else:
        expand(model, x)
    # VmHWM belongs to this program alone; ru_maxrss would count the parent's memory at the fork.
    status = Path("/proc/self/status").read_text()
    print(int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024)


def memory_row() -> str:
    """Peak memory against the widest window times the largest activation."""
    model = nets.resnet(20, shortcut="projection").eval()
    sizes: list[int] = []
    hooks = [
        m.register_forward_hook(lambda m, a, out: sizes.append(out.numel() * out.element_size()))
        for m in model.modules()
    ]
    plain_pass(model)(images(1))
    for hook in hooks:
        hook.remove()
    depths = expand(model, images(1)).depths
    unit = (depths[-1] - depths[0] + 1) * max(sizes) * MEMORY_BATCH
    plain, whole = peak_bytes("plain"), peak_bytes("expand")
    ratio = (whole - plain) / unit
    verdict = "met" if ratio <= MEMORY_BAR else "NOT MET"
    return (
        f"ResNet-20, projections, batch {MEMORY_BATCH}: widest window x largest activation {unit / 1e6:.0f} MB;\n"
        f"peak {whole / 1e6:.0f} MB, plain pass {plain / 1e6:.0f} MB, difference / unit = {ratio:.2f} "
        f"(bar {MEMORY_BAR}: {verdict})"
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="What the expansion costs: time and memory against the floor.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--memory-task", choices=["plain", "expand"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_task:
        memory_task(options.memory_task)
        return
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s); ms per sample (best batch size)\n")
    print(
        f"{'network':<24} {'ideal':>6} {'plain':>9} {'':>5} {'expand':>9} {'':>5} {'x plain':>8} {'ratio':>7}"
        f"  bar {TIME_BAR}"
    )
    for name in options.networks:
        print(time_row(name, options.repeats), flush=True)
    print("\n" + memory_row())


if __name__ == "__main__":
    main()
