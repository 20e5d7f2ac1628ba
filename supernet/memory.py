"""A lack of memory: told from other errors, and met before the system ends the process for it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

LACKING = ("DefaultCPUAllocator", "could not create a primitive", "std::bad_alloc")  # or oneDNN's
RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")
SHARE = 0.9  # of what is available: the processes that read pictures need some too
PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was short, on an accelerator or in this process.

    PyTorch raises a plain RuntimeError where it cannot allocate on a CPU, as for much else.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in LACKING)


@contextmanager
def within_memory() -> Iterator[None]:
    """Let allocating more than SHARE of what is available by now fail, on Linux.

    By default Linux grants any amount, and kills a process that comes to use more than there is
    without a word. Where CUDA runs nothing changes, as its driver maps memory in its own ways.
    """
    if sys.platform != "linux" or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    available, used = available_bytes(), _kib(PROC / "self/status", "VmData")
    limit = None if available is None or used is None else int(SHARE * available) + used * 1024
    if limit is None or limit >= min((x for x in (soft, hard) if x >= 0), default=limit + 1):
        yield
        return
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    except (ValueError, OSError):  # a sandbox may forbid it
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def available_bytes() -> int | None:
    """Return the bytes that can be used without ending a process; None where Linux does not tell.

    Those of this machine and of this container (cgroup v2).
    """
    meminfo = PROC / "meminfo"
    free, swap = (_kib(meminfo, name) for name in ("MemAvailable", "SwapFree"))
    if free is None:
        return None
    available = (free + (swap or 0)) * 1024
    try:
        most, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        rows = (line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        cached = sum(int(n) for name, n in rows if name in RECLAIMABLE)
        available = min(available, most - used + cached)
    except (OSError, ValueError):  # the container, if it is one, has no limit
        pass
    return max(available, 0)


def _kib(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
