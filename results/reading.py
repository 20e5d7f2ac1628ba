"""One way to read what somebody else wrote: files and texts of JSON, JSON lines, TOML and CSV.

A reader names the type that it expects; what has it is returned, anything else raises the
reader's error, one line with the file and the place. Bounded: `most` bytes of a regular file, the
depth that msgspec allows, numbers that fit into 64 bits. Encodings: UTF-8, and UTF-16, with or
without a byte order mark.

Not imported at the top of modules that run on a target (see lut/runtimes/session.py): these may
need nothing but what is installed there.
"""

import csv
import io
import math
import os
import re
import stat
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from results.errors import RunError, UserError, reason_of, shown

T = TypeVar("T")

MOST_BYTES = 64 * 2**20  # of a file that nobody said more about
MOST_LOG_BYTES = 2**30  # of a journal that long work appends to
MOST_TOML_BYTES = 2**14  # a device file has some hundred; tomllib takes time by their square
MOST_TITLE_ROWS = 20  # of a CSV, above the names of its columns

# Fields of records. Booleans and texts are no numbers, NaN and infinity are none either.
Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e15)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
Finite = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]


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
            found = os.fstat(handle)
            if stat.S_ISDIR(found.st_mode):
                raise error(f"cannot read {path}: Is a directory")
            if stat.S_ISFIFO(found.st_mode) and _OPENED.fullmatch(str(path)):
                os.set_blocking(handle, True)
            elif not stat.S_ISREG(found.st_mode):
                raise error(f"cannot read {path}: it is no regular file")
            # A file that is too large is not read first; what has no size (/proc) is bounded too.
            data = b"" if found.st_size > most else file.read(most + 1)
    except OSError as reason:
        raise error(f"cannot read {path}: {reason.strerror or reason}") from None
    if max(found.st_size, len(data)) > most:
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
        found = tomllib.loads(text)
    except RecursionError:
        raise error(f"cannot read {path}: nested too deep") from None
    except (tomllib.TOMLDecodeError, ValueError) as reason:  # ValueError: a number of 5,000 digits
        raise error(f"cannot read {path}: {reason_of(reason)}") from None
    return as_kind(found, kind, f"cannot read {path}", error=error)


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
    ours = begins.encode()
    if torn and not (torn.startswith(ours) or ours.startswith(torn)):
        raise error(
            f"{where} ends in {shown(torn.decode(errors='replace'))}, which is no part of such a "
            "file; nothing was changed"
        )
    return data[:end].splitlines(), end


