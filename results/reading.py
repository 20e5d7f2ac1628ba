"""One way to read what somebody else wrote: files and texts of JSON, JSON lines and TOML.

A reader names the type that it expects; what has it is returned, anything else raises the
reader's error, one line with the file and the place. Bounded: `most` bytes of a regular file, the
depth that msgspec allows, numbers that fit into 64 bits. Encodings: UTF-8, and UTF-16, with or
without a byte order mark.

Not imported at the top of modules that run on a target (see lut/runtimes/session.py): these may
need nothing but what is installed there.
"""

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from results.errors import RunError, UserError, reason_of, shown

T = TypeVar("T")

MOST_BYTES = 64 * 2**20  # of a file that nobody said more about
MOST_LOG_BYTES = 2**30  # of a journal that long work appends to
MOST_TOML_BYTES = 2**14  # a device file has some hundred; tomllib takes time by their square

# Fields of records. Booleans and texts are no numbers, NaN and infinity are none either.
Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
Finite = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
Text = Annotated[str, msgspec.Meta(max_length=10_000)]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A JSON object with typed fields, which a subclass (of `Record, frozen=True`) lists.

    Unknown fields are passed over, so that files of later versions can be read.
    """


_OPENED = re.compile(r"/dev/(?:stdin|fd/\d+)|/proc/self/fd/\d+")

# --- Files ---------------------------------------------------------------------------------


def read_bytes(path: Path, *, error: type[UserError] = RunError, most: int = MOST_BYTES) -> bytes:
    """Return what a regular file holds.

    Raises `error` where it cannot be read, is no regular file (a FIFO would never end, but for
    one that our caller opened: `--points <(…)`), or has more than `most` bytes.
    """
    if "\0" in str(path):
        raise error(f"cannot read {shown(str(path))}: no file can have that name")
    try:
        # Not blocking: opening a FIFO would wait for somebody to write to it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            if stat.S_ISDIR(status.st_mode):
                raise error(f"cannot read {path}: Is a directory")
            if stat.S_ISFIFO(status.st_mode) and _OPENED.fullmatch(str(path)):
                os.set_blocking(handle, True)
            elif not stat.S_ISREG(status.st_mode):
                raise error(f"cannot read {path}: it is no regular file")
            # A file that is too large is not read first; what has no size (/proc) is bounded too.
            data = b"" if status.st_size > most else file.read(most + 1)
    except OSError as reason:
        raise error(f"cannot read {path}: {reason.strerror or reason}") from None
    if max(status.st_size, len(data)) > most:
        raise error(f"{path} is larger than {_megabytes(most)}, more than is read of such a file")
    return data


def read_text(path: Path, *, error: type[UserError] = RunError, most: int = MOST_BYTES) -> str:
    """Return the text of a file, without a byte order mark. Raises `error`."""
    return decode(read_bytes(path, error=error, most=most), str(path), error=error)


def decode(data: bytes, where: str, *, error: type[UserError] = RunError) -> str:
    """Return bytes as text: UTF-8, or UTF-16 as spreadsheets' "Unicode text". Raises `error`."""
    if data[:4] == b"PK\3\4":
        raise error(f"cannot read {where}: it is a spreadsheet or another zip file; save it as CSV")
    if data[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        encoding = "utf-32"
    elif data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif data[1:2] == b"\0" and data[:1] != b"\0":
        encoding = "utf-16-le"
    elif data[:1] == b"\0" and data[1:2] != b"\0" and len(data) > 1:
        encoding = "utf-16-be"
    else:
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as reason:
        raise error(
            f"cannot read {where}: it is not text, or not in UTF-8 (byte {reason.start}); save it "
            "as UTF-8"
        ) from None


# --- JSON and TOML -------------------------------------------------------------------------


def parse_json(
    text: str | bytes, kind: type[T], where: str, *, error: type[UserError] = RunError
) -> T:
    """Return a JSON value of the type `kind`; `where` stands before what is wrong.

    Raises `error` for what is no JSON, is nested too deep or is of another type.

    >>> parse_json("[1, 2.5]", list[float], "times")
    [1.0, 2.5]
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as reason:
        raise error(f"{where}: damaged, or of another layout ({reason_of(reason)})") from None
    except RecursionError:
        raise error(f"{where}: nested too deep") from None
    except (msgspec.DecodeError, UnicodeError) as reason:
        raise error(f"{where}: not JSON ({reason_of(reason)})") from None


def read_json(
    path: Path, kind: type[T], *, error: type[UserError] = RunError, most: int = MOST_BYTES
) -> T:
    """Return the JSON value in a file, of the type `kind`. Raises `error`."""
    text = read_text(path, error=error, most=most)
    return parse_json(text, kind, f"cannot read {path}", error=error)


def as_kind(value: Any, kind: type[T], where: str, *, error: type[UserError] = RunError) -> T:
    """Return a value that was parsed already as one of the type `kind`. Raises `error`."""
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as reason:
        raise error(f"{where}: damaged, or of another layout ({reason_of(reason)})") from None
    except RecursionError:
        raise error(f"{where}: nested too deep") from None


def read_toml(path: Path, kind: type[T], *, error: type[UserError] = RunError) -> T:
    """Return the TOML document in a file, of the type `kind`. Raises `error`."""
    text = read_text(path, error=error, most=MOST_TOML_BYTES)
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise error(f"cannot read {path}: nested too deep") from None
    except (tomllib.TOMLDecodeError, ValueError) as reason:  # ValueError: a number of 5,000 digits
        raise error(f"cannot read {path}: {reason_of(reason)}") from None
    return as_kind(document, kind, f"cannot read {path}", error=error)


# --- JSON lines that are appended to ---------------------------------------------------------


def whole_lines(
    data: bytes, begins: str, where: str, *, error: type[UserError] = RunError
) -> tuple[list[bytes], int]:
    """Return the complete lines of a log, without their ends, and the length up to the last end.

    A last line without an end is what a killed process began to write. That is believed only of
    the beginning of a line of ours, which starts with `begins`, or of the zeros that a file
    system leaves after a crash: to cut anything else would destroy what is not ours.

    Raises `error` where the last line is something else.

    >>> whole_lines(b'{"a": 1}\\n{"a', '{"a": ', "log")
    ([b'{"a": 1}'], 9)
    """
    end = data.rfind(b"\n") + 1
    torn = data[end:].rstrip(b"\0")
    if torn and not is_begun(torn.decode(errors="replace"), begins):
        raise error(
            f"{where} ends in {shown(torn.decode(errors='replace'))}, which is no part of such a "
            "file; nothing was changed"
        )
    return data[:end].splitlines(), end


def is_begun(line: str, begins: str) -> bool:
    """Tell whether a line without an end may be the beginning of one that starts with `begins`.

    >>> is_begun('{"a', '{"a": '), is_begun('{"a": 1', '{"a": '), is_begun("a,b", '{"a": ')
    (True, True, False)
    """
    return line.startswith(begins) or begins.startswith(line)


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.0f} MB" if size >= 2**20 else f"{size} bytes"
