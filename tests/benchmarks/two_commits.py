"""Whether a commit is as fast as another: `python -m tests.benchmarks.two_commits BASE [HEAD]`.

Both commits run in turns: forward passes and training steps of networks as in
`tests.benchmarks.models`, the four passes of a sandwich step as in `tests.benchmarks.sandwich`, and
whole processes of `nas.search`. A network is run by one process of each commit, one thread each,
the order shuffled every round; as where a process happens to lie in memory makes it a few percent
faster or slower for its whole life, the processes are started anew several times.

The ratio of each round is HEAD / BASE; the median over all rounds, with a 95 % bootstrap interval
that draws whole pairs of processes and then rounds. HEAD is the working tree unless it is named.
The record goes to results/benchmarks/two_commits.json.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from results.files import write_json
from results.record import command_line, commit, now, versions
from tests.benchmarks.models import HEAP, RESAMPLES, ROOT

PAIRS = 6  # of processes, for each network
MODELS = [  # network, batch, mode, rounds with each pair of processes
    ("b1", 1, "forward", 40),
    ("b1", 8, "train", 8),
    ("l1", 1, "forward", 16),
    ("l1", 4, "train", 6),
]
SANDWICHES = [("b1", 32, 64, 8), ("b2", 32, 64, 6)]  # supernet, batch, side, rounds
SEARCHES = [("snapdragon8gen1", 6), ("a100", 6)]  # device, pairs of processes


class Child:
    """A process of one commit that holds a network and runs it when told to."""

    def __init__(self, code: Path, kind: str, *arguments: object) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-P", __file__, "--child", kind, *map(str, arguments)],
            cwd=code, env=os.environ | HEAP | environment(code), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.run()
        self.run()

    def run(self) -> float:
        """Seconds of one pass or step."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        print(file=self._popen.stdin, flush=True)
        return float(self._popen.stdout.readline())

    def close(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait()


def environment(code: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}


def child(kind: str, *arguments: str) -> None:
    """Run what this commit's benchmarks run, once for every line of standard input."""
    from tests.benchmarks import models, sandwich

    step: Callable[[], Any]
    if kind == "models":
        network, batch, mode = arguments
        step = models.step_of(models.factory("ours"), network, int(batch), mode)
    else:
        name, batch, side = arguments
        step = sandwich.passes(name, "supernet", int(batch), int(side))
    for _ in sys.stdin:
        started = time.perf_counter()
        step()
        print(time.perf_counter() - started, flush=True)


def in_turns(trees: list[Path], rounds: int, kind: str, *arguments: object) -> list[list[float]]:
    """The ratios of each pair of processes, HEAD / BASE."""
    rng = random.Random(0)
    ratios = []
    for pair in range(PAIRS):
        with contextlib.ExitStack() as stack:
            # The process that starts second is faster by one to two percent, whichever it is.
            started = {}
            for number in (0, 1) if pair % 2 else (1, 0):
                started[number] = Child(trees[number], kind, *arguments)
                stack.callback(started[number].close)
            children = [started[0], started[1]]
            ratios.append(
                [_ratio([process.run for process in children], rng) for _ in range(rounds)]
            )
    return ratios


def searches(trees: list[Path], device: str, pairs: int) -> list[list[float]]:
    """As `in_turns`, by the CPU time of whole processes, one after the other."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="two-commits-") as folder:

        def search(tree: Path) -> Callable[[], float]:
            def run() -> float:
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                out = tempfile.mkdtemp(dir=folder)
                subprocess.run(
                    [sys.executable, "-m", "nas.search", "--device", device,
                     "--seed", "0", "--quiet", "--out", f"{out}/run"],
                    cwd=tree, env=os.environ | environment(tree), check=True,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

            return run

        runs = [search(tree) for tree in trees]
        return [[_ratio(runs, rng)] for _ in range(pairs)]


def _ratio(runs: list[Callable[[], float]], rng: random.Random) -> float:
    """Seconds of the second by those of the first, run in a random order."""
    seconds = {number: runs[number]() for number in rng.sample(range(2), 2)}
    return seconds[1] / seconds[0]


def summary(ratios: list[list[float]]) -> dict[str, Any]:
    rng = random.Random(0)
    medians = []
    for _ in range(RESAMPLES):
        pairs = rng.choices(ratios, k=len(ratios))
        medians.append(
            statistics.median(r for pair in pairs for r in rng.choices(pair, k=len(pair)))
        )
    medians.sort()
    return {
        "ratio": statistics.median(r for pair in ratios for r in pair),
        "interval_95": [medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]],
        "pairs_of_processes": len(ratios),
        "rounds": sum(map(len, ratios)),
    }


def comparisons(trees: list[Path]) -> Iterator[dict[str, Any]]:
    for network, batch, mode, rounds in MODELS:
        ratios = in_turns(trees, rounds, "models", network, batch, mode)
        yield {"network": network, "batch": batch, "mode": mode, **summary(ratios)}
    for name, batch, side, rounds in SANDWICHES:
        ratios = in_turns(trees, rounds, "sandwich", name, batch, side)
        yield {"sandwich": name, "batch": batch, "side": side, **summary(ratios)}
    for device, pairs in SEARCHES:
        yield {"search": device, "of": "CPU time", **summary(searches(trees, device, pairs))}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", help="a commit")
    parser.add_argument("head", nargs="?", help="another; by default the working tree")
    chosen = parser.parse_args()
    # late: a child imports from commits without these
    from tests.benchmarks.record import machine
    from tests.same_numbers import checked_out

    with tempfile.TemporaryDirectory(prefix="two-commits-") as name:
        base = checked_out(chosen.base, Path(name) / "base")
        head = checked_out(chosen.head, Path(name) / "head") if chosen.head else ROOT
        found = []
        for comparison in comparisons([base, head]):
            found.append(comparison)
            print(json.dumps(comparison), flush=True)
    record = {
        "command": command_line("tests.benchmarks.two_commits"),
        "base": chosen.base,
        "head": chosen.head or commit(),
        "date": now().isoformat(timespec="seconds"),
        "machine": machine(),
        "settings": "one thread, fp32, 224 px, channels last",
        "versions": versions(),
        "comparisons": found,
    }
    write_json(ROOT / "results" / "benchmarks" / "two_commits.json", record)


if __name__ == "__main__":
    main()
