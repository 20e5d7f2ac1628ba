"""Options of the machinery as values: fields take what a caller may mean, and nothing else."""

import numbers
import os
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import msgspec

from results.errors import UserError, reason_of, shown


class Options:
    """A frozen dataclass whose fields are converted to their types when it is made.

    A text becomes a Path where one is expected, a single text or Path a tuple of texts, a list a
    tuple, and a number of NumPy one of Python. Making one raises UserError, in one line that names
    the field, for a value of any other type.
    """

    def __post_init__(self) -> None:
        """Convert all fields. Raises UserError."""
        own: Any = type(self)
        for name, kind in _kinds(own).items():
            value = getattr(self, name)
            taken = _as_kind(value, kind, f"{type(self).__name__}.{name}")
            if taken is not value:
                object.__setattr__(self, name, taken)


@cache
def _kinds(options: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name."""
    hints = get_type_hints(options)
    return {field.name: hints[field.name] for field in fields(options)}


def _as_kind(value: Any, kind: Any, name: str) -> Any:
    if isinstance(value, (str, os.PathLike)) and get_origin(kind) is tuple:
        value = (os.fspath(value),)
    elif isinstance(value, numbers.Integral) and not isinstance(value, int):
        value = int(value)
    elif isinstance(value, numbers.Real) and not isinstance(value, (int, float)):
        value = float(value)
    try:
        return msgspec.convert(value, kind, dec_hook=_custom)
    except msgspec.ValidationError as reason:
        told = reason_of(reason).replace("null", "None")
        raise UserError(f"{name} cannot be {shown(value)}: {told}") from None


def _custom(kind: type, value: Any) -> Any:
    """Convert to a type that msgspec does not know."""
    if kind is Path and isinstance(value, (str, os.PathLike)):
        return Path(value)
    if isinstance(value, kind):
        return value
    raise ValueError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
