"""The options of a run to resume, also of one that an older version began."""

from pathlib import Path
from typing import Any

from nas.options import FAR, FITTED, NEVER, PLAIN, UNRECORDED, SearchOptions
from results.errors import RunError
from results.resume import resumed
from results.runs import SEARCH, read_record

MAY_CHANGE = ("trials", "evaluations")
# What a run had that was begun before a flag was there.
BEFORE: dict[str, Any] = {
    "trained": None,
    "reach": FAR,
    "evaluations": None,
    "prove": NEVER,
    "minimize": [],
    "maximize": [],
    "risk": None,
    "min_latency_ms": [],
    "min_accuracy": None,
    "max_accuracy": None,
    "min_params_m": None,
    "min_macs_g": None,
    "min_memory_mb": None,
    "max_energy_mj": None,
    "min_energy_mj": None,
}


def recorded_options(options: SearchOptions, run: Path) -> SearchOptions:
    """Return `options` with the flags of the run to resume.

    Raises RunError where they contradict, and where it is no run of a search or a damaged one.
    """
    record = read_record(run, SEARCH)
    settings = upgraded(record["settings"])
    recorded = resumed(
        options.absolute, settings, run, unrecorded=UNRECORDED, may_change=MAY_CHANGE
    )
    if record.get("outcome") and not (run / "study.log").exists():
        raise RunError(f"{run} has lost its study.log; start a new run")
    if options.out is not None:
        raise RunError("--out cannot change in a resumed run; leave it out")
    return recorded


def upgraded(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of run.json as this version writes them."""
    settings = BEFORE | settings
    if "evaluate" not in settings and "objective" in settings:
        settings["evaluate"] = settings["objective"]
    if "accuracy_model" not in settings:  # there was none but ridge
        plain = str(settings.get("accuracy")).endswith(".jsonl")
        settings["accuracy_model"] = PLAIN if plain else FITTED
    # One for one device, where there may be several now.
    limit, table = settings.get("max_latency_ms"), settings.get("table")
    if "max_latency_ms" in settings and (limit is None or type(limit) in (int, float)):
        settings["max_latency_ms"] = [] if limit is None else [str(limit)]
    if "table" in settings and (table is None or type(table) is str):
        settings["table"] = [] if table is None else [table]
    return settings
