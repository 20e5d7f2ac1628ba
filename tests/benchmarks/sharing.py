"""How near the networks that devices share are to the least worst-device regret there is.

python -m tests.benchmarks.sharing

Of all networks of the default space, at LEVELS accuracies: `nas.exact.shared` goes through all that
could be of less regret than what a search found, so the least is exact, and the gap is all the
search's. What each device could have alone is an exact front too (`nas.exact.prove`).
`undecided` counts the levels where MOST_STATES did not do: no mean holds them, and for
`share_within_2` of the gap they are not within.
The time of the whole command is told beside that of one device, as processes in turn.
"""

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.engine.archive import Evolution
from nas.engine.numbers import Evaluator
from nas.engine.search_run import SearchRun
from nas.engine.views import of_objectives
from nas.exact.pairs import Limits
from nas.exact.problem import ExactProblem
from nas.exact.prove import prove
from nas.exact.shared import Levels, least_regrets
from nas.objectives.objective import DEFAULT
from nas.options import FAR, NEAR, SearchOptions
from predictors.accuracy import EXTRAPOLATED, load_prior
from predictors.latency import LatencyPredictor
from predictors.worth import Array
from tests.benchmarks.record import ROOT, write_record

PAIRS = (("snapdragon8gen1", "orin"), ("orin", "example-cpu"))
LIMITS = {FAR: Limits(), NEAR: Limits(distance=EXTRAPOLATED)}
LEVELS = 401  # of accuracy
WITHIN = 0.02
WRITTEN = 1e-4  # points, more than what six digits may be off: what may be as accurate counts
MOST_STATES = 10**9
FIRST = 60_000  # networks that are evaluated before a proof
ROUNDS = 2


def main() -> None:
    pairs = {
        f"{pair[0]} and {pair[1]}": {reach: gap_of(pair, reach) for reach in (FAR, NEAR)}
        for pair in PAIRS
    }
    found = {"pairs": pairs, "whole_commands": compared(PAIRS[0])}
    print(json.dumps(write_record("sharing", found), indent=2))


def gap_of(devices: tuple[str, ...], reach: str) -> dict[str, Any]:
    """Return the regret that a search finds, and the least there is."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [word for device in devices for word in ("--device", device)]
        out = Path(folder) / "run"
        searched(out, *flags, "--reach", reach)
        outcome = json.loads((out / "run.json").read_text())["outcome"]
        names = [*(f"latency_{device}_ms" for device in devices), "accuracy"]
        with (out / "front_all.csv").open() as file:
            rows = list(csv.DictReader(file))
        *ms, accuracy = np.array([[float(row[name]) for name in names] for row in rows]).T
    started = time.process_time()
    run = SearchRun.of(SearchOptions(device=devices))
    levels = levels_of(run, reach, np.array(ms), accuracy)
    problem = replace(problem_of(run, reach, run.latencies[0]), other=run.latencies[1])
    least = least_regrets(problem, levels, most_states=MOST_STATES)
    decided = least.is_decided
    gaps = (1 + levels.regrets[decided]) / (1 + least.regrets[decided]) - 1
    within = round(float((gaps <= WITHIN).sum() / LEVELS), 3)
    return {
        "regret_percent": spread(levels.regrets),
        "least_percent": spread(least.regrets[decided]),
        "gap_percent": spread(gaps) | {"share_within_2": within},
        "levels": LEVELS,
        "undecided": int((~decided).sum()),
        "states": least.states,
        "proof_cpu_s": round(time.process_time() - started, 1),
        "told_mean_percent": round(100 * outcome["sharing"]["mean"], 2),
        "taken_over": outcome["sharing"]["taken_over"],
    }


def levels_of(run: SearchRun, reach: str, ms: Array, accuracy: Array) -> Levels:
    """Return the levels, with the regrets of found networks.

    Args:
        ms: as written, (2, networks).
        accuracy: as written, (networks,).
    """
    fronts = [front_of(run, latency, reach) for latency in run.latencies]
    low = max(reached[0] for _, reached in fronts)
    high = min(*(reached[-1] for _, reached in fronts), accuracy.max())
    levels = np.linspace(low, high, LEVELS)
    own_ms = np.array([own[np.searchsorted(reached, levels - WRITTEN)] for own, reached in fronts])
    regrets = [
        (ms[:, accuracy >= level] / own[:, None]).max(axis=0).min() - 1
        for level, own in zip(levels, own_ms.T, strict=True)
    ]
    return Levels(levels - WRITTEN, own_ms, np.array(regrets))


def front_of(run: SearchRun, latency: LatencyPredictor, reach: str) -> tuple[Array, Array]:
    """Return the exact front of the space, as latencies and accuracies."""
    space = run.space
    evaluator = Evaluator(space, (latency,), run.accuracy)
    view = of_objectives(DEFAULT, (), near_only=reach == NEAR)
    starts = np.array([space.encode(arch) for arch in space.extremes()])
    known = Evolution(
        tuple(space.genes.values()),
        lambda genes: (view.judge(evaluator.numbers(genes)),),
        (2,),
        starts,
        seed=0,
    ).run(FIRST)
    problem = problem_of(run, reach, latency)
    proof = prove(problem, known.archives[0].genes, most_states=MOST_STATES)
    assert proof.kind == "exact", proof
    return proof.ms, proof.accuracy


def problem_of(run: SearchRun, reach: str, latency: LatencyPredictor) -> ExactProblem:
    """Return the whole space as a problem of one device."""
    components, prior = run.evaluator.components, load_prior(run.dataset)
    return ExactProblem(run.space, components, latency, prior, LIMITS[reach])


def spread(values: Array) -> dict[str, float]:
    return {
        "mean": round(100 * float(values.mean()), 2),
        "worst": round(100 * float(values.max()), 2),
        "share_within_2": round(float((values <= WITHIN).mean()), 3),
    }


def compared(devices: tuple[str, ...]) -> dict[str, Any]:
    """Time whole commands for one device and for two, in turn."""
    taken: dict[str, list[float]] = {"one": [], "two": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(ROUNDS):
            for name, count in (("one", 1), ("two", 2))[:: 1 if turn % 2 else -1]:
                flags = [word for device in devices[:count] for word in ("--device", device)]
                started = time.monotonic()
                searched(Path(folder) / f"{name}-{turn}", *flags)
                taken[name].append(round(time.monotonic() - started, 2))
    ratio = statistics.median(two / one for one, two in zip(*taken.values(), strict=True))
    return {"devices": devices, "wall_s": taken, "ratio": round(ratio, 3)}


def searched(out: Path, *flags: str) -> None:
    command = [sys.executable, "-m", "nas.search", "--quiet", "--out", str(out), *flags]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
