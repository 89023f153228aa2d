"""Chunks: other chunks give the same numbers, running out loses nothing, and what cannot be cut is not cut silently."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from termwise import DepthProfile, Recorder, chunks, expand, nets, profile, support
from termwise.chunks import free_memory, ran_out
from termwise.errors import ModelError, UsageError
from termwise.series import Series

REFUSED = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nets.resnet(8, width=4, classes=5)


def samples(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.randint(0, 5, (count,), generator=generator)


class Tight(nn.Module):
    """A model on a machine that holds the terms of a few samples: `holds`, or a number for each expansion."""

    def __init__(
        self, network: nn.Module, holds: int | list[int], error: Callable[[], Exception] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.error = error or (lambda: RuntimeError(REFUSED))
        self.holds = iter(holds) if isinstance(holds, list) else itertools.repeat(holds)

    def forward(self, x: Tensor) -> Tensor:
        out = self.network(x)
        if not isinstance(x, Series):
            return out  # a plain pass takes little
        if len(x) > next(self.holds):
            raise self.error()
        return out


def agree(left: DepthProfile, right: DepthProfile) -> None:
    """To rounding, intervals included; what is counted, exactly."""
    assert left.samples == right.samples and left.depths == right.depths and left.accuracy == right.accuracy
    for table, other in ((left.share, right.share), (left.truncated, right.truncated)):
        for name in table.columns:
            if table[name].dtype.kind == "f":
                np.testing.assert_allclose(table[name], other[name], rtol=1e-4, atol=1e-6, err_msg=name)


def same(left: DepthProfile, right: DepthProfile) -> bool:
    tables = ((left.share, right.share), (left.truncated, right.truncated))
    return all(a.to_arrow().equals(b.to_arrow()) for a, b in tables) and left.closure == right.closure


@pytest.mark.parametrize("chunk", [1, 2, 8, 16, 64])
def test_other_chunks_give_the_same_numbers(network: nn.Module, chunk: int) -> None:
    x, y = samples(37)
    whole = profile(network, [(x, y)])
    assert whole.chunk == 64  # the whole batch: nothing is cut without need
    part = profile(network, [(x, y)], chunk=chunk)
    assert part.chunk == chunk
    agree(part, whole)
    # An iterator whose last batch is smaller than the others, and than a chunk.
    batches = ((x[i : i + 12], y[i : i + 12]) for i in range(0, 37, 12))
    agree(profile(network, batches, chunk=chunk), whole)


@pytest.mark.parametrize("unit", ["blocks", "activations"])
def test_inputs_in_dictionaries_and_tuples_are_cut_together(network: nn.Module, unit: str) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.shapes: list[tuple[int, ...]] = []

        def forward(self, x: Tensor, scale: Tensor, flag: bool = False) -> Tensor:
            assert flag and len(x) == len(scale)
            self.shapes.append(tuple(x.shape))
            return self.network(x) * scale[:, None]

    x, y = samples(12)
    scale, model = torch.linspace(1, 2, 12), Two()
    batch = {"x": x, "scale": scale, "flag": True, "labels": y}
    agree(profile(model, [batch], chunk=4, unit=unit), profile(model, [batch], unit=unit))
    positional = profile(lambda x, scale: model(x, scale, True), [((x, scale), y)], chunk=4, unit=unit)
    agree(positional, profile(model, [batch], unit=unit))


def test_the_chunk_is_saved_and_told(network: nn.Module, tmp_path: Path) -> None:
    found = profile(network, samples(20), batch_size=20, chunk=8)
    found.save(tmp_path / "a.termwise")
    assert DepthProfile.load(tmp_path / "a.termwise").chunk == 8
    assert "20 samples, at most 8 at a time |" in str(found)
    halved = profile(Tight(network, [8, 4, 4, 4, 4]), samples(20), batch_size=20, chunk=8)
    assert halved.chunk == ((0, 8), (8, 4))
    halved.save(tmp_path / "b.termwise")
    assert DepthProfile.load(tmp_path / "b.termwise").chunk == ((0, 8), (8, 4))
    assert "20 samples, at most 8, then 4 at a time |" in str(halved)


def test_a_record_from_before_there_were_chunks_can_be_read(network: nn.Module) -> None:
    record = profile(network, samples(4)).to_record()
    del record.metadata["profile"]["chunk"]
    assert DepthProfile.from_record(record).chunk is None


@pytest.mark.parametrize(
    "bad", [0, -4, 3, 2.0, "8", (), ((0, 3),), ((4, 8),), ((0, 8), (0, 4))], ids=lambda bad: repr(bad)
)
def test_chunks_that_are_refused(network: nn.Module, bad: Any) -> None:
    with pytest.raises(UsageError, match=r"chunk=.*expected a power of two"):
        profile(network, samples(4), chunk=bad)


# Running out.


ERRORS: dict[str, Callable[[], Exception]] = {
    "allocator": lambda: RuntimeError(REFUSED),
    "python": MemoryError,
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "oneDNN": lambda: RuntimeError("could not create a primitive"),
}


@pytest.mark.parametrize("kind", list(ERRORS))
def test_a_chunk_that_runs_out_is_halved_and_done_again(network: nn.Module, kind: str) -> None:
    x, y = samples(37)
    found = profile(Tight(network, 8, ERRORS[kind]), [(x, y)])
    assert found.chunk == 8
    agree(found, profile(network, [(x, y)]))
    assert same(found, profile(Tight(network, 8), [(x, y)], chunk=8))


def test_what_runs_out_on_the_way_can_be_replayed_bit_by_bit(network: nn.Module) -> None:
    batches = [samples(16), samples(16)]
    # Two batches in chunks of 8, of which the last runs out, and the second half of it again.
    found = profile(Tight(network, [8, 8, 8, 4, 4, 3, 2, 2]), batches, chunk=8)
    assert found.chunk == ((0, 8), (24, 4), (28, 2))
    agree(found, profile(network, batches))
    again = profile(network, batches, chunk=found.chunk)
    assert same(again, found) and again.chunk == found.chunk


def test_running_out_while_measuring_counts_nothing_twice(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[profile.__module__]
    read, sizes = module.measured, list[int]()

    def measured(expansion: Any, targets: Any) -> Any:
        sizes.append(len(targets))
        if len(targets) > 4:
            raise MemoryError
        return read(expansion, targets)

    whole = profile(network, [samples(11)])
    monkeypatch.setattr(module, "measured", measured)
    agree(profile(network, [samples(11)]), whole)
    assert sizes == [11, 8, 4, 4, 3]


def test_one_sample_that_does_not_fit_names_the_settings(network: nn.Module) -> None:
    with pytest.raises(
        ModelError, match=r"one sample at a time \(chunk=1, --chunk 1\).*fewer tokens.*pooled"
    ) as caught:
        profile(Tight(network, 0), samples(4))
    assert "can't allocate" in str(caught.value.__cause__)


def test_other_errors_are_not_taken_for_it(network: nn.Module) -> None:
    model = Tight(network, 2, lambda: RuntimeError("expected 3 channels"))
    with pytest.raises(RuntimeError, match="expected 3 channels"):
        profile(model, samples(4))
    assert not ran_out(ValueError("x")) and not ran_out(None)
    wrapped = ModelError("refused")
    wrapped.__cause__ = MemoryError()
    assert ran_out(wrapped)


LIMITED = """
import json, resource, sys
import torch
from termwise import nets, profile

