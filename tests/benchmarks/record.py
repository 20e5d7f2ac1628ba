"""Where benchmarks leave their figures, and under what circumstances they were taken."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results.files import write_json
from results.record import commit, now, versions

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "results" / "benchmarks"
VECTOR_UNITS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def write_record(
    name: str, fields: Mapping[str, Any], *, command: str | None = None
) -> dict[str, Any]:
    """Write results/benchmarks/NAME.json, and return what it holds.

    Args:
        name: of the file, and of the module where `command` does not name it.
        fields: figures and settings, which go before the date, machine and so on.
        command: that repeats the benchmark, where it has flags or is another module.
    """
    record = {
        "command": command or f"python -m tests.benchmarks.{name}",
        "date": now().isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        **fields,
    }
    write_json(FOLDER / f"{name}.json", record)
    return record


def machine() -> str:
    """Describe this machine: architecture, cores, CPU and which vector units it has."""
    name = cpu_fact("model name") or platform.processor()
    units = " ".join(unit for unit in cpu_fact("flags").split() if unit in VECTOR_UNITS)
    return f"{platform.machine()}, {os.cpu_count()} cores, {name}, {units or 'vectors unknown'}"


def cpu_fact(name: str) -> str:
    """Return what Linux tells of the first core under a name, or an empty string."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.partition(":")[0].strip() == name:
            return line.partition(":")[2].strip()
    return ""
