"""The commands and the Python of docs/devices.md run as written, in order, in an empty folder."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.conftest import ROOT, run_here
from tests.test_importers import OFA

TEXT = (ROOT / "docs" / "devices.md").read_text()
BLOCKS = re.findall(r"(?<=\n\n)(?:    .*\n|\n(?=    ))+", TEXT)  # of indented lines
LINES = [
    line.strip() for block in BLOCKS for line in block.splitlines() if line.startswith("    python")
]
LIKE_ORIN = "arch,resolution,latency_ms\nb0,224,1.1\nb1,224,1.9\nb3,224,5.5\n"  # invented
FEWER = {
    "nas.search": ["--trials", "60", "--evaluations", "20000"]
}  # the same work on fewer networks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user has the page's points, of an invented device, and a table of Once-for-All."""
    folder = tmp_path_factory.mktemp("devices")
    (points,) = [block for block in BLOCKS if block.strip().startswith("arch,")]
    (folder / "points.csv").write_text(re.sub(r"^    ", "", points, flags=re.MULTILINE))
    (folder / "lookup_table.yaml").write_text(OFA)
    return folder


@pytest.fixture(autouse=True)
def data(folder, monkeypatch):
    """Have the tables of earlier commands found by later ones."""
    monkeypatch.setenv("EFFICIENTVIT_NAS_DATA", str(folder / "data"))


@pytest.mark.parametrize("line", LINES)
def test_every_command_runs(line, folder):
    """One after the other in one folder: later ones use the tables of earlier ones."""
    program, *arguments = shlex.split(line, comments=True)
    assert (program, arguments[0]) == ("python", "-m")
    if "--from" in arguments:  # the points above are of a slow CPU, which is not like orin
        (folder / "points.csv").write_text(LIKE_ORIN)
    done = run_here(*arguments[1:], *FEWER.get(arguments[1], []), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    if "--out-points" in arguments:
        assert len((folder / "next.csv").read_text().splitlines()) == 21


def test_its_commands_are_those_of_devices():
    modules = [line.split()[2] for line in LINES]
    assert set(modules) == {
        "lut.calibrate", "lut.build", "nas.devices", "nas.search", "nas.predict"
    }  # fmt: skip


def test_its_python_runs_and_prints(folder):
    (code,) = [block for block in BLOCKS if block.strip().startswith("from ")]
    done = subprocess.run(
        [sys.executable, "-c", re.sub(r"^    ", "", code, flags=re.MULTILINE)],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"[\d.]+ \[.*mydevice-onnxruntime-fp32\.csv'\)\]\n", done.stdout)