torch.set_num_threads(1)
torch.manual_seed(0)
model, x = nets.resnet(20), torch.randn(64, 3, 32, 32)
targets = torch.arange(64) % 10
profile(model, (x[:2], targets[:2]))  # what is allocated once
if sys.argv[1] != "free":
    name, chunk, mebibytes = sys.argv[1:]
    pages = open("/proc/self/statm").read().split()[0 if name == "RLIMIT_AS" else 5]
    limit = int(pages) * resource.getpagesize() + int(mebibytes) * 2**20
    resource.setrlimit(getattr(resource, name), (limit, limit))
    found = profile(model, [(x, targets)], chunk=json.loads(chunk))
else:
    found = profile(model, [(x, targets)])
shares = [found.share[c].tolist() for c in found.share.columns if c.endswith(("share", "low", "high"))]
print(json.dumps([found.chunk, found.samples, found.loss, shares]))
"""


def limited(*arguments: str) -> tuple[Any, int, float, list[list[float]]]:
    # With a fixed threshold the C library gives every large block back: else its heap, in pieces, is all of the limit.
    settings = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**18)}
    run = subprocess.run([sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True, env=settings)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_process_that_really_runs_out_has_the_same_result() -> None:
    chunk, count, loss, shares = limited("free")
    assert chunk == 64
    for name, given in (("RLIMIT_AS", "64"), ("RLIMIT_DATA", "64"), ("RLIMIT_AS", "null")):
        less, counted, lost, found = limited(name, given, "70")
        sizes = [less] if isinstance(less, int) else [size for _, size in less]
        assert max(sizes) < 64
        assert counted == count == 64 and lost == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(found, shares, rtol=1e-3, atol=1e-5)


# What cannot be cut.


class Mixing(nn.Module):
    """A model of one of the kinds that look at all samples of a batch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.layer = kind, nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.kind == "statistics":
            return self.norm(y)
        if self.kind == "pairs":
            return y @ self.layer(x + 1).T
        if self.kind == "neighbours":
            return y + y.roll(1, 0)
        if self.kind == "one output":
            return y.mean(dim=0, keepdim=True) + 0 * y[:1]
        return y.T


