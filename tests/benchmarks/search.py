"""How long the commands take and how good the fronts are: `python -m tests.benchmarks.search`.

Whole processes are timed from outside, in turn, several times; the median counts. Fronts are
compared by hypervolume over log latency, against random search with as many trials, from the
same starting Archs. The record goes to results/benchmarks/search.json.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nas.front import Front, read_front
from tests.benchmarks.record import ROOT, write_record

DEVICES = ("snapdragon8gen1", "orin", "a100", "jetson-nano")
REPEATS = 3
SEEDS = (0, 1, 2)


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
    fields = {
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
    record = write_record("search", fields)
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


if __name__ == "__main__":
    main()