# --- CSV -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sheet:
    """A CSV file: the names of its columns, in lower case, and its rows.

    `decimal_comma` is the first number that was written as 1,5, or empty; iterating gives 1.5.
    `num_titles` counts the rows above the names of the columns that were passed over;
    `is_counted` says that a first column without a name counted the rows.
    """

    columns: tuple[str, ...]
    decimal_comma: str
    num_titles: int
    is_counted: bool
    _rows: list[tuple[int, list[str]]]
    _where: str
    _error: type[UserError]
    _numbers: frozenset[str]

    @property
    def remark(self) -> str:
        """What was assumed of the file, for one line of a command's; empty if nothing was."""
        found = []
        if self.num_titles:
            found.append(
                f"{self.num_titles} row{'s' * (self.num_titles > 1)} above the names of the "
                "columns passed over"
            )
        if self.is_counted:
            found.append("the first column, which has no name, counts the rows and is passed over")
        if self.decimal_comma:
            number = self.decimal_comma.replace(",", ".")
            found.append(f"commas in numbers are decimal points: {self.decimal_comma} is {number}")
        return f"{self._where}: {'; '.join(found)}" if found else ""

    def __iter__(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Give the line of each row that holds anything, and its fields, stripped, by column.

        A field that the row does not reach is absent. Raises the reader's error for a row with
        more fields than there are columns.
        """
        for line, cells in self._rows:
            fields = {}
            for index, text in enumerate(cells):
                name = self.columns[index] if index < len(self.columns) else ""
                if not name:
                    if text and index < len(self.columns):
                        raise self._error(
                            f"{self._where}, line {line}: {shown(text)} is in a column without a "
                            "name; name the column, or remove it"
                        )
                    if text:
                        raise self._error(
                            f"{self._where}, line {line}: {shown(text)} is in no column; quote "
                            "fields that hold a comma"
                        )
                    continue
                if self.decimal_comma and name in self._numbers:
                    text = text.replace(",", ".")
                fields[name] = text
            yield line, fields


def read_sheet(
    path: Path,
    known: Collection[str],
    *,
    numbers: Collection[str] = (),
    error: type[UserError] = RunError,
    most: int = MOST_BYTES,
) -> Sheet:
    """Return a CSV file as spreadsheets and programs write it.

    Read are commas, semicolons, tabs and bars between fields, a first line `sep=;`, blank and
    title rows above the names of the columns, empty columns, spaces around fields, and decimal
    commas. `Sheet.remark` says which of these had to be guessed.

    Args:
        known: names of columns, by which the row of names is found; a check of the names that
            are there is the caller's.
        numbers: columns of numbers, the only ones where a comma may be a decimal point.

    Raises:
        error: the file cannot be read, has no row of names, a name twice, or both decimal points
            and commas in its numbers.
    """
    text = read_text(path, error=error, most=most)
    return parse_sheet(text, known, str(path), numbers=numbers, error=error)


def parse_sheet(
    text: str,
    known: Collection[str],
    where: str,
    *,
    numbers: Collection[str] = (),
    error: type[UserError] = RunError,
) -> Sheet:
    """Return the text of a CSV file, see `read_sheet`; `where` stands before what is wrong."""
    # Spreadsheets write CRLF, and a lone CR in old versions.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise error(f"{where}, line {line}: NUL bytes, as of a file that was not written whole")
    skipped = 0
    told = re.match(r"\"?sep=(.)\"?[,;\t|]*\n", text, re.IGNORECASE)
    if told:
        text, skipped = text[told.end() :], 1
    delimiter = told[1] if told else _delimiter(text, known)
    rows = _cells(text, delimiter, skipped, where, error)
    header = _header(rows, known)
    if header is None:
        raise error(f"{where}: no row names the columns; known are {', '.join(known)}")
    columns = tuple(name.lower() for name in rows[header][1])
    while columns and not columns[-1]:
        columns = columns[:-1]
    for name in filter(None, columns):
        if columns.count(name) > 1:
            raise error(f"{where}: column {shown(name)} stands twice; remove one of them")
    body = rows[header + 1 :]
    counts = len(columns) > 1 and not columns[0] and _counts_rows(body)
    if counts:
        columns = columns[1:]
        body = [(line, cells[1:]) for line, cells in body]
    decimal_comma = _decimal_comma(body, delimiter, columns, numbers, where, error)
    return Sheet(columns, decimal_comma, header, counts, body, where, error, frozenset(numbers))


def parse_number(text: str) -> float:
    """Return a finite number from a field; ValueError for anything else, `1_000` too."""
    value = float(text)
    if "_" in text or not math.isfinite(value):
        raise ValueError(f"no number {shown(text)}")
    return value


def parse_whole(text: str) -> int:
    """Return a whole number from a field, also one that a program wrote as 16.0; ValueError.

    >>> parse_whole("16"), parse_whole("16.0")
    (16, 16)
    """
    if len(text) < 16 and text.isascii() and text.isdecimal():
        return int(text)
    value = parse_number(text)
    if not value.is_integer() or abs(value) > 2**53:
        raise ValueError(f"no whole number {shown(text)}")
    return int(value)


def _cells(
    text: str, delimiter: str, skipped: int, where: str, error: type[UserError]
) -> list[tuple[int, list[str]]]:
    """Rows that hold anything, with the lines that they begin on; fields are stripped."""
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter)
    rows = []
    line = last = 1 + skipped
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((line, cells))
            last, line = line, reader.line_num + 1 + skipped
    except csv.Error as reason:
        raise error(f"{where}, line {line}: {reason_of(reason)}") from None
    if line - last > 1 and text.count('"') % 2:  # the last field took in all rows to the end
        raise error(f"{where}, line {last}: a quote is opened and never closed")
    return rows


def _delimiter(text: str, known: Collection[str]) -> str:
    """The character that separates most names of columns in one of the first rows."""
    lines = [line for line in text.split("\n", 2 * MOST_TITLE_ROWS)[:-1] if line.strip()]
    lines = lines[:MOST_TITLE_ROWS] or [text[:10_000]]

    def names(delimiter: str) -> int:
        return max(
            sum(part.strip(' "').lower() in known for part in line.split(delimiter))
            for line in lines
        )

    return max(",;\t|", key=names)


def _counts_rows(rows: list[tuple[int, list[str]]]) -> bool:
    """Whether the first column is an index, as pandas writes without a name."""
    return bool(rows) and all(cells[0] == str(index) for index, (_, cells) in enumerate(rows))


def _header(rows: list[tuple[int, list[str]]], known: Collection[str]) -> int | None:
    """The index of the first row that names two known columns, else one, else the first."""
    first = [{cell.lower() for cell in row} & set(known) for _, row in rows[:MOST_TITLE_ROWS]]
    for least in (2, 1):
        for index, names in enumerate(first):
            if len(names) >= least:
                return index
    return 0 if rows else None


_THOUSANDS = re.compile(r"[1-9]\d{0,2}(,\d{3})+")


def _decimal_comma(
    rows: list[tuple[int, list[str]]],
    delimiter: str,
    columns: tuple[str, ...],
    numbers: Collection[str],
    where: str,
    error: type[UserError],
) -> str:
    """The first number with a decimal comma, or nothing.

    1,234 may be a thousand or a little more than one: only semicolons between fields tell that
    commas are decimal. Raises `error` where all numbers are of this kind, or others have points.
    """
    indices = [index for index, name in enumerate(columns) if name in numbers]
    point, commas = 0, list[tuple[int, str]]()
    for line, row in rows:
        for text in (row[index] for index in indices if index < len(row)):
            if "," in text:
                commas.append((line, text))
            point = point or line * ("." in text)
    if not commas:
        return ""
    line, first = commas[0]
    if point:
        raise error(
            f"{where}: line {point} has a decimal point and line {line} a comma in its numbers; "
            "write all with points, and none between thousands"
        )
    for line, text in commas:
        if text.count(",") > 1:
            raise error(f"{where}, line {line}: write {shown(text)} without commas")
    if delimiter != ";" and all(_THOUSANDS.fullmatch(text) for _, text in commas):
        raise error(
            f"{where}, line {line}: {shown(first)} may be a thousand or a little more than one; "
            "write numbers with decimal points, and nothing between thousands"
        )
    return first


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.0f} MB" if size >= 2**20 else f"{size} bytes"