@pytest.mark.parametrize("kind", ["statistics", "pairs", "neighbours", "one output", "samples last"])
def test_samples_that_influence_each_other_are_never_cut(kind: str) -> None:
    model, x = Mixing(kind), torch.randn(8, 4)
    with pytest.raises(ModelError, match="samples of a batch influence each other in this model"):
        profile(model, [x], chunk=4)
    before = profile(model, [x])  # whole, it is taken as it is
    assert before.chunk == 8 and before.closure < 5e-6
    with pytest.raises(ModelError, match="influence each other"):
        profile(Tight(model, 4), [x])


def test_a_batch_of_tensors_without_a_common_first_dimension_is_taken_whole() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.layer(x) * mask

    torch.manual_seed(0)
    model, batch = Masked(), {"x": torch.randn(8, 4), "mask": torch.ones(1, 4)}
    found = profile(model, [batch], chunk=2)
    assert found.samples == 8 and same(found, profile(model, [batch]))
    assert found.chunk is None and profile(model, [batch]).chunk is None
    refusing = Tight(nn.Identity(), 4)
    with pytest.raises(ModelError, match=r"cannot be cut.*do not share their first dimension.*fewer samples"):
        profile(lambda x, mask: refusing(model(x, mask)), [batch])


def test_the_model_is_pinned_for_the_comparison(network: nn.Module) -> None:
    network.train()
    model = nn.Sequential(network, nn.Dropout(0.5))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    profile(model, [samples(8)], chunk=2)
    assert model.training and torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# The choice.


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """So many samples of the ResNet below are expected to fit into half of the free memory."""

    def set_free(fits: float) -> None:
        each = chunks._PEAK * support(nets.resnet(20), torch.randn(2, 3, 32, 32)).memory / 2
        monkeypatch.setattr(chunks, "free_memory", lambda device: int(2 * fits * each))

    return set_free


def test_the_largest_power_of_two_that_fits_is_chosen(little: Callable[[float], None]) -> None:
    model, x = nets.resnet(20), torch.randn(12, 3, 32, 32)
    for fits, chunk in ((1.1, 1), (3.9, 2), (4.1, 4), (11.0, 8), (13.0, 16), (0.1, 1)):
        little(fits)
        assert profile(model, [x], replicates=2).chunk == chunk


