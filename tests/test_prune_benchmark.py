"""The figures of the pruning benchmark are those of the tables that it makes, and of brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr, t
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor, nn

from benchmarks.measuring import Row
from benchmarks.prunable import (
    CHOSEN_ON,
    MEASURED_ON,
    SIDE,
    Case,
    Kept,
    accuracy,
    crops,
    photographs,
    sentences,
    similarity,
)
from benchmarks.pruning import (
    BEST,
    DRAWS,
    METHODS,
    ON_A_PART,
    PARTS,
    REPLICATES,
    Measurer,
    Result,
    bars,
    course_of,
    courses,
    curves,
    order_of,
    page,
    rank_correlation,
    shares,
    summary,
)
from termwise.pruning.frozen import predict


class Adding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))

    def forward(self, v: Tensor) -> Tensor:
        return v + self.branch(v)


@pytest.fixture(scope="module")
def case() -> Case:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(*(Adding() for _ in range(4)), nn.Linear(6, 3)).eval()
    data, test = ((torch.randn(n, 6), torch.randint(3, (n,))) for n in (64, 40))
    return Case("a chain", model, data, test, Kept("accuracy", accuracy))


@torch.no_grad()
def without(case: Case, gone: tuple[int, ...]) -> Tensor:
    layers = [layer for i, layer in enumerate(case.model.children()) if i not in gone]
    return nn.Sequential(*layers)(case.test[0])


def loss(case: Case, gone: tuple[int, ...]) -> float:
    return float(nn.functional.cross_entropy(without(case, gone), case.test[1]))


def test_every_method_is_measured_by_brute_force(case: Case) -> None:
    measurer = Measurer(case)
    found = courses(case, measurer)
    assert {*found} == {*METHODS, ON_A_PART, BEST}
    steps = curves(measurer, found)
    assert len(steps) == 5 * len(found)
    for row in steps.rows():
        course = found[row["method"]]
        sets = [order[row["out"]] for order in course.draws]
        assert all(len(gone) == row["out"] for gone in sets)
        losses = [loss(case, gone) for gone in sets]
        right = [float((without(case, gone).argmax(1) == case.test[1]).double().mean()) for gone in sets]
        assert row["loss"] == pytest.approx(np.mean(losses))
        assert row["accuracy"] == pytest.approx(np.mean(right))
        assert row["time"] > 0
        if row["method"] == "random" and np.std(losses):
            half = t.ppf(0.975, DRAWS - 1) * np.std(losses, ddof=1) / np.sqrt(DRAWS)
            assert (row["loss_low"], row["loss_high"]) == pytest.approx(
                (np.mean(losses) - half, np.mean(losses) + half)
            )
        if course.plan is not None:
            assert row["loss"] == pytest.approx(course.plan.table["loss"][row["out"]])
    plan = found["expansion"].plan
    assert plan is not None
    text = f"{summary(measurer, found)}{shares(measurer, found, steps)}{course_of(plan)}"
    assert all(method in text for method in found)


def test_the_best_sets_are_the_best(case: Case) -> None:
    measurer = Measurer(case)
    best = courses(case, measurer)[BEST].draws[0]
    for count, gone in enumerate(best):
        assert loss(case, gone) == pytest.approx(min(loss(case, x) for x in itertools.combinations(range(4), count)))


def test_the_bars_are_of_the_courses(case: Case) -> None:
    measurer = Measurer(case)
    found = courses(case, measurer)
    rows = {row.measure: row for row in bars(measurer, found)}

    def area(method: str) -> float:
        return float(np.mean([loss(case, gone) for gone in found[method].draws[0]]))

    for rival in ("block-influence", "angular", "exhaustive"):
        row = rows[f"area under the loss, {rival}"]
        assert row.ratio == pytest.approx(area("expansion") / area(rival))
        assert row.interval is not None and row.ratio is not None
        assert row.interval[0] <= row.ratio <= row.interval[1]
        assert rival == "exhaustive" or f"{area(BEST) / area(rival):.3f}" in row.note
    assert rows["passes, exhaustive"].other == 4 + 3 + 2 + 1
    assert found[ON_A_PART].passes == 10 / PARTS


def test_intervals_are_of_the_samples(case: Case) -> None:
    measurer = Measurer(case)
    losses = nn.functional.cross_entropy(without(case, (1,)), case.test[1], reduction="none").double().numpy()
    found = measurer.loss((1,))
    assert found[0] == pytest.approx(losses.mean())
    assert found.shape == (1 + REPLICATES,)
    assert found[1:].std() == pytest.approx(losses.std() / np.sqrt(len(losses)), rel=0.2)


def test_the_rank_correlation_is_spearmans(case: Case) -> None:
    measured = [loss(case, (i,)) for i in range(4)]
    predicted = predict(case.model, [case.test], [(str(i),) for i in range(4)]).sets.mean()
    found, count = rank_correlation(case)
    assert count == 4
    assert found == pytest.approx(spearmanr(predicted, measured)[0])


def test_similarity_is_spearmans_of_cosines() -> None:
    torch.manual_seed(0)
    whole, short = torch.randn(9, 5), torch.randn(9, 5)
    pairs = np.triu_indices(9, 1)
    expected = spearmanr(cosine_similarity(short)[pairs], cosine_similarity(whole)[pairs])[0]
    assert similarity(short, whole, np.arange(9)) == pytest.approx(expected)
    assert similarity(whole, whole, np.array([0, 0, 3, 5, 7])) == pytest.approx(1)  # a sample and itself are no pair


def test_sentences_are_different_and_of_other_patterns() -> None:
    chosen, measured = sentences(CHOSEN_ON, 2048), sentences(MEASURED_ON, 256)
    assert (len(set(chosen)), len(set(measured))) == (2048, 256)
    assert not set(chosen) & set(measured)
    assert not set(CHOSEN_ON) & set(MEASURED_ON)
    assert all("{" not in sentence for sentence in chosen + measured)


def test_crops_are_of_photographs() -> None:
    chosen, measured = photographs()
    assert (len(chosen), len(measured)) == (4, 3)
    made = crops(measured, 2)
    assert made.shape == (6, 3, SIDE, SIDE)
    assert float(made.min()) >= -1 and float(made.max()) <= 1.01
    assert float(made.std()) > 0.1


def test_the_page_shows_every_bar_and_what_was_tried() -> None:
    measure = "area under the loss, block-influence"
    rows = (
        Row(measure, "ResNet-56", 1.0, 2.0, 0.5, 0.9, "at most"),
        Row(measure, "ViT-8", 1.0, 1.0, 1.0, 0.9, "at most"),
    )
    results = [Result(row.network, (row,), ("the area", "the shares", "the steps")) for row in rows]
    text = page(results, "picture.png")
    assert "(picture.png)" in text and "## ViT-8\n\n```text\nthe area\n```" in text and "the steps" not in text
    assert text.count("| met ") == text.count("| NOT MET |") == 1
    assert f"- {measure}: " in text and "nothing yet" not in text
    titles = ["MiniLM-L6", "ViT-8, seed 1", "EfficientNet-Lite0", "ResNet-56", "ViT-8"]
    assert sorted(titles, key=order_of) == ["ResNet-56", "ViT-8", "ViT-8, seed 1", "MiniLM-L6", "EfficientNet-Lite0"]
