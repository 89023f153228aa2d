"""The peers of the benchmark, held against the expansion: they are worth comparing only where they find the same."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Literal

import pytest
import torch

import termwise as tw
from benchmarks import findings, peers, rivals
from benchmarks.expansion import exponent, plain_gradient, squared
from benchmarks.measuring import Row, Run, medians
from benchmarks.performance import table, tried
from termwise import nets
from termwise.errors import UsageError
from termwise.experiments import VERDICT, Result
from termwise.nets.resnet import ResNet
from termwise.records import Table
from termwise.sentences import say

ROOT = Path(__file__).parents[1]
BLOCKS = 3


@pytest.fixture(params=["pad", "projection"])
def network(request: pytest.FixtureRequest) -> tuple[ResNet, torch.Tensor]:
    shortcut: Literal["pad", "projection"] = request.param
    torch.manual_seed(0)
    model = rivals.settled(nets.resnet(8, width=4, shortcut=shortcut), torch.randn(16, 3, 8, 8)).double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, std=0.3)
    return model, torch.randn(2, 3, 8, 8, dtype=torch.float64)


def test_the_gradient_by_depth_is_timed_against_the_same_gradient(network: tuple[ResNet, torch.Tensor]) -> None:
    model, x = network
    first, *others = plain_gradient(model, x)
    found = tw.expand_gradient(model, x, squared)
    assert torch.allclose(found.input.total, first, rtol=1e-12)
    for (name, _), plain in zip(model.named_parameters(), others, strict=True):
        assert torch.allclose(found.parameters[name].total, plain, rtol=1e-10), name


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_enumeration_finds_the_terms(network: tuple[ResNet, torch.Tensor], rows: int) -> None:
    net, terms = peers.frozen(*network), rivals.stacked(*network)
    assert terms.shape[0] == BLOCKS + 1
    assert rivals.difference(peers.by_enumeration(net, rows=rows), terms) < 1e-12


def test_a_slice_of_the_enumeration_has_the_paths_that_differ_in_the_last_blocks(
    network: tuple[ResNet, torch.Tensor],
) -> None:
    net = peers.frozen(*network)
    part = peers.by_enumeration(net, last=2)
    assert bool((part[3] == 0).all()) and bool((part[:3].abs().sum(dim=(1, 2)) > 0).all())
    whole = peers.by_enumeration(net)
    assert torch.allclose(part[0], whole[0], rtol=1e-12)


def test_sampled_paths_average_to_the_terms(network: tuple[ResNet, torch.Tensor]) -> None:
    net, terms = peers.frozen(*network), rivals.stacked(*network)
    generator = torch.Generator().manual_seed(0)
    for length in range(BLOCKS + 1):
        outputs = peers.by_sampling(net, length, 200, generator)
        paths = torch.unique(outputs.round(decimals=9), dim=0)
        assert len(paths) == math.comb(BLOCKS, length)  # all are met, and added up they are the term
        assert torch.allclose(paths.sum(dim=0), terms[length], rtol=0, atol=1e-7)


def test_samples_needed_are_those_of_a_population_of_known_variance() -> None:
    assert peers.samples_needed(4.0, 10**12, 0.01) == pytest.approx(40_000)
    assert peers.samples_needed(1e9, 27, 0.01) == pytest.approx(27)
    # Without replacement the variance of a mean of n is s^2 / n (1 - n / N).
    n, population = peers.samples_needed(2.0, 1000, 0.1), 1000
    assert 2.0 / n * (1 - n / population) == pytest.approx(0.1**2)


def test_roots_of_unity_find_the_terms(network: tuple[ResNet, torch.Tensor]) -> None:
    assert rivals.difference(peers.at_roots(peers.frozen(*network)), rivals.stacked(*network)) < 1e-12


def test_an_odd_number_of_roots_finds_the_terms() -> None:
    torch.manual_seed(0)
    model = rivals.settled(nets.resnet(14, width=4), torch.randn(16, 3, 8, 8)).double()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    terms = rivals.stacked(model, x)
    assert len(terms) == 7
    assert rivals.difference(peers.at_roots(peers.frozen(model, x)), terms) < 1e-12


def test_nested_derivatives_find_the_terms(network: tuple[ResNet, torch.Tensor]) -> None:
    with warnings.catch_warnings():
        # PyTorch's own, from scripting its decompositions when torch.func.jvp is first used.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        found = peers.by_nested_jvp(peers.frozen(*network), BLOCKS)
    assert rivals.difference(found, rivals.stacked(*network)) < 1e-12


def test_jets_find_the_terms() -> None:
    # In a process of its own: jax objects to every later fork of the one that it was used in.
    code = """
import torch
from benchmarks import jets, peers, rivals
from termwise import nets

