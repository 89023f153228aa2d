"""What is measured when a training is over: against networks cut by hand, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from snapshots import snapshot, unchanged
from termwise import nets
from termwise.data import DataSet
from termwise.degree.terms import depth_degrees
from termwise.ending import FREQUENCIES, Ending, measure_ending
from termwise.profile import profile
from termwise.recorder import reestimated
from termwise.records import read_parquet
from termwise.traced import TraceConfig, run_trace
from termwise.training import NetworkConfig, Recording, RunConfig, Training, run_training

DRAW = torch.Generator().manual_seed(0)
PATTERNS = torch.randn(3, 1, 8, 8, generator=DRAW)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    targets = torch.arange(count) % 3
    noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return PATTERNS[targets] + 0.7 * noise, targets


PROBE, CALIBRATION = images(24, 1), images(48, 2)[0]


def network(depth: int = 8) -> nn.Module:
    return nets.resnet(depth, width=4, channels=1, classes=3)


def measured(model: nn.Module, **options: Any) -> Ending:
    return measure_ending(model, PROBE, **{"calibration": CALIBRATION, "replicates": 20, **options})


class Zero(nn.Module):
    def forward(self, v: Tensor) -> Tensor:
        return torch.zeros_like(v)


@torch.no_grad()
def by_hand(model: nn.Module, gone: list[int]) -> tuple[float, float]:
    """Accuracy and loss of the network whose statistics were estimated, and then those blocks cut out."""
    twin: Any = reestimated(model, CALIBRATION)
    blocks = [block for stage in twin.stages for block in stage]
    for i in gone:
        blocks[i].norm2 = Zero()
    y = twin(PROBE[0]).double()
    return float((y.argmax(1) == PROBE[1]).double().mean()), float(F.cross_entropy(y, PROBE[1]))


# --- what is measured ---


def test_lesions_are_those_of_networks_cut_by_hand() -> None:
    model = network(20)
    table = measured(model).lesions
    assert table is not None
    rows = table.rows()
    assert {k: len(table.where(removed=k)) for k in set(table["removed"])} == {0: 1, 1: 9, 2: 5, 4: 5, 8: 5, 9: 1}
    for row in rows[::4]:
        gone = [int(i) for i in row["gone"].split()]
        assert len(gone) == row["removed"] == 9 - row["kept"]
        accuracy, loss = by_hand(model, gone)
        assert row["accuracy"] == pytest.approx(accuracy) and row["loss"] == pytest.approx(loss, rel=1e-4)
    for k in (1, 2):
        own = table.where(removed=k)
        line, losses = own.rows()[0], own["loss"]
        assert line["mean_loss"] == pytest.approx(losses.mean()) and line["draws"] == len(own)
        assert line["exhaustive"] == (k == 1)
        low, high = stats.t.interval(0.95, len(own) - 1, losses.mean(), stats.sem(losses))
        expected = (None, None) if k == 1 else (pytest.approx(low), pytest.approx(high))
        assert (line["mean_loss_low"], line["mean_loss_high"]) == expected
    assert sorted(table.where(removed=1)["gone"], key=int) == [str(i) for i in range(9)]


def test_routes_are_there_for_few_blocks_and_add_up_by_length() -> None:
    model = network()
    table = measured(model, batch_size=16).routes
    assert table is not None
    plain = profile(reestimated(model, CALIBRATION), PROBE, unit="blocks", replicates=20)
    for length, share in zip(plain.depths, plain.share.where(origin="input")["aligned_share"], strict=True):
        assert table.where(length=length)["aligned_share"].sum() == pytest.approx(share, rel=1e-3, abs=1e-5)
    assert table["aligned_share"].sum() == pytest.approx(1, abs=1e-5)
    assert [row["through"] for row in table.rows()] == ["", "0", "1", "2", "0 1", "0 2", "1 2", "0 1 2", None]
    assert measured(network(20)).routes is None


def test_tiles_hold_what_the_bands_of_the_terms_hold() -> None:
    model = network()
    found = measured(model, degrees=True, initial=network)
    assert found.tiles is not None and found.trends is not None
    at_first = reestimated(network(), CALIBRATION)  # other weights: only what is of the network itself is compared
    whole = depth_degrees(
        reestimated(model, CALIBRATION), CALIBRATION, initial=at_first, circles=24, angles=64, replicates=20
    )
    for row in whole.terms.where(network="own").rows():
        own = found.tiles.where(comparator="own", part=row["part"], depth=row["depth"])
        shares = own["share"]
        assert [(line["lowest"], line["highest"]) for line in own.rows()] == list(FREQUENCIES)
        assert own["energy"].sum() == pytest.approx(row["energy"], rel=1e-6)
        if row["upto_1"] is not None:
            assert shares.sum() == pytest.approx(1)
            assert shares[0] == pytest.approx(row["upto_1"]) and shares[:2].sum() == pytest.approx(row["upto_2"])
            assert shares[2:5].sum() == pytest.approx(row["from_3_to_15"])
            assert shares[5] == pytest.approx(row["from_16"])
    assert set(found.tiles["comparator"]) == {"own", "shuffled", "initial"}
    assert found.trends["comparator"].tolist() == ["shuffled", "initial"]
    (own, *_), (theirs, *_) = found.trends.rows(), whole.trend.rows()
    assert own["excess"] == pytest.approx(theirs["excess"]) and own["excess_low"] == pytest.approx(theirs["excess_low"])


def test_no_blocks_no_lesions_and_no_degrees_no_tiles() -> None:
    found = measured(nets.mlp([64, 12, 3]))
    assert found.tables == {} and found.left_out == ()
    assert measured(network()).tiles is None


def test_what_cannot_be_measured_is_told_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    numbers = torch.randn(24, 3)
    found = measure_ending(network(), (PROBE[0], numbers), calibration=CALIBRATION, replicates=20)
    (line,) = found.left_out
    assert line.startswith("lesions: the data have no class numbers") and line in caplog.text
    assert found.lesions is None and found.routes is not None


# --- as found, and kept ---


def test_the_model_and_the_random_states_are_left_as_found() -> None:
    model = network().train()
    before = snapshot(model)
    first = measured(model, degrees=True)
    unchanged(before, snapshot(model))
    torch.manual_seed(5)
    again = measured(model, degrees=True)
    assert {k: t.rows() for k, t in first.tables.items()} == {k: t.rows() for k, t in again.tables.items()}


def test_it_is_measured_once_for_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = network(), tmp_path / "ending.termwise"
    first = measured(model, path=path)
    monkeypatch.setattr("termwise.ending.deletion", lambda *_, **__: pytest.fail("measured again"))
    kept = measured(model, path=path)
    assert {k: t.rows() for k, t in kept.tables.items()} == {k: t.rows() for k, t in first.tables.items()}
    assert kept.seconds == first.seconds > 0
    with pytest.raises(pytest.fail.Exception):
        measured(model, path=path, calibration=False)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    with pytest.raises(pytest.fail.Exception):
        measured(model, path=path)


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"PK" + raw])
def test_a_damaged_file_is_measured_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    model, path = network(), tmp_path / "ending.termwise"
    first = measured(model, path=path).tables
    raw = path.read_bytes()
    path.write_bytes(damage(raw))
    assert {k: t.rows() for k, t in measured(model, path=path).tables.items()} == {
        k: t.rows() for k, t in first.items()
    }


# --- in a run ---


def test_a_run_and_its_trace_write_the_same_tables(tmp_path: Path) -> None:
    train, test = images(64, 3), PROBE
    data = DataSet("made here", "patterns", "nobody", *train, *test, 3)
    recording = Recording(probe=16, calibration=32, ratio=4.0, batch_size=16, replicates=20)
    config = RunConfig(
        "run",
        (
            NetworkConfig("One", "resnet", {"depth": 8, "width": 4}),
            NetworkConfig("MLP", "mlp", {"sizes": [64, 8, 3]}),
        ),
        training=Training(epochs=1, batch_size=16),
        recording=recording,
        threads=1,
    )
    summary = run_training(config, tmp_path / "run", data=data)
    tables = {name: tmp_path / "run" / "tables" / f"{name}.parquet" for name in ("lesions", "routes")}
    before = {name: path.read_bytes() for name, path in tables.items()}
    run_training(config, tmp_path / "run", data=data)
    assert {name: path.read_bytes() for name, path in tables.items()} == before
    assert {path.name for path in (tmp_path / "run" / "tables").iterdir()} == {
        *("steps.parquet", "spectrum.parquet", "lesions.parquet", "routes.parquet")
    }
    lesions = read_parquet(tables["lesions"])
    assert lesions.columns[:2] == ("network", "removed") and set(lesions["network"]) == {"One"}
    whole = lesions.where(removed=0).rows()[0]
    assert whole["accuracy"] == pytest.approx(summary.networks[0].accuracy)
    assert whole["loss"] == pytest.approx(summary.networks[0].loss, rel=1e-5)
    factory = tmp_path / "nets_here.py"
    factory.write_text(
        "from termwise import nets\n\n\ndef build():\n    return nets.resnet(8, width=4, channels=1, classes=3)\n"
    )
    traced = TraceConfig("trace", f"{factory}:build", recording=recording, threads=1)
    run_trace(traced, [tmp_path / "run" / "networks" / "one"], tmp_path / "traced", data=data)
    for name in tables:
        own, theirs = (
            [{k: v for k, v in row.items() if k != "network"} for row in read_parquet(path).rows()]
            for path in (tables[name], tmp_path / "traced" / "tables" / f"{name}.parquet")
        )
        assert own == theirs
