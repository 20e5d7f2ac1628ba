"""Whether a table's runtime is of the version that is here: the remark, and where there is none."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from lut.device import find_table, get_device
from lut.runtimes.versions import remark_here, version_remark
from lut.sidecar import Environment, Sidecar
from nas.devices import Devices
from nas.predict import Predict
from nas.search import SearchCommand
from results.errors import TableError

ORT = {"runtime": "onnxruntime", "version": "1.20.0"}


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (ORT, {"version": "1.32.0"}, "measured with onnxruntime 1.20.0, here is 1.32.0"),
        (
            {"runtime": "tensorrt", "version": "101300", "tool": "trtexec"},
            {"runtime": "tensorrt", "version": "11.4.0"},
            "measured with tensorrt 10.13.0, here is 11.4.0",
        ),
        (
            {"runtime": "tensorrt", "version": "8.6.1"},
            {"runtime": "tensorrt", "version": "8502", "tool": "trtexec"},
            "measured with tensorrt 8.6.1, here is 8.5.2",
        ),
        (
            {"runtime": "litert", "version": "benchmark_model 0123abcd"},
            {"runtime": "litert", "version": "benchmark_model 4567abcd"},
            "measured with benchmark_model 0123abcd, here is benchmark_model 4567abcd",
        ),
        (
            {"runtime": "pytorch", "version": "2.1.0+cu121"},
            {"runtime": "pytorch", "version": "2.2.0+cpu"},
            "measured with pytorch 2.1.0",
        ),
    ],
)
def test_another_version_is_remarked_on_in_one_line(before, now, told):
    found = version_remark(Environment(**before), Environment(**now))
    assert told in found
    assert "build it again" in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (ORT, ORT),
        (ORT, {}),
        ({}, ORT),
        ({"runtime": "onnxruntime", "version": None}, ORT),
        ({"version": "2.1.0+cu121"}, {"version": "2.1.0"}),
        ({"version": "101300", "tool": "trtexec"}, {"version": "10.13.0"}),
    ],
)
def test_the_same_version_or_an_unknown_one_is_not(before, now):
    assert version_remark(Environment(**before), Environment(**now)) == ""


def measurement(environment=None, **target):
    """What a sidecar tells of a measurement on this machine, but for what is given."""
    here = {"kind": "local", "machine": os.uname().machine, **target}
    return {"target": here, "environment": {**ORT, **(environment or {})}}


def remark_on(environment=None, **target):
    return remark_here(Sidecar.of({"measurement": measurement(environment, **target)}))


def test_a_table_of_this_machine_is_held_against_what_is_installed(monkeypatch):
    installed = version("onnxruntime")
    assert f"here is {installed}" in remark_on({"version": "0.1.0"})
    assert remark_on({"version": installed}) == ""
    litert = {"runtime": "litert", "version": "0.1.0"}
    told = remark_on(litert | {"package": "ai_edge_litert"})
    assert f"here is {version('ai-edge-litert')}" in told
    assert remark_on(litert) == ""  # by benchmark_model
    assert remark_on({"runtime": "tensorrt", "version": "8601", "tool": "trtexec"}) == ""
    for change in ({"kind": "ssh"}, {"machine": "vax"}, {"cpu": "another processor"}):
        if "cpu" not in change or os.uname().machine == "x86_64":
            assert remark_on({"version": "0.1.0"}, **change) == ""


def test_the_package_for_gpus_is_the_runtime_too(monkeypatch):
    def installed(name):
        if name != "onnxruntime-gpu":
            raise PackageNotFoundError(name)
        return "1.32.0"

    monkeypatch.setattr("lut.runtimes.versions.version", installed)
    assert "with onnxruntime 1.20.0, here is 1.32.0" in remark_on()
    assert remark_on({"runtime": "pytorch"}) == ""


@pytest.mark.parametrize(
    "written", [{}, {"measurement": None}, {"measurement": {"environment": ORT}}]
)
def test_without_a_measurement_nothing_is_said(written):
    assert remark_here(Sidecar.of(written)) == ""


@pytest.mark.parametrize("damaged", [[], {"target": 1}, {"environment": {"version": ["1"]}}])
def test_a_damaged_measurement_is_refused(damaged):
    with pytest.raises(TableError, match="sidecar"):
        Sidecar.of({"measurement": damaged})


@pytest.fixture
def mine(monkeypatch, tmp_path):
    """A table of this machine, of a version that nobody has."""
    monkeypatch.setenv("EFFICIENTVIT_NAS_DATA", str(tmp_path))
    path = find_table(get_device("example-cpu:onnxruntime"), 1)
    (tmp_path / "tables").mkdir()
    copy = tmp_path / "tables" / "mine-onnxruntime-fp32"
    shutil.copy(path, copy.with_suffix(".csv"))
    found = json.loads(path.with_suffix(".json").read_text())
    found["device"] = "mine"
    found["measurement"] |= measurement({"version": "0.1.0"})
    copy.with_suffix(".json").write_text(json.dumps(found))


def test_the_list_of_devices_has_the_remark(mine, capsys):
    Devices().run()
    assert "mine: the table was measured with onnxruntime 0.1.0, here is" in capsys.readouterr().out
    Devices(json=True).run()
    rows = {row["device"]: row for row in json.loads(capsys.readouterr().out)}
    assert "onnxruntime 0.1.0" in rows["mine"]["remark"]
    assert rows["orin"]["remark"] == ""


def test_a_search_has_the_remark(mine, tmp_path, capsys):
    SearchCommand(device=("mine",), trials=20, evaluations=20_000, out=tmp_path / "run").run()
    assert "the table was measured with onnxruntime 0.1.0, here is" in capsys.readouterr().out


def test_a_prediction_has_the_remark(mine, capsys):
    Predict(device=("mine",), arch="b0").run()
    assert "note: the table was measured with onnxruntime 0.1.0" in capsys.readouterr().err
    Predict(device=("mine",), arch="b0", json=True).run()
    said = capsys.readouterr()
    assert "onnxruntime 0.1.0" in said.err
    assert json.loads(said.out)
    Predict(device=("mine",), arch="b0", quiet=True).run()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [["nas.devices"], ["lut.build", "--help"]])
def test_commands_work_without_docstrings(arguments):
    done = subprocess.run(
        [sys.executable, "-OO", "-m", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
