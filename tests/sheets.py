"""One CSV as spreadsheets and programs write it: every reader of CSV files is to read all these."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

Rows = Sequence[Sequence[Any]]


def _text(rows: Rows, delimiter=",", quoting=csv.QUOTE_MINIMAL, end="\n", comma=False) -> str:
    """`comma`: numbers have decimal commas, as in many countries."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end)
    for row in rows:
        cells = (str(cell) for cell in row)
        writer.writerow([_with_comma(cell) if comma else cell for cell in cells])
    return file.getvalue()


def _with_comma(cell: str) -> str:
    whole, point, digits = cell.partition(".")
    return f"{whole},{digits}" if point and whole.isdigit() and digits.isdigit() else cell


VARIANTS: dict[str, Callable[[Rows], bytes]] = {
    "plain": lambda rows: _text(rows).encode(),
    "mark": lambda rows: b"\xef\xbb\xbf" + _text(rows, end="\r\n").encode(),
    "lone CR": lambda rows: _text(rows, end="\r").encode(),
    "semicolons": lambda rows: _text(rows, ";", end="\r\n", comma=True).encode(),
    "semicolons and points": lambda rows: _text(rows, ";").encode(),
    "sep": lambda rows: ("sep=;\n" + _text(rows, ";", comma=True)).encode(),
    "sep with a tab": lambda rows: ("sep=\t\r\n" + _text(rows, "\t", end="\r\n")).encode(),
    "quoted sep": lambda rows: ('"sep=,"\n' + _text(rows)).encode(),
    "UTF-16": lambda rows: _text(rows, "\t", end="\r\n", comma=True).encode("utf-16"),
    "UTF-16 BE": lambda rows: b"\xfe\xff" + _text(rows, "\t").encode("utf-16-be"),
    "all quoted": lambda rows: _text(rows, quoting=csv.QUOTE_ALL).encode(),
    "quoted decimal commas": lambda rows: _text(rows, comma=True).encode(),
    "blank lines": lambda rows: ("\n \n\n" + _text(rows) + "\n\n \n").encode(),
    "two title rows": lambda rows: (
        "Benchmark of my board,,\nMay 2026,,,\n,,\n" + _text(rows)
    ).encode(),
    "trailing commas": lambda rows: _text([[*row, "", ""] for row in rows]).encode(),
    "trailing semicolons": lambda rows: _text([[*row, ""] for row in rows], ";").encode(),
    "empty rows": lambda rows: _text([*rows, *[[""] * len(rows[0])] * 3]).encode(),
    "spaces": lambda rows: _text([[f" {cell}\u00a0" for cell in row] for row in rows]).encode(),
    "capitals": lambda rows: _text([[str(c).upper() for c in rows[0]], *rows[1:]]).encode(),
}
WITH_DECIMAL_COMMAS = ("semicolons", "sep", "UTF-16", "quoted decimal commas")
