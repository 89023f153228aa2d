"""Depth beside degree: paths enumerated and gates lent in NumPy, powers by its Fourier transform, closed forms."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import termwise as tw
from snapshots import snapshot, unchanged
from termwise.degree import DepthDegrees, Gaussian, depth_degrees
from termwise.degree.terms import Terms
from termwise.errors import DataError, ModelError, RecordError, RuleError, UsageError

FEATURES, CLASSES = 5, 3
BANDS = {"upto_1": (0, 2), "upto_2": (0, 3), "from_3_to_15": (3, 16), "from_16": (16, None)}


@dataclasses.dataclass(frozen=True, eq=False)
class Given(Gaussian):
    """Circles from NumPy, kept: of the inputs, and of those that lend their gates."""

    drawn: list[np.ndarray] = dataclasses.field(default_factory=list)

    def circles(self, count: int, angles: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        u, v = np.random.default_rng(len(self.drawn)).normal(size=(2, count, 1, FEATURES))
        t = 2 * np.pi * np.arange(angles)[:, None] / angles
        self.drawn.append(0.3 + u * np.cos(t) + v * np.sin(t))
        points = torch.from_numpy(self.drawn[-1])
        return points, points[:, 0]


def given() -> Given:
    mean = torch.full((FEATURES,), 0.3, dtype=torch.float64)
    return Given(mean, None, "given circles")


class Small(nn.Module):
    """Two residual branches, of two layers and of one, and a rectifier in each: paths of 2, 3, 4 and 5 layers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.head = nn.Linear(FEATURES, 6), nn.Linear(6, CLASSES)
        self.a, self.b, self.c = nn.Linear(6, 7), nn.Linear(7, 6), nn.Linear(6, 6)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        v = self.stem(x)
        v = v + self.b(torch.relu(self.a(v)))
        return self.head(v + torch.relu(self.c(v)))


