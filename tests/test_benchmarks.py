"""The benchmarks can be started, and their records tell what they were taken with."""

import importlib
import json

import pytest

from results.record import commit
from tests.benchmarks import record
from tests.conftest import ROOT

MODULES = sorted(path.stem for path in (ROOT / "tests" / "benchmarks").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported(name):
    importlib.import_module(f"tests.benchmarks.{name}")


def test_a_record_has_its_circumstances(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    written = record.write_record("x", {"ms": 3.5})
    assert json.loads((tmp_path / "x.json").read_text()) == written
    assert list(written) == ["command", "date", "commit", "machine", "versions", "ms"]
    assert written["command"] == "python -m tests.benchmarks.x"
    assert written["commit"] == commit()
    other = record.write_record("y", {"machine": "a GPU"}, command="python -m tests.benchmarks.z")
    assert (other["machine"], other["command"]) == ("a GPU", "python -m tests.benchmarks.z")
    assert not (tmp_path / "z.json").exists()
