"""Installed for real, not from a checkout: package data come along, the working folder is free."""

import os
import shutil
import subprocess
import sys

import pytest

from nas.front import read_front
from tests.conftest import ROOT

PACKAGES = ("nas", "supernet", "predictors", "lut", "results")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that the project is installed to, from a copy of what git would clone."""
    copy = tmp_path_factory.mktemp("source") / "copy"
    copy.mkdir()
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "runs")
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    site = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, copy],
        check=True,
        capture_output=True,
    )
    shutil.rmtree(copy)
    return site


def test_a_search_runs_from_an_installed_package(site, tmp_path):
    for name in PACKAGES:  # a user's own folders of the same names do not get in the way
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "nas.search", "--device", "a100", "--trials", "60"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    (run,) = (tmp_path / "results" / "runs").iterdir()
    assert run.name.startswith("a100-")
    assert read_front(run).candidates
    assert str(run.relative_to(tmp_path)) in done.stdout
    assert not (site / "results" / "runs").exists()


def test_calibrating_finds_the_published_figures(site, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "lut.calibrate", "--device", "orin", "--out", "tables"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        check=True,
    )
    assert (tmp_path / "tables" / "orin-tensorrt-fp16.csv").exists()
