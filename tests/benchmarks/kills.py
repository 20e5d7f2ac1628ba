"""Builds killed at random moments: `python -m tests.benchmarks.kills`.

Ten builds of space tiny, each killed (SIGKILL) three times at random moments and resumed, beside
one that nobody kills: whether each completes, whether any accepted pass was repeated, and how far
its table is from the other one on whole networks, after one scale. The record goes to
results/benchmarks/kills.json; it takes about ten minutes.
"""

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from lut.measuring.journal import JOURNAL
from supernet.spaces import get_space
from tests.benchmarks.record import write_record
from tests.benchmarks.tables import agreement_of_tables
from tests.test_build import killed_build

BUILDS, KILLS, LATEST_S = 10, 3, 8.0
NETWORKS = 60


def main() -> None:
    rng = random.Random(time.time_ns())
    archs = [get_space("tiny").sample(random.Random(seed)) for seed in range(NETWORKS)]
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()
        table = killed_build(whole, [])
        builds = []
        for number in range(BUILDS):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            delays = [round(rng.uniform(0.3, LATEST_S), 2) for _ in range(KILLS)]
            killed = killed_build(folder, delays)
            builds.append(
                {
                    "killed_after_s": delays,
                    **passes_in(folder / "run" / JOURNAL),
                    "same_rows": set(killed.entries) == set(table.entries),
                    "difference": agreement_of_tables(table, killed, archs),
                }
            )
            print(json.dumps(builds[-1]), flush=True)
    fields = {
        "builds": builds,
    }
    write_record("kills", fields)


def passes_in(journal: Path) -> dict[str, Any]:
    """How many passes a journal holds, and how many of them twice."""
    lines = [json.loads(text) for text in journal.read_text().splitlines()]
    passes = [(line["chunk"], line["pass"]) for line in lines if "pass" in line]
    sessions = sum("environment" in line for line in lines)
    return {
        "sessions": sessions,
        "passes": len(passes),
        "repeated_passes": len(passes) - len(set(passes)),
    }


if __name__ == "__main__":
    main()
