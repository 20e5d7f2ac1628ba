"""Fixtures: a clean data folder for every test, and commands run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# before anything loads PyTorch: on a busy machine its threads wait for each other, tenfold
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile("busy", deadline=None)  # a machine that stands still is no failure
settings.load_profile("busy")

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def data_folder(tmp_path_factory, monkeypatch):
    """No test sees the tables of whoever runs it."""
    folder = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("EFFICIENTVIT_NAS_DATA", str(folder))
    return folder


@pytest.fixture
def run(tmp_path):
    """Run `python -m MODULE ...` in an empty folder, in another process."""

    def run(module, *arguments, cwd=tmp_path, hash_seed="random", code=0):
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def fails(capsys):
    """Run a command here that must end with one line on stderr and exit code 2."""

    def fails(command, module, *arguments):
        from results.console import main

        with pytest.raises(SystemExit) as caught:
            main(command, module, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert caught.value.code == 2
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return fails
