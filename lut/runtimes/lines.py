"""Lines that a session gives and a journal keeps: JSON objects, typed by the name of their kind.

    {"environment": {...}}                                 runtime and version, once a session
    {"pass": 0, "us": [...], "load": 0.4, ...}             see lut/runtimes/timer.py
    {"failed": 7, "error": "..."}
    {"remark": 7, "text": "..."}
    {"energy": 7, "mj": 3.1}
    {"loaded": 120}, {"at": 7}, {"warmup": -1}             signs of life, of a session alone
    {"error": "..."}                                       why a session cannot be, likewise
    {"role": "blocks", "content": [...]}                   of a journal alone, as the next two
    {"trouble": "..."}
    {"verdict": "accepted", "drift_percent": 0.8}

In a journal each has its `chunk`, and what a session gave the `seconds` that it took.
"""

from typing import Annotated, Any, Literal

import msgspec

from results.errors import RunError, TargetError, UserError, shown
from results.reading import Finite, NotNegative, Record, Text, as_kind, parse_json

Index = Annotated[int, msgspec.Meta(ge=0, le=10**6)]  # of a chunk, a model or a pass
Microseconds = Annotated[float, msgspec.Meta(gt=0, le=1e10)]  # of one run: three hours at most
Celsius = Finite  # dead sensors of older builds tell anything
Name = Annotated[str, msgspec.Meta(max_length=64)]
Plain = Text | bool | Finite | None
Fact = Text | bool | Finite | None | list[Plain] | dict[Name, Plain | list[Plain]]


class Line(Record, frozen=True, kw_only=True):
    chunk: Index | None = None
    seconds: NotNegative | None = None


class Environment(Line, frozen=True, kw_only=True):
    environment: Annotated[dict[Name, Fact], msgspec.Meta(max_length=64)]


class Pass(Line, frozen=True, kw_only=True):
    number: Index = msgspec.field(name="pass")
    us: list[Microseconds | None]
    load: NotNegative | None = None
    temperature_c: Celsius | None = None


class Failed(Line, frozen=True, kw_only=True):
    failed: Index
    error: Text


class Remark(Line, frozen=True, kw_only=True):
    remark: Index
    text: Text


class Energy(Line, frozen=True, kw_only=True):
    energy: Index
    mj: NotNegative


class Loaded(Line, frozen=True, kw_only=True):
    loaded: Index


class At(Line, frozen=True, kw_only=True):
    at: Index


class WarmUp(Line, frozen=True, kw_only=True):
    warmup: Annotated[int, msgspec.Meta(ge=-(10**6), le=0)]


class Refused(Line, frozen=True, kw_only=True):
    error: Text


class Opened(Line, frozen=True, kw_only=True):
    role: Literal["blocks", "terms", "networks"]
    content: list[Any]


class Trouble(Line, frozen=True, kw_only=True):
    trouble: Text


class Verdict(Line, frozen=True, kw_only=True):
    verdict: Literal["accepted", "rejected", "split", "failed"]
    drift_percent: NotNegative = 0.0
    merged: list[Index] = msgspec.field(default_factory=list)


# By the name that tells the kind; the first that a line has. `error` is a field of others, too.
KEPT: dict[str, type[Line]] = {
    "environment": Environment,
    "pass": Pass,
    "failed": Failed,
    "remark": Remark,
    "energy": Energy,
}
SESSION: dict[str, type[Line]] = {
    **KEPT,
    "loaded": Loaded,
    "at": At,
    "warmup": WarmUp,
    "error": Refused,
}
JOURNAL: dict[str, type[Line]] = {"role": Opened, **KEPT, "trouble": Trouble, "verdict": Verdict}


def session_line(text: str, where: str) -> dict[str, Any]:
    """Return what a target printed, without fields that its kind does not have.

    Raises TargetError for what is no line of a session.
    """
    return _read(text, SESSION, where, TargetError)


def journal_line(text: str | bytes, where: str) -> dict[str, Any]:
    """Return a line of a journal likewise. Raises RunError."""
    line = _read(text, JOURNAL, where, RunError)
    if line.get("chunk") is None:
        raise RunError(f"{where}: damaged, it tells no chunk")
    return line


def check_fits(
    line: dict[str, Any], num_models: int, num_samples: int, where: str, error: type[UserError]
) -> None:
    """Raise `error` for a line that tells of models, or of samples, that a session does not have.

    `num_samples` are those of a pass: every model as often as it is repeated.
    """
    for name in ("failed", "remark", "energy"):
        if line.get(name, 0) >= num_models:
            raise error(f"{where}: it tells of model {line[name]}, and there are {num_models}")
    if "us" in line and len(line["us"]) != num_samples:
        raise error(f"{where}: a pass of {len(line['us'])} samples, not of {num_samples}")


def _read(
    text: str | bytes, kinds: dict[str, type[Line]], where: str, error: type[UserError]
) -> dict[str, Any]:
    line = parse_json(text, dict[str, Any], where, error=error)
    kind = next((kinds[name] for name in kinds if name in line), None)
    if kind is None:
        raise error(f"{where}: no line of this kind is known: {shown(', '.join(line))}")
    as_kind(line, kind, where, error=error)
    return {name: line[name] for name in kind.__struct_encode_fields__ if name in line}
