"""How long a search takes and what its fronts are made of: `python -m tests.benchmarks.search`.

Whole default commands of this tree, as processes: wall and CPU seconds, the most memory, whether
PyTorch is imported, the sizes of files that are left; with `--base COMMIT` in turn with those of
that commit. Of each device's front the share whose accuracy is not extrapolated, and what keeping
near costs. Evaluations a second are those of one core on batches of 10,000 networks, latency and
accuracy with their standard deviations and marks. How good fronts are is told by
`tests.benchmarks.exact`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from nas.engine.search_run import SearchRun
from nas.options import SearchOptions
from results.heap import keep_freed_memory
from tests.benchmarks.record import ROOT, write_record
from tests.benchmarks.two_commits import environment
from tests.same_numbers import checked_out

DEVICES = ("snapdragon8gen1", "orin", "a100", "jetson-nano", "example-cpu")
ROUNDS = 5  # of whole commands
BATCH, BATCHES = 10_000, 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", help="commit that whole commands are compared with")
    base = parser.parse_args().base
    fields = {
        "base": base,
        "evaluations_per_s": {device: round(evaluations_per_s(device)) for device in DEVICES},
        "whole_commands": whole_commands(base),
    }
    command = "python -m tests.benchmarks.search" + (f" --base {base}" if base else "")
    print(json.dumps(write_record("search", fields, command=command), indent=2))


def evaluations_per_s(device: str) -> float:
    """Return networks that are evaluated a second."""
    keep_freed_memory()  # as a search does
    evaluator = SearchRun.of(SearchOptions(device=(device,))).evaluator
    rng = np.random.default_rng(0)
    counts = evaluator.space.genes.values()
    genes = np.stack([rng.integers(0, count, BATCH) for count in counts], axis=1)
    taken = []
    for _ in range(BATCHES):
        started = time.process_time()
        numbers = evaluator.numbers(genes)
        assert np.isfinite(numbers.latency_std_ms + numbers.accuracy_std).all()
        taken.append(time.process_time() - started)
    return BATCH / statistics.median(taken)


def whole_commands(base: str | None) -> dict[str, Any]:
    """Time default commands, in turn with another commit's where one is named."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="search-") as name:
        folder = Path(name)
        trees = {"now": ROOT} | ({"base": checked_out(base, folder / "base")} if base else {})
        for what in ("--help", *DEVICES):
            taken: dict[str, list[dict[str, float]]] = {tree: [] for tree in trees}
            for turn in range(ROUNDS):
                for tree in list(trees)[:: 1 if turn % 2 else -1]:
                    out = folder / f"{what}-{turn}-{tree}"
                    taken[tree].append(timed(trees[tree], flags_of(what, out)))
            found[what] = left_by(folder / f"{what}-again", what) | {
                seconds: {
                    tree: [round(run[seconds], 2) for run in runs] for tree, runs in taken.items()
                }
                for seconds in ("wall_s", "cpu_s")
            }
            if base:
                for seconds in ("wall_s", "cpu_s"):
                    own = found[what][seconds]
                    pairs = zip(own["now"], own["base"], strict=True)
                    own["ratio"] = round(statistics.median(now / then for now, then in pairs), 3)
    return found


def flags_of(what: str, out: Path) -> list[str]:
    return [what] if what == "--help" else ["--device", what, "--out", str(out)]


def timed(tree: Path, flags: list[str]) -> dict[str, float]:
    """Run a search as a whole process; return its seconds."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "nas.search", *flags],
        cwd=tree, env=os.environ | environment(tree),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return {"wall_s": time.monotonic() - started, "cpu_s": usage.ru_utime + usage.ru_stime}


def left_by(out: Path, what: str) -> dict[str, Any]:
    """Run a command of this tree once more; return what it took beside time, and what it left.

    The most memory is told by the process itself: what the system tells of a child counts that of
    its parent, whose pages the child has until it starts another program.
    """
    code = f"""
import json, re, runpy, sys
sys.argv = ["nas.search", *{flags_of(what, out)!r}]
try:
    runpy.run_module("nas.search", run_name="__main__")
except SystemExit as ended:
    assert not ended.code
kib = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
told = {{"peak_mb": round(int(kib) * 1024 / 1e6), "imports_torch": "torch" in sys.modules}}
print(json.dumps(told))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=os.environ | environment(ROOT), capture_output=True, text=True, check=True,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if what == "--help":
        return told
    outcome = json.loads((out / "run.json").read_text())["outcome"]
    rows = json.loads((out / "front.json").read_text())["candidates"]
    unmarked = statistics.fmean(not row["accuracy_extrapolated"] for row in rows)
    return told | {
        "bytes": {path.name: path.stat().st_size for path in sorted(out.glob("*.*"))},
        "networks_evaluated": outcome["evaluations"],
        "front": {
            "networks": outcome["whole_front"],
            "that_differ": outcome["front"],
            "unmarked_percent": round(100 * unmarked, 1),
            "cost_of_near": outcome["cost_of_reach"],
            "proof": outcome["proof"],
        },
    }


if __name__ == "__main__":
    main()
