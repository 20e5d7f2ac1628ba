"""What tests of hosts share: awkward names, a small disk, processes that must end."""

import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest

NASTY = ["a b", "$(touch oops)", "`id`", "it's", '"quoted"', "-rf", "*", "a\\b", "ümlaut", ";", "&"]


@contextlib.contextmanager
def small_disk(folder):
    """A file system of 128 kB on a new folder, which only root may mount."""
    disk = folder / "small disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def gone(pid, within_s=5.0):
    """Whether a process ends; a zombie that its parent has not noticed has ended."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def collect(lines, seen, then=None):
    """Take all lines into `seen`, calling `then` after each."""
    for line in lines:
        seen.append(line)
        if then is not None:
            then()


def names(folder):
    """Of all that is in a folder, at any depth."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
