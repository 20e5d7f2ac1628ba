"""Options of a run as run.json keeps them, and a run continued from them."""

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


def flags_of(options: "DataclassInstance", unrecorded: Collection[str]) -> dict[str, Any]:
    """Return the options that make a run what it is, as JSON has them: all but `unrecorded`."""
    return {
        name: _plain(value) for name, value in asdict(options).items() if name not in unrecorded
    }


def resumed(
    options: "C",
    settings: dict[str, Any],
    run: Path,
    *,
    unrecorded: Collection[str],
    may_change: Collection[str] = (),
) -> "C":
    """Return `options` with those that `run` was begun with.

    Args:
        settings: what `flags_of` gave when it was begun, from its run.json.
        unrecorded: names of those that are not in there.
        may_change: names of those that are taken from `options` where they are given.

    Raises RunError where another option is given that contradicts them (one at its default counts
    as not given), and where run.json is damaged or lacks one.
    """
    recorded = _recorded(type(options), settings, run, unrecorded)
    kept = {}
    for flag in fields(options):
        if flag.name not in recorded:
            continue
        given, value = getattr(options, flag.name), recorded[flag.name]
        if flag.name in may_change:
            kept[flag.name] = value if given == flag.default else given
            continue
        if given != flag.default and _plain(given) != _plain(value):
            raise RunError(
                f"--{flag.name.replace('_', '-')} cannot change in a resumed run; leave it out, "
                "or start a new run"
            )
        kept[flag.name] = value
    return replace(options, **kept)


def _recorded(
    kind: "type[DataclassInstance]",
    settings: dict[str, Any],
    run: Path,
    unrecorded: Collection[str],
) -> dict[str, Any]:
    """Return the options in a run.json, of the types that `kind` gives them. Raises RunError."""
    flags = [flag for flag in fields(kind) if flag.name not in unrecorded]
    for flag in flags:
        if flag.name not in settings:
            name = flag.name.replace("_", "-")
            raise RunError(
                f"{run} was begun by an older version, without --{name}; start a new run"
            )
    recorded: dict[str, Any] = {}
    for flag in flags:
        where = f"{run / 'run.json'}, its {flag.name}"
        value = as_kind(settings[flag.name], _TYPES[flag.type], where)
        is_path = flag.type == Path | None and value is not None
        recorded[flag.name] = Path(value) if is_path else value
    return recorded


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve())
    return list(value) if isinstance(value, tuple) else value
