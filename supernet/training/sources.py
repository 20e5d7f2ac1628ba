"""Where a training's numbers come from: for its record, and compared when it goes on."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from results.errors import RunError, shown
from results.reading import Count, Record, as_kind
from results.runs import RECORD, read_record
from supernet.arch import Arch, format_resolution, parse_resolution
from supernet.training.plan import Begun, TrainingPlan
from supernet.weights.header import as_text
from supernet.weights.tensors import sha256_of

FILES = ("init", "teacher", "costs")  # flags


def sources_of(plan: TrainingPlan) -> dict[str, Any]:
    """Return the sources as run.json holds them. Raises OSError for a file that cannot be read."""
    task, space, arch = plan.task, plan.space, plan.arch
    sources = {
        "task": task.name,
        "dataset": task.dataset,
        "num_train": task.num_train,
        "num_classes": task.num_classes,
        "classes": list(map(as_text, task.classes)) or None,
        "resolutions": list(map(format_resolution, plan.resolutions)) or None,
        "space": space.to_dict() if space else None,
        "arch": arch.to_dict() if arch else None,
    }
    read = {"init": plan.init, "teacher": plan.teacher}
    for flag in FILES:
        path: Path | None = getattr(plan.options, flag)
        weights = read.get(flag)
        sha256 = weights.sha256 if weights else sha256_of(path) if path else None
        sources[f"{flag}_sha256"] = sha256
    plain: dict[str, Any] = json.loads(json.dumps(sources))
    return plain


def recorded_sources(run: Path) -> Mapping[str, Any]:
    """Return the sources in the run.json of `run`. Raises RunError for a damaged one, or no run."""
    sources = read_record(run).get("sources")
    if not isinstance(sources, dict):
        raise RunError(f"{run / RECORD} is damaged: it has no sources")
    return sources


def begun_with(run: Path) -> Begun:
    """Return what `run` was begun with. Raises RunError for a damaged one, or no run."""
    sources, where = recorded_sources(run), f"{run / RECORD} is damaged: its sources"
    known = as_kind(dict(sources), _Sources, where)
    try:
        arch = None if known.arch is None else Arch.from_dict(known.arch)
        sizes = tuple(map(parse_resolution, known.resolutions or ()))
    except ValueError as error:
        raise RunError(f"{where}: {error}") from None
    return Begun(
        arch,
        tuple(known.classes or ()),
        known.num_classes,
        sizes if "resolutions" in sources else None,
    )


class _Sources(Record, frozen=True):
    arch: dict[str, Any] | None = None
    classes: list[str] | None = None
    num_classes: Count | None = None
    resolutions: list[str] | None = None


def check_sources(plan: TrainingPlan, run: Path, *, begun: bool) -> None:
    """Raise RunError, naming it, where something is not what `run` was started with.

    Args:
        begun: whether there is a checkpoint; --init is not read any more then.
    """
    recorded = recorded_sources(run)
    if begun:
        plan = replace(plan, options=replace(plan.options, init=None))
    sources = sources_of(plan)
    if begun:
        del sources["init_sha256"]
    for name, value in sources.items():
        if recorded.get(name, value) == value:
            continue
        flag = name.removesuffix("_sha256")
        if flag in FILES:
            what = f"--{flag} {getattr(plan.options, flag)} is another file than"
            cure = "restore it"
        elif isinstance(value, dict):
            what, cure = f"this version has another {name} than", "use that of its run.json"
        else:
            was = shown(recorded[name])
            what, cure = f"{name} is {shown(value)}, and was {was}", "restore --data"
        raise RunError(f"{what} when {run} was started; {cure}, or start a new run")
