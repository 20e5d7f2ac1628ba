"""Where a training's numbers come from: for its record, and compared when it goes on."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.errors import RunError
from results.runs import RECORD, read_record
from supernet.arch import Arch
from supernet.weights import sha256_of

if TYPE_CHECKING:
    from supernet.ingredients import Ingredients
    from supernet.train import Train

FILES = ("init", "teacher", "costs")  # flags


def sources_of(command: "Train", ingredients: "Ingredients") -> dict[str, Any]:
    """As JSON has them. Raises OSError for a file that cannot be read."""
    task, space, arch = ingredients.task, ingredients.space, ingredients.arch
    found = {
        "task": task.name,
        "dataset": task.dataset,
        "num_train": task.num_train,
        "num_classes": task.num_classes,
        "space": space.to_dict() if space else None,
        "arch": arch.to_dict() if arch else None,
    }
    for flag in FILES:
        path: Path | None = getattr(command, flag)
        found[f"{flag}_sha256"] = sha256_of(path) if path else None
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def recorded_sources(run: Path) -> Mapping[str, Any]:
    """Raises RunError for what is no run, or damaged."""
    sources = read_record(run).get("sources")
    if not isinstance(sources, dict):
        raise RunError(f"{run / RECORD} is damaged: it has no sources")
    return sources


def recorded_arch(run: Path) -> Arch | None:
    """The one network that `run` trains, wherever its flag's file is now. Raises RunError."""
    arch = recorded_sources(run).get("arch")
    try:
        return None if arch is None else Arch.from_dict(arch)
    except ValueError as error:
        raise RunError(f"{run / RECORD} is damaged: its arch: {error}") from None


def check_sources(command: "Train", ingredients: "Ingredients", run: Path, *, begun: bool) -> None:
    """Raises RunError, naming it, where something is not what `run` was started with.

    Args:
        begun: whether there is a checkpoint; --init is not read any more then.
    """
    recorded = recorded_sources(run)
    found = sources_of(replace(command, init=None) if begun else command, ingredients)
    if begun:
        del found["init_sha256"]
    for name, value in found.items():
        if recorded.get(name, value) == value:
            continue
        flag = name.removesuffix("_sha256")
        if flag in FILES:
            what, cure = f"--{flag} {getattr(command, flag)} is another file than", "restore it"
        elif isinstance(value, dict):
            what, cure = f"this version has another {name} than", "use that of its run.json"
        else:
            what, cure = f"{name} is {value}, and was {recorded[name]}", "restore --data"
        raise RunError(f"{what} when {run} was started; {cure}, or start a new run")
