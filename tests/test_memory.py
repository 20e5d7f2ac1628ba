"""Lack of memory: as PyTorch tells it, what only looks like it, and that it is told at all."""

import os
import resource
import subprocess
import sys

import pytest
import torch

from supernet import memory
from supernet.memory import available_bytes, is_out_of_memory, within_memory
from tests.conftest import ROOT

MIB = 1 << 20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_lack_of_memory_is_told():
    with pytest.raises(RuntimeError) as real:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(real.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError) as other:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(other.value)
    assert not is_out_of_memory(NotImplementedError("memory format"))
    assert not is_out_of_memory(OSError("Cannot allocate memory"))


@on_linux
def test_what_is_not_available_cannot_be_allocated():
    # In a process of its own: what this one once used and freed is granted without the system.
    code = """
import resource, torch
from supernet import memory
MIB = 1 << 20
before = resource.getrlimit(resource.RLIMIT_DATA)
memory.available_bytes = lambda: 64 * MIB
with memory.within_memory():
    torch.empty(16 * MIB, dtype=torch.uint8)
    try:
        torch.empty(256 * MIB, dtype=torch.uint8)
    except RuntimeError as error:
        print(memory.is_out_of_memory(error))
print(resource.getrlimit(resource.RLIMIT_DATA) == before)
torch.empty(256 * MIB, dtype=torch.uint8)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True"]


@on_linux
def test_a_limit_of_the_users_that_is_lower_stays(monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 50)
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 45, hard))
    try:
        with within_memory():
            assert resource.getrlimit(resource.RLIMIT_DATA) == (1 << 45, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@on_linux
def test_available_memory_is_that_of_the_container(tmp_path, monkeypatch):
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = available_bytes()
    assert free is not None
    assert 0 < free <= 2 * total  # with swap
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(f"{100 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{90 * MIB}\n")
    stat = f"anon {50 * MIB}\ninactive_file {25 * MIB}\nactive_file {5 * MIB}\n"
    (tmp_path / "memory.stat").write_text(stat)
    assert available_bytes() == 40 * MIB  # pictures that were read can be forgotten
    (tmp_path / "memory.max").write_text("max\n")
    unlimited = available_bytes()
    assert unlimited is not None
    assert unlimited > 100 * MIB