def test_the_dry_run_is_paid_once_and_only_where_it_is_needed(
    little: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = chunks.support
    monkeypatch.setattr(chunks, "support", lambda model, x, **options: asked.append(len(x)) or ask(model, x, **options))
    model, x = nets.resnet(20), torch.randn(6, 3, 32, 32)
    little(2.5)
    assert profile(model, [x, x, x], replicates=2).chunk == 2
    assert asked == [2]
    profile(model, [x], chunk=4, replicates=2)
    profile(model, [x[:1]], replicates=2)
    profile(nets.mlp([4, 4, 3]), [torch.randn(40, 4)], replicates=2)  # obviously small
    monkeypatch.setattr(chunks, "free_memory", lambda device: None)
    assert profile(model, [x], replicates=2).chunk == 8  # nothing is known: the whole batch
    assert asked == [2]


def test_depths_that_add_in_products_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.gate, self.down = nn.Linear(32, 64), nn.Linear(32, 64), nn.Linear(64, 32)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(self.up(x) * self.gate(x))

    torch.manual_seed(0)
    model, x = nn.Sequential(*[Gated() for _ in range(4)]), torch.randn(16, 32)
    # Each block takes a polynomial of degree d to one of degree 2 d + 3: 45 in place of 8.
    deep, shallow = (expand(model, x[:1], product="cauchy").paths, support(model, x[:1]).paths)
    assert max(deep) == 45 and max(shallow) == 8
    assert 6 < (len(deep) + 1) / (len(shallow) + 1) < 10
    each = chunks._PEAK * support(model, x[:2]).memory / 2
    monkeypatch.setattr(chunks, "free_memory", lambda device: int(2 * 20.5 * each))
    assert profile(model, [x], replicates=2).chunk == 16
    assert profile(model, [x], replicates=2, product="cauchy").chunk == 2


def test_a_model_that_the_dry_run_cannot_read_is_tried_whole(little: Callable[[float], None]) -> None:
    class Shy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nets.resnet(20)

        def forward(self, x: Tensor) -> Tensor:
            if len(x) < 4:
                raise ValueError("too few")
            return self.network(x)

    little(2.5)
    assert profile(Shy(), [torch.randn(4, 3, 32, 32)], replicates=2).chunk == 4


# What is free.


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {
    "proc/meminfo": "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:  8000 kB\n",
    "proc/self/statm": "1 1 1 1 0 1",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8000 * 1024),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/b/memory.current": "10\n",
                "sys/fs/cgroup/a/memory.max": "1000000\n",
                "sys/fs/cgroup/a/memory.current": "400000\n",
                "sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 100000\n",
            },
            700000,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/x\n4:memory,other:/outside/of/here\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1500000\n",
                "sys/fs/cgroup/memory/memory.stat": "inactive_file 7\ntotal_inactive_file 20000\n",
            },
            520000,
        ),
    ],
    ids=["machine", "version 2", "version 1"],
)
def test_free_memory_is_the_least_that_any_limit_leaves(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert free_memory(torch.device("cpu"), machine(tmp_path, MEMINFO | files)) == expected


def test_the_limits_of_the_process_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    page = resource.getpagesize()
    limits = {resource.RLIMIT_AS: 100 * page, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits[kind], limits[kind]))
    root = machine(tmp_path, MEMINFO | {"proc/self/statm": "60 50 9 9 0 40 0"})
    assert free_memory(torch.device("cpu"), root) == 40 * page
    limits[resource.RLIMIT_DATA] = 30 * page
    assert free_memory(torch.device("cpu"), root) == 0


def test_where_nothing_is_known_nothing_is_said(tmp_path: Path) -> None:
    assert free_memory(torch.device("cpu"), tmp_path) is None
    assert free_memory(torch.device("meta")) is None


def test_free_memory_of_this_machine() -> None:
    free = free_memory(torch.device("cpu"))
    total = int(next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line).split()[1])
    assert free is not None and 0 < free < 1024 * total


# The Recorder.


def test_a_recorder_halves_and_says_so(network: nn.Module) -> None:
    probe = samples(24)
    plain, tight = (Recorder(model, probe, calibration=False, batch_size=16) for model in (network, Tight(network, 4)))
    for recorder in (plain, tight):
        recorder.step(0)
        recorder.step(1)
    assert [found.chunk for found in plain.timeline.profiles] == [16, 16]
    assert [found.chunk for found in tight.timeline.profiles] == [4, 4]
    for left, right in zip(plain.timeline.profiles, tight.timeline.profiles, strict=True):
        agree(left, right)
    moments = [recorder._moments[0] for recorder in (plain, tight)]
    np.testing.assert_allclose(moments[0].terms, moments[1].terms, rtol=1e-4, atol=1e-5)


def test_the_command_takes_a_chunk(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from termwise.cli import main

    (tmp_path / "model.py").write_text(
        "import torch\nfrom termwise import nets\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return nets.resnet(8, channels=1, width=4)\n"
    )
    main(["profile", f"{tmp_path / 'model.py'}:build", "--samples", "12", "--chunk", "4"])
    assert "12 samples, at most 4 at a time" in capsys.readouterr().out
