"""The lead of truncations over the whole, by hand."""

from __future__ import annotations

import pytest
import torch

import termwise as tw
from termwise import nets
from termwise.experiments.bn_lag import ANEW, AS_TRAINED, Protocol, conclude, leads_of


def test_the_lead_is_that_of_the_best_sum_of_terms_and_constants() -> None:
    torch.manual_seed(0)
    model = nets.resnet(8, channels=1, width=4).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, targets = torch.randn(40, 1, 8, 8), torch.randint(0, 10, (40,))
    recorder = tw.Recorder(model, (x, targets), constants="by_depth", calibration=False, replicates=20)
    recorder.step(0)
    (line,) = leads_of(recorder.timeline)
    e = tw.expand(model, x, constants="by_depth")
    assert e.constants is not None
    accuracies = {}
    for depth in e.terms:
        parts = [part for k, part in [*e.terms.items(), *e.constants.items()] if k <= depth]
        accuracies[depth] = (sum(parts[1:], parts[0]).argmax(dim=1) == targets).double().mean().item()
    whole = accuracies.pop(max(accuracies))
    assert line["whole"] == pytest.approx(whole)
    assert line["truncation"] == pytest.approx(max(accuracies.values()))
    assert accuracies[line["depth"]] == pytest.approx(line["truncation"])
    assert line["lead"] == pytest.approx(max(accuracies.values()) - whole)


def test_the_number_of_a_seed_is_its_largest_lead() -> None:
    rest = {"whole": 0.4, "truncation": 0.7, "depth": 3}
    leads = [
        {
            "statistics": name,
            "seed": seed,
            "step": step,
            "lead": lead,
            **rest,
        }
        for name, base in ((AS_TRAINED, 0.3), (ANEW, 0.0))
        for seed in range(5)
        for step, lead in ((0, 0.0), (8, base + 0.01 * seed), (16, base / 2))
    ]
    stale, anew = conclude({"leads": leads}, Protocol()).found
    assert (stale["found"], anew["found"]) == (pytest.approx(0.32), pytest.approx(0.02))
    assert (stale["verdict"], anew["verdict"]) == ("holds", "holds")
