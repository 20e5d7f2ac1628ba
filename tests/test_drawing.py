"""Pictures whatever the environment says, and numbers that do not depend on pictures."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from results.drawing import drawing, new_figure, to_png
from results.errors import PictureError

ROOT = Path(__file__).parents[1]
DRAW = """
import sys
from pathlib import Path
from nas.plot import Plot
from tests.test_plot import a_front
folder = Path(sys.argv[1])
folder.mkdir()
a_front("\\u4f60 device").write(folder)  # no font of matplotlib's has this glyph
Plot((folder,)).run()
"""


def draw(folder, **variables):
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(folder)],
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done, [folder / name for name in ("front.png", "front.html")]


def test_a_notebooks_settings_change_no_picture_and_nothing_is_remarked(tmp_path):
    plain, files = draw(tmp_path / "plain", MPLBACKEND="agg")
    (tmp_path / "matplotlibrc").write_text("backend: module://none\naxes.facecolor: red\n")
    odd, same = draw(
        tmp_path / "odd",
        MPLBACKEND="module://matplotlib_inline.backend_inline",
        PLOTLY_RENDERER="nonsense",
        HOME="/proc/1/x",
        MPLCONFIGDIR="/proc/x",
        PYTHONWARNINGS="error",
    )
    assert (plain.returncode, plain.stderr) == (0, "")
    assert (odd.returncode, odd.stderr) == (0, "")
    assert files[0].read_bytes() == same[0].read_bytes()
    assert same[1].stat().st_size > 1e6


def test_a_picture_that_cannot_be_drawn_costs_no_number(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe\x00")  # ends matplotlib's import
    done = subprocess.run(
        [
            sys.executable, "-m", "nas.search", "--device", "orin", "--space", "tiny",
            "--trials", "12", "--out", "run",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "networks on the front" in done.stdout
    assert "run/front.png or front.html cannot be drawn" in done.stderr.splitlines()[-1]
    assert "python -m nas.plot run" in done.stderr.splitlines()[-1]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"front.csv", "front.json"} <= names
    assert not names & {"front.png", "front.html"}


def test_what_a_library_raises_is_one_line_and_its_remarks_are_none():
    with warnings.catch_warnings(record=True) as caught, drawing("x.png"):
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        to_png(new_figure(1, 1, dpi=50))
    assert not caught
    for error in (ValueError("a\nb"), RecursionError(), ImportError("no lib")):
        with pytest.raises(PictureError, match=r"^x.png cannot be drawn: \S+"), drawing("x.png"):
            raise error


def test_the_environment_is_as_it_was_afterwards(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://none")
    with drawing("x.png"):
        assert "MPLBACKEND" not in os.environ
    assert os.environ["MPLBACKEND"] == "module://none"


def test_matplotlib_is_imported_in_one_place():
    for package in ("nas", "lut", "supernet", "predictors", "results"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            if path.name != "drawing.py":
                assert "pyplot" not in text
                assert "backend_agg" not in text
                assert "matplotlib" not in text or "with drawing(" in text, path
