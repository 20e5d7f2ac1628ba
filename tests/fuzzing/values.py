"""Damage to JSON values, which most of what is read consists of.

A document is parsed into a tree that can hold what `json` cannot: keys that stand twice, and
texts that are written as they are.
"""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

DEEP = 100_000  # brackets, more than any parser recurses
LONG = 100_000  # characters


@dataclass(frozen=True)
class Raw:
    """Written into the document as it is."""

    text: str


class Pairs(list[list[Any]]):
    """An object, `[key, value]` each: keys may stand twice."""


WORDS = (
    "",
    " ",
    "0",
    "nan",
    "-1",
    "null",
    "\0",
    "a\0b",
    "\x1b[2J\x1b]0;title\a",
    "\r\nsecond line",
    "\u202e\u2028\ufeff",
    "ü€𝄞",
    "<script>alert(1)</script>",
    "$(touch oops); `touch oops`",
    "-rf",
    "%s%n{0}{x!r}",
    "../sentinel/victim.txt",
    "../../sentinel/victim.txt",
    "../../sentinel/victim.png",
    "../../../sentinel/victim.png",
    "/dev/zero",
    "/nonexistent",
    "mysql://me:secret@host/x",
    "x" * 300,
    "x" * LONG,
)
NUMBERS = (
    "0",
    "-0.0",
    "1",
    "-1",
    "2",
    "7",
    "0.5",
    "255",
    "256",
    "1e-320",
    "1e-12",
    "1e15",
    "1e16",
    "1e308",
    "-1e308",
    "1e999",
    "13300",
    "65536",
    "100000",
    "1000000",
    "2147483647",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "1" + "0" * 400,
    "-1" + "0" * 400,
    "1" + "0" * 5000,
    "NaN",
    "Infinity",
    "-Infinity",
)
OTHERS = (
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    '{"": null}',
    "[1, 2]",
    "[1e308, 1e308, 1e308]",
    '{"a": {"b": {"c": []}}}',
    '"\\ud800"',
    '"\\udc80\\ud800x"',
    "[" * 500 + "]" * 500,
    "[" * DEEP + "]" * DEEP,
    '{"a":' * 2000 + "1" + "}" * 2000,
    "undefined",
    "1.2.3",
    "0x10",
    "1_000",
    "'single'",
)


def parse(text: str) -> Any:
    """Raises ValueError where a text is no JSON."""
    pairs: Any = lambda found: Pairs([key, value] for key, value in found)  # noqa: E731
    return json.loads(text, object_pairs_hook=pairs)


def write(value: Any) -> str:
    """Raises no RecursionError: a value that is nested too deep to be written is cut there."""
    try:
        return _write(value)
    except RecursionError:
        return "[" * DEEP


def _write(value: Any) -> str:
    match value:
        case Raw(text):
            return text
        case Pairs():
            fields = (f"{_write(key)}: {_write(item)}" for key, item in value)
            return "{" + ", ".join(fields) + "}"
        case list():
            return "[" + ", ".join(map(_write, value)) + "]"
        case str():
            return json.dumps(value, ensure_ascii=len(value) % 2 == 0)
        case _:
            return json.dumps(value)


def any_value(rng: Random) -> Any:
    kind = rng.randrange(3)
    return rng.choice(WORDS) if kind == 0 else Raw(rng.choice((NUMBERS, OTHERS)[kind - 1]))


def damaged(value: Any, rng: Random) -> Any:
    """A tree with one to three changes in it; `value` itself is changed where it can be."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _changed(value, rng)
    return value


def _changed(value: Any, rng: Random) -> Any:
    places = list(_places(value))
    if not places:
        return _replaced(value, rng)
    holder, index = rng.choice(places)
    change = rng.choice((_exchange, _exchange, _exchange, _drop, _repeat, _rename, _swap, _wrap))
    change(holder, index, places, rng)
    return value


def _places(value: Any) -> list[tuple[Any, int]]:
    """Every value below the top, as its holder and its index there; many alike are thinned."""
    found: list[tuple[Any, int]] = []
    left = [value]
    while left:
        holder = left.pop()
        if not isinstance(holder, list):
            continue
        for index, item in enumerate(holder):
            child = item[1] if isinstance(holder, Pairs) else item
            if index < 40 or index == len(holder) - 1:
                found.append((holder, index))
                left.append(child)
    return found


def _get(holder: Any, index: int) -> Any:
    return holder[index][1] if isinstance(holder, Pairs) else holder[index]


def _set(holder: Any, index: int, value: Any) -> None:
    if isinstance(holder, Pairs):
        holder[index][1] = value
    else:
        holder[index] = value


def _exchange(holder: Any, index: int, places: Any, rng: Random) -> None:
    if index < len(holder):
        _set(holder, index, _replaced(_get(holder, index), rng))


def _drop(holder: Any, index: int, places: Any, rng: Random) -> None:
    if index < len(holder):
        del holder[index]


def _repeat(holder: Any, index: int, places: Any, rng: Random) -> None:
    if index < len(holder):
        item = holder[index]
        item = list(item) if isinstance(holder, Pairs) else item
        for _ in range(rng.choice((1, 1, 7, 1000))):
            holder.insert(rng.choice((index, len(holder))), item)


def _rename(holder: Any, index: int, places: Any, rng: Random) -> None:
    if index >= len(holder):
        return
    if not isinstance(holder, Pairs):
        rng.shuffle(holder)
        return
    key = str(holder[index][0])
    others = (key[:-1], key.upper(), f"{key} ", f"{key}_", rng.choice(WORDS))
    holder[index] = [rng.choice(others), holder[index][1]]


def _swap(holder: Any, index: int, places: Any, rng: Random) -> None:
    other, at = rng.choice(places)
    if index < len(holder) and at < len(other):
        # a copy: a value that holds itself could not be written
        mine, theirs = write(_get(holder, index)), write(_get(other, at))
        _set(holder, index, Raw(theirs))
        _set(other, at, Raw(mine))


def _wrap(holder: Any, index: int, places: Any, rng: Random) -> None:
    if index < len(holder):
        own = _get(holder, index)
        _set(holder, index, rng.choice(([own], Pairs([["value", own]]), Raw(f'"{id_of(own)}"'))))


def id_of(value: Any) -> str:
    """The value as a text, for where a number or a list is expected."""
    return write(value).replace("\\", "").replace('"', "")[:1000]


def _replaced(value: Any, rng: Random) -> Any:
    """Another value in its place: of another type, or an extreme of its own."""
    if rng.random() < 0.3:
        return any_value(rng)
    if isinstance(value, bool) or value is None:
        return Raw(rng.choice(("null", "true", "false", "0", "1", '"yes"', "2")))
    if isinstance(value, int | float):
        near = (f"{value + 1}", f"{-value}", f"{value * 10}", f"{value}.5", f'"{value}"')
        return Raw(rng.choice((*near, rng.choice(NUMBERS), rng.choice(NUMBERS))))
    if isinstance(value, str):
        try:
            inner = parse(value) if value[:1] in "{[" else None
        except ValueError:
            inner = None
        if inner is not None:
            return write(damaged(inner, rng))
        return rng.choice((value[:-1], value + rng.choice(WORDS), value.upper(), any_value(rng)))
    if isinstance(value, Pairs):
        return rng.choice((Pairs(), Raw("[]"), Raw("null"), any_value(rng)))
    if isinstance(value, list):
        return rng.choice(([], value[: len(value) // 2], value * 3, Pairs(), any_value(rng)))
    return any_value(rng)
