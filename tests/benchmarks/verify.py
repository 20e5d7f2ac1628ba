"""Whether fronts keep their promise on this machine: `python -m tests.benchmarks.verify`.

For ONNX Runtime and LiteRT, each command a process of its own: a table of a slice of space b within
90 seconds, a search on it, and right after that `nas.verify` of 30 networks of the front, spread
over the logarithm of latency. Recorded are the errors beside what the table's sidecar claims,
Kendall's tau, how many networks stay non-dominated as measured, and the machine's state. The errors
after the one scale that reference networks give tell a table that is wrong from a machine that is
slower than in the minutes before.

The record goes to results/benchmarks/verify.json, of a committed tree alone, unless --dry. Run it
on a machine with nothing else to do.
"""

import argparse
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lut.agreement import agreement
from results.reading import read_json
from results.record import commit
from tests.benchmarks.record import ROOT, write_record

RUNTIMES = ("onnxruntime", "litert")
SPACE, FREEZE, BUDGET = "b", "resolution=128,160", "90s"
NETWORKS = 30
WANTED = {"kendall_tau": 0.97, "non_dominated_share": 0.9}
BROKEN = 3  # exit code of a promise that failed, which is a result too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default=BUDGET, help="of each table")
    parser.add_argument("--runtime", choices=RUNTIMES, help="with --dry, of both only this one")
    parser.add_argument("--dry", action="store_true", help="print, and record nothing")
    options = parser.parse_args()
    if options.runtime and not options.dry:
        parser.error("a record has both runtimes; add --dry, or leave --runtime out")
    if not options.dry and (commit() or "-dirty").endswith("-dirty"):
        parser.error("the tree has changes that are not committed; commit them, or add --dry")
    with tempfile.TemporaryDirectory(prefix="verify-") as name:
        runtimes = (options.runtime,) if options.runtime else RUNTIMES
        found = {runtime: measured(runtime, Path(name), options.budget) for runtime in runtimes}
    fields = {
        "space": {"name": SPACE, "freeze": FREEZE},
        "budget": options.budget,
        "wanted": WANTED,
        "runtimes": found,
    }
    if options.dry:
        print(json.dumps(fields, indent=2))
        return
    changed = "" if options.budget == BUDGET else f" --budget {options.budget}"
    record = write_record("verify", fields, command=f"python -m tests.benchmarks.verify{changed}")
    print(json.dumps(record, indent=2))


def measured(runtime: str, folder: Path, budget: str) -> dict[str, Any]:
    """Build, search and verify; return what the three left."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EFFICIENTVIT_NAS_DATA": str(folder)}
    seconds = {}

    def command(*words: str, codes: tuple[int, ...] = (0,)) -> None:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", *words, "--quiet"], cwd=folder, env=environment, check=False
        )
        seconds[words[0]] = round(time.monotonic() - started, 1)
        assert done.returncode in codes, f"{words[0]} ended with {done.returncode}"

    device = f"bench:{runtime}:fp32"
    build = ("lut.build", "--device", device, "--space", SPACE, "--freeze", FREEZE)
    command(*build, "--budget", budget, "--run-folder", f"{runtime}-build")
    command("nas.search", "--device", device, "--out", runtime)
    command("nas.verify", runtime, "--networks", str(NETWORKS), codes=(0, BROKEN))
    return {"wall_seconds": seconds, **told(folder / runtime)}


def told(run: Path) -> dict[str, Any]:
    """Return what a verified run says of itself."""
    summary = read_json(run / "verified.json", dict[str, Any])
    with (run / "verified.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "front"]
    promise, front, state = (summary[name] for name in ("promise", "front", "machine_state"))
    return {
        "version": summary["environment"]["version"],
        "holds": summary["holds"],
        "error_holds": summary["error_holds"],
        "order_holds": summary["order_holds"],
        "claimed": summary["latency"]["error"],
        "promise": promise,
        "front": front,
        "non_dominated_share": front["non_dominated"] / front["measured"],
        "scaled": scaled(rows, state["scale"]),
        "ms": [min(numbers(rows, "measured_ms")), max(numbers(rows, "measured_ms"))],
        "median_step": step(rows),
        "machine_state": state,
        "protocol": summary["protocol"],
    }


def numbers(rows: list[dict[str, str]], column: str) -> list[float]:
    return [float(row[column]) for row in rows]


def scaled(rows: list[dict[str, str]], scale: float) -> Mapping[str, float]:
    """Return the agreement after the scale that reference networks gave."""
    predicted = [scale * ms for ms in numbers(rows, "predicted_ms")]
    return agreement(predicted, numbers(rows, "measured_ms")).to_dict()


def step(rows: list[dict[str, str]]) -> float:
    """Return how much slower a network is predicted than the next faster one, the median."""
    ms = sorted(numbers(rows, "predicted_ms"))
    return statistics.median(b / a - 1 for a, b in itertools.pairwise(ms))


if __name__ == "__main__":
    main()
