"""CSV as spreadsheets and programs write it, read in one way; see `read_sheet`."""

import csv
import io
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from results.errors import RunError, UserError, reason_of, shown
from results.reading import MOST_BYTES, read_text

MOST_TITLE_ROWS = 20  # of a CSV, above the names of its columns


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
        """Say what was assumed of the file, in one line; return "" if nothing was."""
        remarks = []
        if self.num_titles:
            remarks.append(
                f"{self.num_titles} row{'s' * (self.num_titles > 1)} above the names of the "
                "columns passed over"
            )
        if self.is_counted:
            remarks.append(
                "the first column, which has no name, counts the rows and is passed over"
            )
        if self.decimal_comma:
            number = self.decimal_comma.replace(",", ".")
            remarks.append(
                f"commas in numbers are decimal points: {self.decimal_comma} is {number}"
            )
        return f"{self._where}: {'; '.join(remarks)}" if remarks else ""

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
    named = re.match(r"\"?sep=(.)\"?[,;\t|]*\n", text, re.IGNORECASE)
    if named:
        text, skipped = text[named.end() :], 1
    delimiter = named[1] if named else _delimiter(text, known)
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
    """Return rows that hold anything, with the lines that they begin on; fields are stripped."""
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
    """Return the character that separates most names of columns in one of the first rows."""
    lines = [line for line in text.split("\n", 2 * MOST_TITLE_ROWS)[:-1] if line.strip()]
    lines = lines[:MOST_TITLE_ROWS] or [text[:10_000]]

    def names(delimiter: str) -> int:
        return max(
            sum(part.strip(' "').lower() in known for part in line.split(delimiter))
            for line in lines
        )

    return max(",;\t|", key=names)


def _counts_rows(rows: list[tuple[int, list[str]]]) -> bool:
    """Tell whether the first column is an index, as pandas writes without a name."""
    return bool(rows) and all(cells[0] == str(index) for index, (_, cells) in enumerate(rows))


def _header(rows: list[tuple[int, list[str]]], known: Collection[str]) -> int | None:
    """Return the index of the first row that names two known columns, else one, else the first."""
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
    """Return the first number with a decimal comma, or "".

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
