"""H4 from two networks: what is concluded of made-up courses, and what the networks are."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import termwise as tw
from termwise import nets
from termwise.experiments import dense_vs_res, find, run
from termwise.experiments.common import Together
from termwise.experiments.experiment import Conclusion, Job

RES, DENSE = "resnet-20", "densenet-22"


def concluded(dense: dict[str, float], parameters: int = 270_418) -> Conclusion:
    """Of five seeds: a ResNet of mean depth 10 in layers and 4 in blocks beside a DenseNet of these depths."""
    depths = {RES: {"layers": 10.0, "blocks": 4.0}, DENSE: dense}
    longest = {RES: (20, 9), DENSE: (22, 18)}
    courses: list[dict[str, Any]] = [
        {"network": name, "unit": unit, "terms": terms, "seed": seed, "step": step, "loss": 1.0 / (1 + step)}
        | {"mean_depth": depth + 0.01 * seed * (name == DENSE) + 0.1 * (step == 0)}
        for name, own in depths.items()
        for unit, depth in own.items()
        for terms in (dense_vs_res.INPUT_BORN, dense_vs_res.WITH_CONSTANTS)
        for seed in range(5)
        for step in (0, 4, 8)
    ]
    sizes = {RES: 269_434, DENSE: parameters}
    values = [
        {"network": name, "seed": seed, "quantity": quantity, "value": float(value)}
        for name in depths
        for seed in range(5)
        for quantity, value in {
            dense_vs_res.PARAMETERS: sizes[name],
            dense_vs_res.ACCURACY: 0.97 + 0.001 * seed,
            f"{dense_vs_res.LONGEST} layers": longest[name][0],
            f"{dense_vs_res.LONGEST} blocks": longest[name][1],
        }.items()
    ]
    return dense_vs_res.conclude({"courses": courses, "values": values}, dense_vs_res.Protocol())


@pytest.mark.parametrize(
    ("layers", "blocks", "verdict", "title"),
    [
        (7.0, 3.0, "holds", "shallower in layers and shallower in blocks"),
        (12.0, 5.0, "fails", "deeper in layers and deeper in blocks"),
        (7.0, 5.0, "undecided", "shallower in layers and deeper in blocks"),
    ],
)
def test_units_must_agree(layers: float, blocks: float, verdict: str, title: str) -> None:
    conclusion = concluded({"layers": layers, "blocks": blocks})
    claim = conclusion.found[0]
    assert claim["quantity"].startswith("H4") and claim["verdict"] == verdict
    assert title in str(conclusion.charts[0].title)
    found = {line["quantity"]: line for line in conclusion.found}
    # The seeds' DenseNets differ by 0.01: their mean is 0.02 deeper than the first.
    assert found["H4 (layers, equal step), exploratory"]["found"] == pytest.approx(10 - layers - 0.02)
    assert found["the same over the longest path, blocks, densenet-22"]["found"] == pytest.approx((blocks + 0.02) / 18)
    assert found[dense_vs_res.ALIKE]["verdict"] == "holds"


def test_both_networks_have_as_many_parameters_and_binomially_many_paths_in_blocks() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 1, 8, 8)
    models = {9: nets.resnet(20, channels=1).eval(), 18: nets.densenet(22, 12, channels=1).eval()}
    sizes = [sum(p.numel() for p in model.parameters()) for model in models.values()]
    assert max(sizes) < 1.05 * min(sizes)
    for blocks, model in models.items():
        paths = tw.expand(model, x, unit="blocks").paths
        assert Counter(paths) == Counter({k: math.comb(blocks, k) for k in range(blocks + 1)})


def test_what_is_recorded_is_the_profile_of_the_network_in_both_units() -> None:
    tables = run(find("dense-vs-res"), [0], dense_vs_res.Protocol.quick()).tables
    courses = tables["courses"]
    assert set(courses["unit"]) == {"layers", "blocks"}
    for name in set(courses["network"]):
        own = courses.where(network=name, terms=dense_vs_res.INPUT_BORN)
        layers, blocks = (own.where(unit=unit) for unit in ("layers", "blocks"))
        assert layers["loss"].tolist() == pytest.approx(blocks["loss"].tolist())
        assert (layers["mean_depth"] > blocks["mean_depth"]).all()


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def test_a_job_that_was_killed_goes_on_and_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 11 updates, recorded at 0, 1, 3, 9 and at the end.
    protocol = dataclasses.replace(dense_vs_res.Protocol.quick(), batch=128, ratio=3.0)
    steps, own = [], Together.step

    def job(directory: str) -> Job:
        (tmp_path / directory).mkdir(exist_ok=True)
        return Job(0, "densenet-7", protocol, tmp_path / directory, lambda line: None)

    def told(self: Together, n: int, **scalars: Any) -> bool:
        steps.append(n)
        if steps == [0, 1, 2, 3, 4, 5]:
            raise Killed
        return own(self, n, **scalars)

    whole = dense_vs_res.measure(job("whole"))
    monkeypatch.setattr(Together, "step", told)
    with pytest.raises(Killed):
        dense_vs_res.measure(job("killed"))
    assert dense_vs_res.measure(job("killed")) == whole
    assert steps[6:] == list(range(3, 11))
