"""Exact fronts of the default searches: `python -m tests.benchmarks.exact`.

For each device and reach, the default search without Optuna's study, and the proof of its fronts
with `--prove auto`. The record goes to results/benchmarks/exact.json: what the proof takes, and how
much of the front (of near networks, or of all) and of its hypervolume over log latency was there
before.
"""

import json
import time

import numpy as np

from nas.engine.archive_search import ArchiveSearch
from nas.engine.proving import prove_archives
from nas.engine.search_run import SearchRun
from nas.exact.incumbent import undominated
from nas.exact.prove import gap_percent, reference_of
from nas.options import FAR, QUICK_STATES, REACHES, SearchOptions
from tests.benchmarks.record import write_record

DEVICES = ("snapdragon8gen1", "orin", "a100", "jetson-nano", "example-cpu")


def main() -> None:
    fields = {
        device: {reach: measured(SearchOptions(device=(device,), reach=reach)) for reach in REACHES}
        for device in DEVICES
    }
    record = write_record("exact", {"most_states": QUICK_STATES, "devices": fields})
    print(json.dumps(record, indent=2))


def measured(options):
    """Return what a proof takes, and what the front was like before."""
    run = SearchRun.of(options)
    started = time.process_time()
    search = ArchiveSearch(
        run.evaluator,
        run.objectives,
        run.limits,
        options.reach,
        run.first(run.starting_points()),
        run.seed,
    )
    progress = search.evolution.run(options.num_evaluations)
    searched = time.process_time()
    proven, missed = prove_archives(search, progress, QUICK_STATES)
    done = time.process_time()
    own = progress.archives[-1].genes  # of near networks, or of all
    found = np.array([run.space.encode(arch) for arch in missed], dtype=own.dtype)
    first, best = (
        front_of(run.evaluator.numbers(genes), options.reach)
        for genes in (own, np.concatenate([own, found.reshape(-1, own.shape[1])]))
    )
    before, after = (set(zip(*front, strict=True)) for front in (first, best))
    return {
        "networks": run.space.size,
        "search_cpu_seconds": round(searched - started, 1),
        "proof_cpu_seconds": round(done - searched, 2),
        "kind": proven.kind,
        "gap_percent": proven.gap_percent,
        "states": proven.states,
        "points": len(after),
        "points_before_percent": round(100 * len(before & after) / len(after), 2),
        "hypervolume_before_percent": 100 - gap_percent(first, best, reference_of(*best)),
    }


def front_of(numbers, reach):
    """Return latencies and accuracies of a front, of near networks alone unless reach is far."""
    kept = np.flatnonzero(~numbers.accuracy_extrapolated | (reach == FAR))
    ms, accuracy = numbers.latency_ms[kept], numbers.accuracy[kept]
    front = undominated(ms, accuracy)
    return ms[front], accuracy[front]


if __name__ == "__main__":
    main()
