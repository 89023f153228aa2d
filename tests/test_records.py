"""Saved results: what is written comes back, and what is damaged, foreign or newer is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from termwise import records
from termwise.errors import RecordError
from termwise.records import Record, Table, read_record, write_atomically, write_record


def a_record() -> Record:
    table = Table(
        {"origin": ["input", "constant"], "depth": [3, None], "share": np.array([0.25, np.nan])}, {"depth": "layers"}
    )
    return Record("test", {"step": 7, "text": "ü <b>"}, {"share": table}, {"terms": np.arange(6.0).reshape(2, 3)})


def test_a_record_comes_back(tmp_path: Path) -> None:
    path = write_record(tmp_path / "a.termwise", a_record())
    back = read_record(path, "test")
    assert back.metadata == {"step": 7, "text": "ü <b>"}
    assert back.tables["share"].rows() == [
        {"origin": "input", "depth": 3, "share": 0.25},
        {"origin": "constant", "depth": None, "share": None},
    ]
    assert back.tables["share"].units == {"depth": "layers"}
    np.testing.assert_array_equal(back.arrays["terms"], np.arange(6.0).reshape(2, 3))


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_record(tmp_path / name, a_record()).read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_a_record_that_is_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_record(tmp_path / "a.termwise", a_record())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RecordError, match=r"a\.termwise: not a readable Termwise record"):
        read_record(path, "test")


def test_damaged_bytes_are_refused_wherever_they_are(tmp_path: Path) -> None:
    path = write_record(tmp_path / "a.termwise", a_record())
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        starts = [member.header_offset + 60 for member in archive.infolist()]
    for start in starts:
        path.write_bytes(content[:start] + bytes(16) + content[start + 16 :])
        with pytest.raises(RecordError):
            read_record(path, "test")


def rewritten(path: Path, change: dict[str, object]) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["record.json"] = json.dumps(json.loads(members["record.json"]) | change).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_newer_version_says_what_to_do(tmp_path: Path) -> None:
    path = rewritten(write_record(tmp_path / "a.termwise", a_record()), {"version": 99})
    with pytest.raises(RecordError, match=r"format version 99.*reads up to 1.*Upgrade"):
        read_record(path, "test")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    path = write_record(tmp_path / "a.termwise", a_record())
    with pytest.raises(RecordError, match="holds a termwise test, not a depth-profile"):
        read_record(path, "depth-profile")


def test_a_missing_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="there is no such record"):
        read_record(tmp_path / "none", "test")


def test_what_would_unpack_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_record(tmp_path / "a.termwise", a_record())
    monkeypatch.setattr(records, "_LIMIT", 100)
    with pytest.raises(RecordError, match="would unpack to"):
        read_record(path, "test")


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "a.termwise"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(RecordError):
        read_record(path, "test")
    assert not (tmp_path / "sprung").exists()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(file: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_selects_prints_and_escapes() -> None:
    table = Table({"name": ["<a>", "b"], "depth": [1, None]}, {"depth": "layers"})
    assert table.where(name="b").rows() == [{"name": "b", "depth": None}]
    assert table.where(depth=None)["name"].tolist() == ["b"]
    assert np.isnan(table["depth"][1])
    assert "layers" in str(table) and len(str(table).splitlines()) == 4
    assert "&lt;a&gt;" in table._repr_html_()
    with pytest.raises(KeyError, match="the table has name, depth"):
        table["missing"]
