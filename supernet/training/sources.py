"""Where a training's numbers come from: for its record, and compared when it goes on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.errors import RunError, shown
from results.reading import Count, Record, as_kind
from results.runs import RECORD, read_record
from supernet.arch import Arch, format_resolution, parse_resolution
from supernet.weights.files import sha256_of
from supernet.weights.header import as_text

if TYPE_CHECKING:
    from supernet.train import Train
    from supernet.training.plan import Ingredients

FILES = ("init", "teacher", "costs")  # flags


def sources_of(command: "Train", ingredients: "Ingredients") -> dict[str, Any]:
    """As JSON has them. Raises OSError for a file that cannot be read."""
    task, space, arch = ingredients.task, ingredients.space, ingredients.arch
    found = {
        "task": task.name,
        "dataset": task.dataset,
        "num_train": task.num_train,
        "num_classes": task.num_classes,
        "classes": list(map(as_text, task.classes)) or None,
        "resolutions": list(map(format_resolution, ingredients.resolutions)) or None,
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


@dataclass(frozen=True)
class Begun:
    """What a run was begun with that its flags do not tell, as files and pictures may change."""

    arch: Arch | None  # the one network that is trained
    classes: tuple[str, ...]  # () where the run is older, or they have no names
    num_classes: int | None  # of the data or network; None: there are none
    resolutions: tuple[tuple[int, int], ...] | None  # (): the space's; None: the run is older


def begun_with(run: Path) -> Begun:
    """Raises RunError for what is no run, or damaged."""
    sources, where = recorded_sources(run), f"{run / RECORD} is damaged: its sources"
    found = as_kind(dict(sources), _Sources, where)
    try:
        arch = None if found.arch is None else Arch.from_dict(found.arch)
        sizes = tuple(map(parse_resolution, found.resolutions or ()))
    except ValueError as error:
        raise RunError(f"{where}: {error}") from None
    return Begun(
        arch,
        tuple(found.classes or ()),
        found.num_classes,
        sizes if "resolutions" in sources else None,
    )


class _Sources(Record, frozen=True):
    arch: dict[str, Any] | None = None
    classes: list[str] | None = None
    num_classes: Count | None = None
    resolutions: list[str] | None = None


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
            was = shown(recorded[name])
            what, cure = f"{name} is {shown(value)}, and was {was}", "restore --data"
        raise RunError(f"{what} when {run} was started; {cure}, or start a new run")
