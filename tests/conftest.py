"""Fixtures: a clean data folder for every test, and commands run as a user runs them."""

import contextlib
import importlib
import io
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


def run_here(module, *arguments, cwd):
    """Run `python -m MODULE ...` in this process, which has all imports, and return what it said.

    Raises whatever a process would end with a traceback for.
    """
    words, out, err = [str(argument) for argument in arguments], io.StringIO(), io.StringIO()
    command = importlib.import_module(module)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", [command.__file__, *words])
        try:
            command.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess([module, *words], code, out.getvalue(), err.getvalue())


def run_process(module, *arguments, cwd, hash_seed="random"):
    """Run `python -m MODULE ...` as a user would, where it is the process that is tested."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def run(tmp_path):
    """Run `python -m MODULE ...` in an empty folder."""

    def run(module, *arguments, cwd=tmp_path, code=0):
        done = run_here(module, *arguments, cwd=cwd)
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
