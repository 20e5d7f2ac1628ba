"""Installed for real, not from a checkout: package data come along, the working folder is free."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest

from nas.front import read_front
from tests.conftest import ROOT

PACKAGES = ("nas", "supernet", "predictors", "lut", "results")


def copy_of_the_project(copy):
    """What git would clone, as far as an install needs it."""
    copy.mkdir()
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "runs")
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that the project is installed to."""
    copy = tmp_path_factory.mktemp("source") / "copy"
    copy_of_the_project(copy)
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
        [
            sys.executable,
            "-m",
            "nas.search",
            "--device",
            "a100",
            "--trials",
            "60",
            "--evaluations",
            "9000",
        ],
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


@pytest.mark.slow
def test_an_editable_install_works_twice_in_any_folder(tmp_path):
    """The first run makes results/ in the working folder, which must not hide the package."""
    source = tmp_path / "source"
    copy_of_the_project(source)
    python = tmp_path / "venv" / "bin" / "python"
    venv = [sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv"]
    subprocess.run(venv, check=True)
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "-e", source]
    subprocess.run(install, check=True, capture_output=True)
    here = tmp_path / "elsewhere"
    here.mkdir()
    paths = [path for path in sys.path if path.endswith("site-packages")]  # the dependencies
    for _ in range(2):
        flags = [
            "-m",
            "nas.search",
            "--device",
            "a100",
            "--trials",
            "60",
            "--evaluations",
            "9000",
            "--json",
        ]
        done = subprocess.run(
            [python, *flags],
            cwd=here,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert len(list((here / "results" / "runs").iterdir())) == 2


def test_calibrating_finds_the_published_figures(site, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "lut.calibrate", "--device", "orin", "--out", "tables"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        check=True,
    )
    assert (tmp_path / "tables" / "orin-tensorrt-fp16.csv").exists()


def bounds():
    """Lower bounds in pyproject.toml of what commands need, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found = {}
    for needed in (
        *project["dependencies"],
        *extras["torch"],
        *extras["device"],
        *extras["openvino"],
    ):
        match = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,.*)?", needed)
        assert match is not None
        found[match[1]] = match[2]
    return found


def lowest():
    lines = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_versions_that_are_tested_are_the_lower_bounds():
    def padded(version):
        return [int(part) for part in version.split(".")] + [0] * (3 - version.count(".") - 1)

    own, tested = bounds(), lowest()
    assert set(own) - set(tested) == {"torch"}  # tests/lowest.txt says why
    assert {name: padded(v) for name, v in tested.items()} == {
        name: padded(version) for name, version in own.items() if name != "torch"
    }


# What meets every dependency: flags, tables and fits, fronts and pictures, studies, weights,
# training, logs, ONNX and LiteRT files, YAML.
OLDEST = (
    *("reading", "table", "points", "importers", "accuracy", "plot", "study", "curves", "rle"),
    *("weights", "checkpoint", "sandwich", "onnx_builder", "tflite_builder", "evaluate_subnets"),
)


@pytest.mark.slow
def test_the_suites_core_passes_with_the_lowest_versions(tmp_path):
    """Warnings are errors there, too. Takes the torch that this environment has."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    tools = [f"{name}=={version(name)}" for name in ("pytest", "pytest-xdist", "hypothesis")]
    wanted = [*(f"{name}=={v}" for name, v in lowest().items()), f"torch=={version('torch')}"]
    install = [python, "-m", "pip", "install", "-q", *wanted, *tools]
    subprocess.run(install, check=True, capture_output=True)
    listed = subprocess.run(
        [python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True
    ).stdout.lower()
    for name, v in lowest().items():
        assert f"{name}=={v}\n" in listed
    tests = [str(ROOT / "tests" / f"test_{name}.py") for name in OLDEST]
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
