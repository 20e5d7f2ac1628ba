"""How long a search takes and how good its fronts are: `python -m tests.benchmarks.search`.

With `--base COMMIT` whole default commands of that commit and of this tree are timed in turn, as
processes, wall and CPU seconds; of this tree also the most memory, whether PyTorch is imported and
the sizes of the files that are left. Fronts are held against the best that is known of each
device: all that searches of three times as many evaluations found, over several seeds, by
hypervolume over log latency and by the share of its points. Evaluations a second are those of one
core on batches of 10,000 networks. The record goes to
results/benchmarks/search_commands.json; search.json is of the sampler that was the default before.
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

from nas.engine.archive import Archive, Progress, non_dominated
from nas.engine.archive_search import ArchiveSearch, Reached
from nas.engine.search_run import SearchRun
from nas.front import thinned
from nas.objectives.objective import DEFAULT
from nas.options import EVALUATIONS, NEAR, SearchOptions
from tests.benchmarks.record import ROOT, write_record
from tests.benchmarks.two_commits import environment
from tests.same_numbers import checked_out

DEVICES = ("snapdragon8gen1", "orin", "a100", "jetson-nano", "example-cpu")
TIMED = ("--help", "snapdragon8gen1", "orin", "example-cpu")  # whole commands
ROUNDS = 3
SEEDS = (0, 1)
MANY = 3  # times the default evaluations, of the searches that tell what is known
BATCH, BATCHES = 10_000, 30
RANDOM = 3000  # networks of a random search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", help="commit that whole commands are compared with")
    arguments = parser.parse_args()
    fields: dict[str, Any] = {"fronts": {device: fronts_of(device) for device in DEVICES}}
    if arguments.base:
        fields |= {"base": arguments.base, "whole_commands": compared(arguments.base)}
    flags = f" --base {arguments.base}" if arguments.base else ""
    command = f"python -m tests.benchmarks.search{flags}"
    record = write_record("search_commands", fields, command=command)
    print(json.dumps(record, indent=2))


def compared(base: str) -> dict[str, Any]:
    """Time default commands of both commits in turn, the order swapped every round."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="search-") as name:
        folder = Path(name)
        trees = [checked_out(base, folder / "base"), ROOT]
        for what in TIMED:
            taken: list[list[dict[str, float]]] = [[], []]
            for turn in range(ROUNDS):
                for number in (0, 1) if turn % 2 else (1, 0):
                    out = folder / f"{what}-{turn}-{number}"
                    taken[number].append(timed(trees[number], flags_of(what, out)))
            own = left_by(folder / f"{what}-again", what)
            found[what] = own | {
                name: {
                    "base": [run[name] for run in taken[0]],
                    "now": [run[name] for run in taken[1]],
                    "ratio": statistics.median(
                        now[name] / then[name] for then, now in zip(*taken, strict=True)
                    ),
                }
                for name in ("wall_s", "cpu_s")
            }
    return found


def flags_of(what: str, out: Path) -> list[str]:
    return [what] if what == "--help" else ["--device", what, "--out", str(out)]


def left_by(out: Path, what: str) -> dict[str, Any]:
    """Run a command of this tree once more; return what it took beside time, and its files.

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
print(json.dumps({{"peak_mb": int(kib) * 1024 / 1e6, "imports_torch": "torch" in sys.modules}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=os.environ | environment(ROOT), capture_output=True, text=True, check=True,
    )  # fmt: skip
    files = {path.name: path.stat().st_size for path in sorted(out.glob("*.*"))}
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told | ({"bytes": files} if files else {})


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
    return {
        "wall_s": time.monotonic() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
    }


def fronts_of(device: str) -> dict[str, Any]:
    """Compare fronts of default searches with all that is known of a device."""
    run = SearchRun.of(SearchOptions(device=(device,)))
    first = list(run.official.values())
    searches = [ArchiveSearch(run.evaluator, DEFAULT, (), NEAR, first, seed) for seed in SEEDS]
    default = [search.evolution.run(EVALUATIONS) for search in searches]
    many = [search.evolution.run(MANY * EVALUATIONS) for search in searches]
    known = [
        merged([progress.archives[number] for progress in (*default, *many)]) for number in (0, 1)
    ]
    rng = np.random.default_rng(0)
    drawn = np.stack([rng.integers(0, n, RANDOM) for n in run.space.genes.values()], axis=1)
    judged = searches[0].evolution.judge(drawn)[0]
    at_random = Archive.empty(drawn.shape[1]).add(drawn, judged.costs)
    return {
        "networks": run.space.size,
        "evaluations": default[0].evaluations,
        "evaluations_per_s": speed(searches[0]),
        "far": [beside(progress.archives[0], known[0]) for progress in default],
        "near": [beside(progress.archives[1], known[1]) for progress in default],
        f"random_{RANDOM}": beside(at_random, known[0]),
        "default_front": default_front(searches[0], default[0]),
    }


def merged(archives: list[Archive]) -> Archive:
    """Return what none of several archives beats."""
    best = archives[0]
    for other in archives[1:]:
        best = best.add(other.genes, other.costs)
    return best


def beside(archive: Archive, known: Archive) -> dict[str, float]:
    """Return hypervolume and points of an archive beside those of another, which beats it."""
    best, own = (rounded(a) for a in (known, archive))
    return {
        "points": len(own),
        "known_points": len(best),
        "share_of_points": len(own & best) / len(best),
        "hypervolume": hypervolume(archive, known) / hypervolume(known, known),
    }


def rounded(archive: Archive) -> set[tuple[float, float]]:
    """Return objectives as they are written, those that rounding leaves dominated left out."""
    costs = np.array([[float(f"{cost:.6g}") for cost in own] for own in archive.costs.tolist()])
    return set(map(tuple, costs[non_dominated(costs)].tolist()))


def hypervolume(archive: Archive, known: Archive) -> float:
    """Return the area over log latency, up to the slowest and down to the least accurate known."""
    last_ms, least_accuracy = known.costs[-1, 0], -known.costs[0, 1]
    ms, accuracy = archive.costs[:, 0], -archive.costs[:, 1]
    inside = ms <= last_ms
    width = np.diff(np.append(np.log(ms[inside]), np.log(last_ms)))
    return float(width @ np.maximum(accuracy[inside] - least_accuracy, 0.0))


def speed(search: ArchiveSearch) -> float:
    """Return networks evaluated a second, deviations and marks included, on one core."""
    rng = np.random.default_rng(0)
    genes = np.stack([rng.integers(0, n, BATCH) for n in search.evolution.counts], axis=1)
    search.evolution.judge(genes)
    taken = []
    for _ in range(BATCHES):
        started = time.process_time()
        search.evolution.judge(genes)
        taken.append(time.process_time() - started)
    return BATCH / statistics.median(taken)


def default_front(search: ArchiveSearch, progress: Progress) -> dict[str, float]:
    """Return how much of a default front is marked, and what keeping near costs."""
    found = search.found(Reached(progress, interrupted=False))
    kept = thinned([c.accuracy for c in found.whole], [c.accuracy_std for c in found.whole])
    rows = [found.whole[number] for number in kept]
    return {
        "rows": len(rows),
        "whole": len(found.whole),
        "share_unmarked": 1 - statistics.fmean(c.accuracy_extrapolated for c in rows),
        "mean_cost_of_near": found.cost.mean if found.cost else 0.0,
        "worst_cost_of_near": found.cost.worst if found.cost else 0.0,
    }


if __name__ == "__main__":
    main()
