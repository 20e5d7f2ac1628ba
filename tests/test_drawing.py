"""Pictures whatever the environment says, and numbers that do not depend on pictures."""

import json
import logging
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
    is_same = files[0].read_bytes() == same[0].read_bytes()
    assert is_same  # of bytes pytest would seek the differences for minutes
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


@pytest.mark.parametrize("name", ["MPLBACKEND", "PLOTLY_RENDERER"])
def test_the_environment_is_as_it_was_afterwards(monkeypatch, name):
    monkeypatch.setenv(name, "module://none")
    with drawing("x.png"):
        assert name not in os.environ
    assert os.environ[name] == "module://none"


def test_matplotlib_is_as_it_was_afterwards(caplog):
    import matplotlib

    logger = logging.getLogger("matplotlib")
    caplog.set_level(logging.INFO, "matplotlib")
    with matplotlib.rc_context({"axes.facecolor": "red"}):
        with drawing("x.png"):
            assert matplotlib.rcParams["axes.facecolor"] == "white"
            assert not logger.isEnabledFor(logging.ERROR)
        assert matplotlib.rcParams["axes.facecolor"] == "red"
    assert logger.level == logging.INFO


def test_whoever_draws_after_us_has_the_backend_of_the_environment():
    """As in a notebook, whose own pictures would no longer be shown."""
    code = (
        "from results.drawing import drawing\n"
        "with drawing('x.png'):\n    pass\n"
        "import matplotlib\nprint(matplotlib.get_backend())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "MPLBACKEND": "svg"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("svg\n", "", 0)


def test_matplotlib_is_imported_in_one_place():
    for package in ("nas", "lut", "supernet", "predictors", "results"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            if path.name != "drawing.py":
                assert "pyplot" not in text
                assert "backend_agg" not in text
                assert "matplotlib" not in text or "with drawing(" in text, path


def broken(*_, **__):
    raise ValueError("no such font")


def test_a_training_whose_curve_cannot_be_drawn_has_its_figures(tmp_path, monkeypatch, capsys):
    from supernet.train import Train
    from tests.blobs import FROZEN

    monkeypatch.setattr("supernet.training.curves.new_figure", broken)
    Train(
        space="tiny", freeze=FROZEN, steps=1, batch_size=4, num_train=8, resolution=("32",),
        random_subnets=1, workers=0, limit=8, recalibration_images=8, out=tmp_path / "run",
    ).run()  # fmt: skip
    said = capsys.readouterr()
    assert "curve.png cannot be drawn: no such font" in said.err
    assert "next: python -m supernet.evaluate" in said.out
    answer = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert answer["curve"] is None
    assert len(answer["evaluations"]) == 2
    assert not (tmp_path / "run" / "curve.png").exists()


def test_a_calibration_whose_picture_cannot_be_drawn_has_its_table(tmp_path, monkeypatch, capsys):
    from lut.calibrate import Calibrate
    from results.console import main

    monkeypatch.setattr("lut.calibration.report.new_figure", broken)
    flags = ["--device", "orin", "--out", str(tmp_path), "--report", str(tmp_path / "report")]
    with pytest.raises(SystemExit) as caught:
        main(Calibrate, "lut.calibrate", flags)
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert said.err.endswith("orin.png cannot be drawn: no such font\n")
    assert "each architecture predicted without its own rows" in said.out
    assert (tmp_path / "report" / "orin.md").exists()
    assert list(tmp_path.glob("orin*.csv"))