for shortcut in ("pad", "projection"):
    torch.manual_seed(0)
    model = rivals.settled(nets.resnet(8, width=4, shortcut=shortcut), torch.randn(16, 3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    net = peers.frozen(model, x)
    print(rivals.difference(torch.from_numpy(jets.terms(net)(net)), rivals.stacked(model, x)))
print(jets.limits())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    *differences, limits = run.stdout.splitlines()
    assert len(differences) == 2 and all(float(difference) < 1e-5 for difference in differences)
    runs, fails = limits.split("; it does not run ")
    assert "convolution" in runs and "max pooling" in fails


def test_at_one_the_frozen_network_is_the_sum_of_all_terms(network: tuple[ResNet, torch.Tensor]) -> None:
    net = peers.frozen(*network)
    at_one = net.at(torch.ones((), dtype=torch.float64))
    assert torch.allclose(at_one, rivals.stacked(*network).sum(dim=0), rtol=1e-10)


def test_medians_take_the_best_batch_and_the_share_of_the_work() -> None:
    calls: list[tuple[str, int]] = []
    runs = {
        "a": Run(lambda n: calls.append(("a", n)), (1, 2)),
        "b": Run(lambda n: calls.append(("b", n)), (2,), parts=0.5),
    }
    found = medians(runs, lambda n: n, repeats=3)
    assert calls == [("a", 1), ("a", 2), ("b", 2)] * 4
    assert set(found) == {"a", "b"} and all(value > 0 for value in found.values())


def test_the_exponent_is_that_of_a_power() -> None:
    assert exponent({depth: 3 * depth**1.7 for depth in (20, 56, 110)}) == pytest.approx(1.7)


def test_the_table_says_what_was_met() -> None:
    rows = [
        Row("time", "A", 5.0, 10.0, 0.5, 1.0, "at most", 0.7),
        Row("time", "B", 9.0, 10.0, 0.9, 1.0, "at most", 0.7),
        Row("time", "C", 11.0, 10.0, 1.1, 1.0, "at most", 0.7),
        Row("peer", "A", 5.0, 1e9, 2e8, 1e5, "at least", note="extrapolated"),
        Row("peer", "B", None, None, None, 1e5, "at least", note="cannot run"),
    ]
    assert [row.verdict for row in rows] == ["met, and the moonshot", "met", "NOT MET", "met", "not measured"]
    lines = table(rows).splitlines()
    assert (
        lines[2].split("|")[1:-1] == [cell for cell in lines[2].split("|")[1:-1]] and len(set(map(len, lines[:7]))) == 1
    )
    assert lines[-2:] == ["1. extrapolated.", "2. cannot run."]
    assert "- time:" in tried(rows) and "peer" not in tried(rows)
    assert tried(rows[:2]) == ""


def test_the_tables_of_the_findings_are_what_was_saved(tmp_path: Path) -> None:
    verdicts = [
        {"claim": "H1", "endpoint": "share", "of": "net", "estimate": -0.5, "low": -0.75, "high": -0.25, "p": 0.01}
    ]
    lines = [{**line, "p_holm": 0.05, "verdict": "fails"} for line in verdicts]
    found = {
        "quantity": "H1: a | b",
        "found": -0.5,
        "low": -0.75,
        "high": -0.25,
        "expected": "above 0",
        "verdict": "fails",
    }
    settings = {"protocol": {"scale": "standard", "data": "digits", "sha256": "0123456789abcdef"}, "quick": False}
    settings |= {"seeds": [0, 1], "versions": {"termwise": "1", "torch": "2"}}
    tables = {
        name: Table({key: [line[key] for line in lines] for key in lines[0]}) for name in ("verdicts", "endpoints")
    }
    single = Table({key: [value] for key, value in found.items()})
    claims = Result(VERDICT, say("All?"), single, tables, (say("A note."),), (), "endpoints", settings)
    claims.save(tmp_path / f"{VERDICT}.termwise")
    twice = Table({key: [value, value] for key, value in found.items()})
    other = dataclasses.replace(claims, name="lesion", question=say("Can it?"), found=twice, tables={}, beside=None)
    other.save(tmp_path / "lesion.termwise")
    results = findings.read(tmp_path)
    assert [result.name for result in results] == [VERDICT, "lesion"]
    text = findings.claims(results[0])
    assert "`termwise reproduce --standard` on digits (sha256 0123456789ab), 2 seeds" in text
    assert "| H1: a \\| b | -0.5 [-0.75, -0.25] | 0.05 | **fails** |" in text
    assert "- A note." in text and "| H1 | share | net | -0.5 [-0.75, -0.25] | fails |" in text
    (experiment,) = findings.experiments(results[1:])
    assert experiment.startswith("### Can it? (`lesion`)")
    assert experiment.count("| H1: a \\| b | -0.5 [-0.75, -0.25] | above 0 | fails |") == 2
    page = "a\n<!-- claims -->\nold\n<!-- end of claims -->\nb\n"
    once = findings.written(page, {"claims": "new"})
    assert once == "a\n<!-- claims -->\nnew\n<!-- end of claims -->\nb\n"
    assert findings.written(once, {"claims": "new"}) == once
    with pytest.raises(UsageError, match=r"claims\.termwise"):
        findings.read(tmp_path / "nowhere")
