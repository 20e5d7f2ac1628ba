"""Memory that a search keeps: most pages are touched once, and other C libraries do without."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from results.heap import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from results.heap import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
ones = np.ones(160_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    made = [ones + number for number in range(6)]
    del made
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts pages as Linux does")
def test_pages_are_not_touched_anew():
    faults = {
        what: int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, what], capture_output=True, text=True, check=True
            ).stdout
        )
        for what in ("leave", "keep")
    }
    assert faults["keep"] < 0.1 * faults["leave"]


@pytest.mark.parametrize("library", [SimpleNamespace(), None])
def test_another_c_library_is_left_alone(monkeypatch, library):
    def load(_):
        if library is None:
            raise OSError("no such library")
        return library

    monkeypatch.setattr("ctypes.CDLL", load)
    monkeypatch.setattr("gc.set_threshold", lambda _: None)
    keep_freed_memory()
