"""How long the commands take and how good the fronts are: `python -m tests.benchmarks.search`.

Whole processes are timed from outside, in turn, several times; the median counts. Fronts are
compared by hypervolume over log latency, against random search with as many trials, from the
same starting Archs. The record goes to results/benchmarks/search.json.
"""

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nas.front import Front, read_front
from results.files import write_json
from results.record import RunRecord, commit, now

ROOT = Path(__file__).parents[2]
DEVICES = ("snapdragon8gen1", "orin", "a100", "jetson-nano")
REPEATS = 3
SEEDS = (0, 1, 2)
VECTOR_UNITS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def main() -> None:
    seconds: dict[str, list[float]] = {}
    fronts: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(REPEATS):
            seconds.setdefault("--help", []).append(timed("--help"))
            for device in DEVICES:
                out = Path(folder) / f"{device}-{repeat}"
                seconds.setdefault(device, []).append(timed("--device", device, "--out", out))
        for device in DEVICES:
            for sampler in ("nsga2", "random"):
                for seed in SEEDS:
                    out = Path(folder) / f"{device}-{sampler}-{seed}"
                    flags = ("--sampler", sampler, "--seed", seed, "--out", out, "--quiet")
                    timed("--device", device, *flags)
                    front = read_front(out)
                    found = fronts.setdefault(device, {}).setdefault(sampler, [])
                    found.append(hypervolume(front))
    record = {
        "command": "python -m tests.benchmarks.search",
        "date": now().isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": RunRecord("", {}, {}).versions,
        "wall_seconds": {
            name: {"median": statistics.median(times), "min": min(times), "max": max(times)}
            for name, times in seconds.items()
        },
        "hypervolume_nsga2_over_random": {
            device: statistics.median(
                a / b for a, b in zip(found["nsga2"], found["random"], strict=True)
            )
            for device, found in fronts.items()
        },
        "hypervolume_spread_over_seeds": {
            device: max(found["nsga2"]) / min(found["nsga2"]) for device, found in fronts.items()
        },
    }
    write_json(ROOT / "results" / "benchmarks" / "search.json", record)
    print(json.dumps(record, indent=2))


def timed(*arguments: object) -> float:
    """Wall seconds of `python -m nas.search ARGUMENTS` as a whole process."""
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "nas.search", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - started


def hypervolume(front: Front) -> float:
    """Of log latency and accuracy, up to 10 s per image and down to 50 %."""
    points = [(c.latency_ms, c.accuracy) for c in front.candidates if c.accuracy > 50]
    area = 0.0
    for (ms, accuracy), following in zip(points, [*[ms for ms, _ in points[1:]], 1e4], strict=True):
        area += math.log(following / ms) * (accuracy - 50)
    return area


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


if __name__ == "__main__":
    main()