def affine(layer: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


def enumerated(net: Small, x: np.ndarray, gates: np.ndarray) -> dict[Any, np.ndarray]:
    """The terms at x by the gates at other points, path by path, and the output there; (points, classes), centred."""
    (stem, stem_bias), (a, a_bias), (b, b_bias), (c, c_bias), (head, head_bias) = map(
        affine, (net.stem, net.a, net.b, net.c, net.head)
    )
    v = gates @ stem.T + stem_bias
    first = v @ a.T + a_bias > 0
    v = v + np.where(first, v @ a.T + a_bias, 0) @ b.T + b_bias
    second = v @ c.T + c_bias > 0
    y = (v + np.where(second, v @ c.T + c_bias, 0)) @ head.T + head_bias
    terms: dict[Any, np.ndarray] = {"output": y}
    for through_first, through_second in itertools.product((False, True), repeat=2):
        u = x @ stem.T
        if through_first:
            u = np.where(first, u @ a.T, 0) @ b.T
        if through_second:
            u = np.where(second, u @ c.T, 0)
        depth = 2 + 2 * through_first + through_second
        terms[depth] = terms.get(depth, 0) + u @ head.T
    terms["constants"] = y - sum(term for depth, term in terms.items() if depth != "output")
    return {name: term - term.mean(axis=-1, keepdims=True) for name, term in terms.items()}


def spectrum(y: np.ndarray) -> np.ndarray:
    """c_m of (circles, angles, classes), the mean over all circles taken out."""
    n, angles = y.shape[:2]
    found = np.abs(np.fft.fft(y - y.mean(axis=(0, 1)), axis=1) / angles) ** 2
    powers = found.sum(axis=2).mean(axis=0)
    powers[0] *= n / (n - 1)
    folded = powers[: angles // 2 + 1].copy()
    folded[1:-1] += powers[: angles // 2 : -1]
    return folded


def shares(powers: np.ndarray) -> dict[str, float]:
    return {name: powers[low:high].sum() / powers.sum() for name, (low, high) in BANDS.items()}


def row(result: DepthDegrees, network: str, label: Any) -> dict[str, Any]:
    is_term = isinstance(label, int)
    rows = result.terms.where(network=network, part="input" if is_term else label, depth=label if is_term else None)
    (found,) = rows.rows()
    return found


# Against paths enumerated, and gates lent, in NumPy.


@pytest.fixture(scope="module")
def compared() -> tuple[DepthDegrees, dict[str, dict[Any, np.ndarray]]]:
    """A network, another as it was at first, and by network and part what NumPy has on the same circles."""
    net, before, inputs = Small(0), Small(1), given()
    result = depth_degrees(net, inputs, initial=before, circles=30, angles=64, batch_size=30 * 64, seed=4)
    x, others = inputs.drawn
    lent = enumerated(net, x, others)
    return result, {
        "own": enumerated(net, x, x),
        "initial": enumerated(before, x, x),
        "shuffled": {depth: lent[depth] for depth in (2, 3, 4, 5)},
    }


def test_the_powers_are_those_of_the_enumerated_paths(compared: tuple[DepthDegrees, Any]) -> None:
    result, expected = compared
    assert len(result.terms) == sum(map(len, expected.values()))
    for network, parts in expected.items():
        for label, y in parts.items():
            is_term = isinstance(label, int)
            part = {"part": "input" if is_term else label, "depth": label if is_term else None}
            found = result.powers.where(network=network, **part)
            powers = spectrum(y)
            np.testing.assert_array_equal(found["frequency"], np.arange(33))
            np.testing.assert_allclose(found["power"], powers, rtol=1e-9, atol=1e-13 * powers.sum())


def test_energies_and_shares_of_bands_are_those_of_the_enumerated_paths(compared: tuple[DepthDegrees, Any]) -> None:
    result, expected = compared
    for network, parts in expected.items():
        energies = {label: spectrum(y).sum() for label, y in parts.items()}
        of_terms = sum(energy for label, energy in energies.items() if isinstance(label, int))
        for label, y in parts.items():
            found = row(result, network, label)
            assert found["energy"] == pytest.approx(energies[label], rel=1e-10)
            assert found["weight"] == (pytest.approx(energies[label] / of_terms) if isinstance(label, int) else None)
            assert {band: found[band] for band in BANDS} == pytest.approx(shares(spectrum(y)), abs=1e-10)


def test_the_excess_is_a_difference_of_weighted_slopes(compared: tuple[DepthDegrees, Any]) -> None:
    result, expected = compared
    energies = {depth: spectrum(expected["own"][depth]).sum() for depth in (2, 3, 4, 5)}
    used = [depth for depth in energies if energies[depth] >= 0.02 * sum(energies.values())]

    def fall(network: str) -> float:
        low = [shares(spectrum(expected[network][depth]))["upto_1"] for depth in used]
        return -np.polyfit(used, low, 1, w=[math.sqrt(energies[depth]) for depth in used])[0]

    rows = {found["comparator"]: found for found in result.trend.rows()}
    assert set(rows) == {"shuffled", "initial"}
    for name, found in rows.items():
        assert found["terms"] == len(used) >= 3
        assert found["fall"] == pytest.approx(fall("own"), rel=1e-8)
        assert found["comparator_fall"] == pytest.approx(fall(name), rel=1e-8)
        assert found["excess"] == pytest.approx(fall("own") - fall(name), rel=1e-8)
        assert found["excess_low"] < found["excess"] < found["excess_high"]


def test_at_each_point_terms_and_constants_sum_to_what_the_network_computes() -> None:
    net, x = Small(), torch.randn(40, FEATURES, dtype=torch.float64)
    network = Terms(net, "layers", output=None, forward=None, centre=True, batch_size=16)
    parts = network.parts(x)
    y = net(x).detach()
    total = sum(values for label, values in parts.items() if label != "output")
    assert isinstance(total, Tensor)
    assert torch.allclose(total, y - y.mean(dim=1, keepdim=True), atol=1e-13)
    assert 0 < network.closure < 1e-12


def test_intervals_are_as_wide_as_the_scatter_over_circles(compared: tuple[DepthDegrees, Any]) -> None:
    # A share is a ratio of means over circles: its standard error by leaving out one circle after the other.
    result, expected = compared
    for network, label in (("own", 3), ("initial", 5), ("shuffled", 4)):
        y = expected[network][label]
        left = [shares(spectrum(np.delete(y, i, axis=0)))["upto_2"] for i in range(len(y))]
        error = math.sqrt((len(y) - 1) * np.var(left))
        found = row(result, network, label)
        assert (found["upto_2_high"] - found["upto_2_low"]) / (2 * 1.96) == pytest.approx(error, rel=0.4)


# Gates of other inputs, operator by operator, by hand.


class By(nn.Module):
    """Matrices p, q, r, and some function of the input and of these."""

    def __init__(self, function: Callable[[By, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.p, self.q, self.r = (nn.Linear(6, 6, bias=False) for _ in range(3))
        self.norm, self.batch_norm = nn.LayerNorm(6), nn.BatchNorm1d(6)
        self.function = function
        for parameter in (self.norm.weight, self.norm.bias, self.batch_norm.weight, self.batch_norm.bias):
            nn.init.normal_(parameter)
        assert self.batch_norm.running_mean is not None and self.batch_norm.running_var is not None
        self.batch_norm.running_mean.normal_()
        self.batch_norm.running_var.uniform_(0.5, 2)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self.state_dict().items()}


def attention(net: By, x: Tensor) -> Tensor:
    tokens = x.unflatten(1, (3, 2)).repeat(1, 1, 3)
    queries, keys, values = net.p(tokens), net.q(tokens), net.r(tokens)
    return nn.functional.scaled_dot_product_attention(queries, keys, values).flatten(1)


def of_attention(w: dict[str, np.ndarray], x: np.ndarray, by: np.ndarray) -> np.ndarray:
    tokens, gates = (np.tile(z.reshape(-1, 3, 2), (1, 1, 3)) for z in (x, by))
    scores = np.einsum("nid,njd->nij", gates @ w["p.weight"].T, gates @ w["q.weight"].T) / math.sqrt(6)
    pattern = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    return (pattern @ (tokens @ w["r.weight"].T)).reshape(len(x), -1)


def of_pooling(w: dict[str, np.ndarray], x: np.ndarray, by: np.ndarray) -> np.ndarray:
    u, v = ((z @ w["p.weight"].T).reshape(-1, 3, 2) for z in (x, by))
    return np.take_along_axis(u, v.argmax(axis=2)[..., None], axis=2)[..., 0]


def of_norm(w: dict[str, np.ndarray], x: np.ndarray, by: np.ndarray) -> np.ndarray:
    u, v = (z @ w["p.weight"].T for z in (x, by))
    spread = np.sqrt(v.var(axis=1, keepdims=True) + 1e-5)
    return (u - u.mean(axis=1, keepdims=True)) / spread * w["norm.weight"]


def of_product(w: dict[str, np.ndarray], x: np.ndarray, by: np.ndarray) -> np.ndarray:
    p, q = w["p.weight"].T, w["q.weight"].T
    return ((x @ p) * (by @ q) + (by @ p) * (x @ q)) / 2


def of_gelu(w: dict[str, np.ndarray], x: np.ndarray, by: np.ndarray) -> np.ndarray:
    u, v = (z @ w["p.weight"].T for z in (x, by))
    return u * (1 + np.vectorize(math.erf)(v / math.sqrt(2))) / 2


def of_softplus(w: dict[str, np.ndarray], x: np.ndarray, by: np.ndarray) -> np.ndarray:
    u, v = (z @ w["p.weight"].T for z in (x, by))
    return u * (np.log1p(np.exp(v)) - math.log(2)) / v


def of_gate(w: dict[str, np.ndarray], x: np.ndarray, by: np.ndarray) -> np.ndarray:
    return (x @ w["p.weight"].T) / (1 + np.exp(-by @ w["q.weight"].T))


def of_cumulative(w: dict[str, np.ndarray], x: np.ndarray, by: np.ndarray) -> np.ndarray:
    """By its derivative at the lent input: weights exp(v_i) / sum up to j."""
    u, v = (z @ w["p.weight"].T for z in (x, by))
    return np.cumsum(np.exp(v) * u, axis=1) / np.cumsum(np.exp(v), axis=1)


def of_batch_norm(w: dict[str, np.ndarray], x: np.ndarray, by: np.ndarray) -> np.ndarray:
    u = x @ w["p.weight"].T
    return u * w["batch_norm.weight"] / np.sqrt(w["batch_norm.running_var"] + 1e-5)


OPERATORS: dict[str, tuple[Callable[[By, Tensor], Tensor], Callable[..., np.ndarray]]] = {
    "attention": (attention, of_attention),
    "batch norm": (lambda n, x: n.batch_norm(n.p(x)), of_batch_norm),
    "gate": (lambda n, x: n.p(x) * torch.sigmoid(n.q(x)), of_gate),
    "gelu": (lambda n, x: nn.functional.gelu(n.p(x)), of_gelu),
    "layer norm": (lambda n, x: n.norm(n.p(x)), of_norm),
    "linearised": (lambda n, x: torch.logcumsumexp(n.p(x), dim=1), of_cumulative),
    "pooling": (lambda n, x: nn.functional.max_pool1d(n.p(x)[:, None], 2)[:, 0], of_pooling),
    "product of two values": (lambda n, x: n.p(x) * n.q(x), of_product),
    "softplus": (lambda n, x: nn.functional.softplus(n.p(x)), of_softplus),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_takes_its_gates_from_one_input_and_its_terms_from_another(name: str) -> None:
    function, by_hand = OPERATORS[name]
    net = By(function)
    x, others = torch.randn(2, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network = Terms(net, "layers", output=None, forward=None, centre=False, batch_size=9)
    for gates in (x, others):
        found = network.parts(x, gates)
        assert found.keys() == {1, "constants", "output"}
        expected = by_hand(net.arrays(), x.numpy(), gates.numpy())
        np.testing.assert_allclose(found[1].numpy(), expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found["output"].numpy(), net(gates).detach().numpy(), rtol=1e-12)
    assert network.closure < 1e-12
    assert network.linearised == ({"aten.logcumsumexp"} if name == "linearised" else set())


@pytest.mark.parametrize("unit", ["layers", "blocks", "activations", ["a", "c"]])
def test_with_gates_of_another_input_every_term_is_linear(unit: Any) -> None:
    x, z, gates = torch.randn(3, 10, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network = Terms(Small(), unit, output=None, forward=None, centre=True, batch_size=10)
    of_x, of_z, of_both = (network.parts(start, gates) for start in (x, z, 2 * x - 3 * z))
    terms = [label for label in of_x if isinstance(label, int)]
    assert len(terms) >= 3
    for label in terms:
        assert torch.allclose(of_both[label], 2 * of_x[label] - 3 * of_z[label], atol=1e-12)
        assert float(of_x[label].norm()) > 0.01


# Closed forms.


class Skip(nn.Module):
    """Linear blocks, v + W v."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(FEATURES, FEATURES) for _ in range(3))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_linear_network_turns_once_at_every_depth_by_whichever_gates(dtype: torch.dtype) -> None:
    result = depth_degrees(Skip().to(dtype), Gaussian.standard((FEATURES,)), circles=20, angles=64)
    terms = result.terms.where(part="input")
    assert sorted(terms["depth"]) == [0, 0, 1, 1, 2, 2, 3, 3]
    np.testing.assert_allclose(terms["upto_1"], 1, atol=1e-11)
    found = result.powers.where(part="input")
    once = found["power"][found["frequency"] == 1]
    zero = found["power"][found["frequency"] == 0]
    assert (zero < 1e-10 * once).all()
    for depth in range(4):
        assert row(result, "shuffled", depth)["energy"] == pytest.approx(row(result, "own", depth)["energy"], rel=1e-5)
    # What is born of constants is the same everywhere: it has an energy of zero, and no shares.
    constants = row(result, "own", "constants")
    assert constants["energy"] < 1e-10 * row(result, "own", 0)["energy"] and constants["upto_1"] is None
    assert abs(result.trend["excess"][0]) < 1e-9 and not result.warnings


def test_a_rectifier_and_its_shuffled_gate_have_the_powers_of_their_fourier_series() -> None:
    """relu(s cos t), beside s cos(t) [cos(t + u) > 0] of independent phase u, for a Rayleigh distributed s, E s^2 = 2.

    relu(cos t) = 1/pi + cos(t)/2 + ...; and the gate is 1/2 + sum over odd j of +- 2/(pi j) cos(j t).
    """
    neuron = nn.Linear(40, 1, bias=False)
    with torch.no_grad():
        neuron.weight /= neuron.weight.norm()
    result = depth_degrees(
        nn.Sequential(neuron, nn.ReLU()), Gaussian.standard((40,)), circles=4000, angles=256, batch_size=16384, seed=1
    )
    even = np.arange(2, 100_000, 2)
    by_even = 1 / (np.pi * (even - 1)) ** 2 + 1 / (np.pi * (even + 1)) ** 2
    energy = {"own": 0.5 - 1 / (2 * np.pi), "shuffled": 0.5}
    own_low = 0.25 + 2 / np.pi**2 - 1 / (2 * np.pi)
    shuffled_low = 0.25 + 1 / np.pi**2
    expected = {
        "own": {"upto_1": own_low, "upto_2": own_low + 4 / (9 * np.pi**2)},
        "shuffled": {
            "upto_1": shuffled_low,
            "upto_2": shuffled_low + by_even[0],
            "from_3_to_15": by_even[1:7].sum(),
            "from_16": by_even[7:].sum(),
        },
    }
    assert shuffled_low + by_even.sum() == pytest.approx(0.5, rel=1e-4)  # the series is whole
    for network, bands in expected.items():
        found = row(result, network, 1)
        error = (found["energy_high"] - found["energy_low"]) / (2 * 1.96)
        assert abs(found["energy"] - energy[network]) < 3 * error
        for band, power in bands.items():
            error = (found[f"{band}_high"] - found[f"{band}_low"]) / (2 * 1.96)
            assert abs(found[band] - power / energy[network]) < 3 * error + 0.001  # that much is folded back


# The result, and how it is had.


def test_the_same_seed_gives_the_same_bits_and_it_comes_back_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = torch.randn(200, FEATURES, dtype=torch.float64)
    first, again, other = (
        depth_degrees(Small(), data, initial=Small(1).state_dict(), circles=20, angles=64, seed=seed)
        for seed in (0, 0, 1)
    )
    assert str(first) == str(again) and first.terms.rows() == again.terms.rows()
    assert first.terms.rows() != other.terms.rows()
    first.save(tmp_path / "d.termwise")
    loaded = DepthDegrees.load(tmp_path / "d.termwise")
    assert repr(loaded) == str(first)
    assert dataclasses.fields(loaded) == dataclasses.fields(first)
    for name in ("terms", "powers", "trend"):
        table, kept = getattr(first, name), getattr(loaded, name)
        assert (kept.rows(), kept.units) == (table.rows(), table.units)
    assert (loaded.details, loaded.warnings, loaded.closure) == (first.details, first.warnings, first.closure)
    with pytest.raises(RecordError, match="not a degree-spectrum"):
        tw.DegreeSpectrum.load(tmp_path / "d.termwise")
    tw.degrees(Small(), data, samples=20).save(tmp_path / "s.termwise")
    with pytest.raises(RecordError, match="not a depth-degrees"):
        DepthDegrees.load(tmp_path / "s.termwise")


def test_a_state_of_the_same_model_is_as_good_as_the_module() -> None:
    options: dict[str, Any] = {"data": Gaussian.standard((FEATURES,)), "circles": 20, "angles": 64}
    as_module = depth_degrees(Small(), initial=Small(1), **options)
    as_state = depth_degrees(Small(), initial=Small(1).state_dict(), **options)
    assert as_module.terms.rows() == as_state.terms.rows()
    assert len(as_module.trend) == 2
    alone = depth_degrees(Small(), **options)
    assert alone.trend["comparator"].tolist() == ["shuffled"]
    for network in ("own", "shuffled"):  # the circles are the same with an initial network and without
        assert alone.terms.where(network=network).rows() == as_module.terms.where(network=network).rows()


def test_the_table_shows_the_own_shares_beside_those_of_the_comparators(compared: tuple[DepthDegrees, Any]) -> None:
    result, _ = compared
    lines = str(result).splitlines()
    assert max(map(len, lines[2:10])) <= 120
    (line,) = [line for line in lines if line.split()[:1] == ["4"]]
    cells = line.split("|")[1:]
    for cell, band in zip(cells, BANDS, strict=True):
        own, shuffled, initial = (row(result, network, 4) for network in ("own", "shuffled", "initial"))
        words = cell.replace("±", " ").strip(" ░▒▓█").split()
        half = (own[f"{band}_high"] - own[f"{band}_low"]) / 2
        expected = [own[band], half, shuffled[band], initial[band]]
        assert [float(word) for word in words] == pytest.approx([100 * share for share in expected], abs=0.051)
    found = {r["comparator"]: 100 * r["excess"] for r in result.trend.rows()}
    (over,) = [line for line in lines if line.startswith("excess over gates shuffled")]
    assert f"{found['shuffled']:+.2f}" in over
    (over,) = [line for line in lines if line.startswith("excess over the network as it was")]
    assert f"{found['initial']:+.2f}" in over


def test_a_term_has_no_mean_degree(compared: tuple[DepthDegrees, Any]) -> None:
    with pytest.raises(UsageError, match=r"jumps where gates switch.*degrees\(model, data\)"):
        _ = compared[0].mean_degree


def test_a_plain_network_has_one_term_and_no_trend() -> None:
    net = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    result = depth_degrees(net, Gaussian.standard((FEATURES,)), initial=net, circles=20, angles=64)
    assert result.terms.where(network="own", part="input")["depth"].tolist() == [2]
    assert np.isnan(result.trend["excess"]).all() and result.trend["terms"].tolist() == [1, 1]
    assert "none, since fewer than three terms" in str(result)
    own, initial = (result.terms.where(network=name).rows() for name in ("own", "initial"))
    assert [{**r, "network": ""} for r in own] == [{**r, "network": ""} for r in initial]


def test_both_models_are_left_as_found() -> None:
    torch.manual_seed(0)
    models = [
        nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()
        for _ in range(2)
    ]
    before = [snapshot(model) for model in models]
    depth_degrees(models[0], Gaussian.standard((FEATURES,)), initial=models[1], circles=20, angles=64)
    for model, state in zip(models, before, strict=True):
        unchanged(state, snapshot(model))
    with pytest.raises(RuntimeError):
        depth_degrees(models[0], Gaussian.standard((FEATURES + 1,)), initial=models[1], circles=20, angles=64)
    for model, state in zip(models, before, strict=True):
        unchanged(state, snapshot(model))


def test_no_more_than_a_batch_is_run_at_once_and_memory_does_not_grow_with_the_circles() -> None:
    sizes: list[int] = []
    told: list[tuple[int, int]] = []

    def function(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x + torch.relu(x)

    peaks = []
    for circles in (24, 96):
        sizes.clear()
        told.clear()
        tracemalloc.start()
        found = depth_degrees(
            function,
            Gaussian.standard((FEATURES,)),
            unit="activations",
            circles=circles,
            angles=64,
            batch_size=100,
            progress=lambda done, total: told.append((done, total)),
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert max(sizes) <= 100 and sum(sizes) == found.details["evaluations"] <= 2 * circles * 64 + 2
        assert told == [(n, circles) for n in range(1, circles + 1)]
    assert peaks[1] < 1.1 * peaks[0]


def test_batches_and_pieces_of_circles_change_nothing_but_rounding() -> None:
    whole, pieces = (
        depth_degrees(Small(), given(), circles=24, angles=64, batch_size=size, replicates=2) for size in (24 * 64, 64)
    )
    assert whole.terms["energy"] != pytest.approx(pieces.terms["energy"])  # drawn batch by batch, on other circles
    net = Terms(Small(), "layers", output=None, forward=None, centre=True, batch_size=7)
    at_once = Terms(Small(), "layers", output=None, forward=None, centre=True, batch_size=100)
    x, gates = torch.randn(2, 30, FEATURES, dtype=torch.float64)
    for label, values in net.parts(x, gates).items():
        assert torch.allclose(values, at_once.parts(x, gates)[label], atol=1e-13)


# What is distrusted, and what is refused.


def test_too_few_angles_for_what_jumps_are_told() -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(2, 300), nn.Linear(300, 1)
    with torch.no_grad():
        first.bias.mul_(10)
        last.weight.sign_()
    steep = nn.Sequential(first, nn.ReLU(), last).double()
    found = depth_degrees(steep, Gaussian.standard((2,)), circles=20, angles=64, replicates=2)
    assert any(warning.startswith("aliasing: ") and "angles=128" in warning for warning in found.warnings)
    smooth = depth_degrees(Skip(), Gaussian.standard((FEATURES,)), circles=20, angles=64, replicates=2)
    assert not smooth.warnings


def test_what_is_linearised_is_told() -> None:
    found = depth_degrees(
        By(OPERATORS["linearised"][0]), Gaussian.standard((6,)), centre=False, circles=20, angles=64, replicates=2
    )
    assert [warning for warning in found.warnings if warning.startswith("linearised: aten.logcumsumexp")]
    assert found.details["linearised"] == ["aten.logcumsumexp"]


class Whitened(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu((x - x.mean(dim=0)) / x.std(dim=0)) + x


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda x: torch.softmax(x, dim=1), ModelError, "frozen"),
        (lambda x: torch.relu(x).sum(), ModelError, "one row a sample"),
        (lambda x: torch.relu(x) * 0, ModelError, "the same on all inputs"),
        (lambda x: {"a": x}, ModelError, "output="),
        (nn.Linear(FEATURES, 2).bfloat16(), ModelError, r"model.float\(\)"),
        (Whitened(), ModelError, "influence each other"),
        (lambda x: torch.cond(x.sum() > 0, torch.relu, torch.relu, (x,)), RuleError, "cannot be followed"),
    ],
)
def test_models_without_terms_are_refused(model: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        depth_degrees(model, Gaussian.standard((FEATURES,)), circles=20, angles=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"circles": 5}, "at least 20"),
        ({"angles": 32}, "at least 64"),
        ({"angles": 66}, "multiple of 4"),
        ({"replicates": 1}, "interval"),
        ({"batch_size": 0}, "at least 1"),
        ({"unit": "steps"}, "'layers'"),
        ({"initial": nn.Linear(FEATURES, CLASSES)}, r"another network.*\[1\].*\[2, 3, 4, 5\]"),
        ({"initial": {}}, "no state of this model"),
        ({"replicates": 1_000_000}, "2 GiB"),
    ],
)
def test_options_that_make_no_spectrum_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        depth_degrees(Small(), Gaussian.standard((FEATURES,)), **{"circles": 20, "angles": 64, **options})


def test_a_state_needs_a_module_and_data_must_be_numbers() -> None:
    with pytest.raises(UsageError, match=r"nn\.Module"):
        depth_degrees(torch.relu, Gaussian.standard((FEATURES,)), initial={}, circles=20, angles=64)
    with pytest.raises(DataError, match="int64"):
        depth_degrees(Small(), torch.randint(5, (30, FEATURES)))
