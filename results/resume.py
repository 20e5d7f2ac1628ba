"""Flags of a command as run.json keeps them, and a command continued from them."""

from collections.abc import Collection
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from results.errors import RunError
from results.reading import Finite, as_kind

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    C = TypeVar("C", bound=DataclassInstance)

# A path or a word of a command line; a file's name cannot hold a NUL.
Words = Annotated[str, msgspec.Meta(max_length=100_000, pattern="^[^\\x00]*$")]
Whole = Annotated[int, msgspec.Meta(ge=-(10**15), le=10**15)]

_TYPES: dict[Any, Any] = {  # in JSON, by the flag's annotation
    tuple[str, ...]: tuple[Words, ...],
    str: Words,
    str | None: Words | None,
    bool: bool,
    int: Whole,
    int | None: Whole | None,
    float: Finite,
    float | None: Finite | None,
    Path | None: Words | None,
}


def flags_of(command: "DataclassInstance", unrecorded: Collection[str]) -> dict[str, Any]:
    """The flags that make the run what it is, for run.json."""
    return {
        name: _plain(value) for name, value in asdict(command).items() if name not in unrecorded
    }


def resumed(
    command: "C",
    settings: dict[str, Any],
    run: Path,
    *,
    unrecorded: Collection[str],
    may_change: Collection[str] = (),
) -> "C":
    """`command` with the flags that `run` was begun with.

    Raises RunError where a flag was given that contradicts them (one at its default counts as
    not given), but for those that `may_change`, and where run.json is damaged or lacks a flag.
    """
    recorded = _recorded(type(command), settings, run, unrecorded)
    found = {}
    for flag in fields(command):
        if flag.name not in recorded:
            continue
        given, value = getattr(command, flag.name), recorded[flag.name]
        if flag.name in may_change:
            found[flag.name] = value if given == flag.default else given
            continue
        if given != flag.default and _plain(given) != _plain(value):
            raise RunError(
                f"--{flag.name.replace('_', '-')} cannot change in a resumed run; leave it out, "
                "or start a new run"
            )
        found[flag.name] = value
    return replace(command, **found)


def _recorded(
    kind: "type[DataclassInstance]",
    settings: dict[str, Any],
    run: Path,
    unrecorded: Collection[str],
) -> dict[str, Any]:
    """The flags in a run.json, of the types that the command's own have. Raises RunError."""
    flags = [flag for flag in fields(kind) if flag.name not in unrecorded]
    for flag in flags:
        if flag.name not in settings:
            name = flag.name.replace("_", "-")
            raise RunError(
                f"{run} was begun by an older version, without --{name}; start a new run"
            )
    found: dict[str, Any] = {}
    for flag in flags:
        where = f"{run / 'run.json'}, its {flag.name}"
        value = as_kind(settings[flag.name], _TYPES[flag.type], where)
        is_path = flag.type == Path | None and value is not None
        found[flag.name] = Path(value) if is_path else value
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve())
    return list(value) if isinstance(value, tuple) else value
