"""Damaged files of every format that is read: `(data, rng) -> data`, the same for the same seed."""

import csv
import io
import json
import pickle
import re
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Any

from tests.fuzzing.values import (
    DEEP,
    LONG,
    NUMBERS,
    WORDS,
    Pairs,
    any_value,
    damaged,
    parse,
    write,
)

Mutator = Callable[[bytes, Random], bytes]
BLIND = 0.15  # share of mutants of every format that know nothing of it
FIELD = 140_000  # characters, more than `csv` takes in one field
BOMB = 1_600 * 2**20  # bytes that a small file says it holds


def of_format(change: Mutator) -> Mutator:
    """`change`, or now and then damage that any file can suffer."""

    def mutate(data: bytes, rng: Random) -> bytes:
        return (any_bytes if rng.random() < BLIND else change)(data, rng)

    return mutate


# --- Any file --------------------------------------------------------------------------------


def any_bytes(data: bytes, rng: Random) -> bytes:
    """Flipped, cut, doubled, zeroed or another's."""
    size = max(len(data), 1)
    at, end = sorted((rng.randrange(size), rng.randrange(size)))
    match rng.randrange(10):
        case 0 | 1:
            return data[:at]
        case 2:
            found = bytearray(data)
            for _ in range(rng.choice((1, 1, 4, 64))):
                if found:
                    found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
            return bytes(found)
        case 3:
            return data[:at] + data[end:]
        case 4:
            return data[:at] + bytes(min(end - at, 2**20)) + data[end:]
        case 5:
            return data[:at] + data[at:end][: 2**20] * 2 + data[end:]
        case 6:
            return data[:at] + rng.randbytes(rng.choice((1, 7, 300))) + data[at:]
        case 7:
            wide = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(8), b"\xff" * 8))
            return data[:at] + wide + data[at + len(wide) :]
        case 8:
            return rng.choice(
                (b"", b"\n", b"\0" * 100, b"\xff\xfe", b"\xef\xbb\xbf", b"null", b"x" * LONG)
            )
        case _:
            return data[::-1]


def _reencoded(text: str, rng: Random) -> bytes:
    """As other programs and systems write text; mostly as it is."""
    match rng.randrange(24):
        case 0:
            text = text.replace("\n", "\r\n")
        case 1:
            return b"\xef\xbb\xbf" + text.encode(errors="surrogatepass")
        case 2:
            return text.encode("utf-16", errors="replace")
        case 3:
            return text.encode("latin-1", errors="replace") + b"\xe4"
        case 4:
            text += "\0" * 50
    return text.encode(errors="surrogatepass")


# --- JSON ------------------------------------------------------------------------------------


@of_format
def json_file(data: bytes, rng: Random) -> bytes:
    try:
        value = parse(data.decode())
    except ValueError:
        return any_bytes(data, rng)
    if rng.random() < 0.1:
        return _reencoded(_whole(data.decode(), rng), rng)
    return _reencoded(write(damaged(value, rng)), rng)


def _whole(text: str, rng: Random) -> str:
    """Damage to a document as such."""
    return rng.choice(
        (
            text * 2,
            f"[{text}]",
            text.rstrip().removesuffix("}") + ",}",
            text + "\n{",
            text.replace(",", ""),
            "[" * DEEP,
            '{"a":' * DEEP,
            "null",
            "[]",
            "3",
            '"text"',
            "// comment\n" + text,
            text.replace('"', "'"),
            "\ufeff\ufeff" + text,
        )
    )


@of_format
def json_lines(data: bytes, rng: Random) -> bytes:
    lines = data.decode(errors="replace").splitlines()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        lines = _lines(lines, rng, _json_line)
    end = rng.choice(("\n", "\n", "\n", "", "\n\n", "\n{", "\n" + "\0" * 40, "\nnotes"))
    return _reencoded("\n".join(lines) + end, rng)


def _json_line(line: str, rng: Random) -> str:
    try:
        return write(damaged(parse(line), rng))
    except ValueError:
        return rng.choice(WORDS)


def _lines(lines: list[str], rng: Random, change: Callable[[str, Random], str]) -> list[str]:
    if not lines:
        return [rng.choice(WORDS)]
    at = rng.randrange(len(lines))
    match rng.randrange(12):
        case 0:
            return lines[:at] + lines[at + 1 :]
        case 1:
            return [*lines[:at], *[lines[at]] * rng.choice((2, 3, 100)), *lines[at + 1 :]]
        case 2:
            other = rng.randrange(len(lines))
            lines = list(lines)
            lines[at], lines[other] = lines[other], lines[at]
            return lines
        case 3:
            foreign = (*WORDS, "{}", "[]", "null", "3", '{"other": 1}', "[" * DEEP)
            return [*lines[:at], rng.choice(foreign), *lines[at:]]
        case 4:
            return [*lines[:at], lines[at][: rng.randrange(len(lines[at]) + 1)]]
        case _:
            return [*lines[:at], change(lines[at], rng), *lines[at + 1 :]]


# --- TOML ------------------------------------------------------------------------------------

TOML_VALUES = (
    *("inf", "nan", "-inf", "1e308", "1e-320", "0x7fffffffffffffff", "1_000", "0b101", "-7"),
    *("9" * 400, "9" * 5000, "1979-05-27T07:32:00Z", "07:32:00", "true", "[]", "{}", "[1, 'a']"),
    *('""', "''", '"""\nlong\n"""', '"\\u0000"', '"\\u001b[2J"', "{a = {b = 1}}", "[[[]]]"),
    *("[" * 2000 + "]" * 2000, "[" * DEEP, '"' + "x" * LONG + '"'),
)


@of_format
def toml_file(data: bytes, rng: Random) -> bytes:
    text = data.decode()
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2))):
        lines = _lines(lines, rng, _toml_line)
    if rng.random() < 0.2:
        value = damaged(_pairs_of(tomllib.loads(text)), rng)
        fields = value if isinstance(value, Pairs) else Pairs([["title", value]])
        lines = [f"{write(key)} = {_toml_value(item)}" for key, item in fields]
    if rng.random() < 0.1:
        deep = "[" + "a." * DEEP + "a]", "a" + ".a" * 500 + "=1"
        lines.append(rng.choice((*deep, "[batch]", "[[batch]]")))
    return _reencoded("\n".join(lines) + "\n", rng)


def _toml_line(line: str, rng: Random) -> str:
    key, sign, _ = line.partition("=")
    if not sign:
        return rng.choice(("[other]", "[batch.deeper]", "[[list]]", rng.choice(WORDS)))
    if rng.random() < 0.2:
        return f"{rng.choice(WORDS)} = {rng.choice(TOML_VALUES)}"
    others = (*TOML_VALUES, json.dumps(rng.choice(WORDS)), rng.choice(NUMBERS))
    return f"{key}= {rng.choice(others)}"


def _toml_value(value: Any) -> str:
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{write(k)} = {_toml_value(v)}" for k, v in value) + "}"
    return write(value)


def _pairs_of(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs([key, _pairs_of(item)] for key, item in value.items())
    return [_pairs_of(item) for item in value] if isinstance(value, list) else value


# --- CSV -------------------------------------------------------------------------------------


@of_format
def csv_file(data: bytes, rng: Random) -> bytes:
    text = data.decode()
    rows = list(csv.reader(io.StringIO(text)))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rows = _rows(rows, rng)
    delimiter = rng.choice((",",) * 30 + (";", "\t", "|", ":"))
    out = io.StringIO()
    quoting: Any = rng.choice((csv.QUOTE_MINIMAL,) * 9 + (csv.QUOTE_ALL,))
    csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator="\n").writerows(rows)
    text = out.getvalue()
    match rng.randrange(30):
        case 0:
            text = f"sep={delimiter}\n{text}"
        case 1:
            text = f"A title\n\n{text}"
        case 2:
            text = text.replace("\n", f"{delimiter * 3}\n")
        case 3:
            text = re.sub(r"(\d)\.(\d)", r"\1,\2", text)
        case 4:
            text = text.replace("\n", "\r")
        case 5:
            text = text.replace('"', rng.choice(("", '"""', "'")))
        case 6:
            text = text.rstrip("\n")[: -rng.randrange(1, 9)]
        case 7:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(('"', "\0", "\n", delimiter, "\r")) + text[at:]
    return _reencoded(text, rng)


def _rows(rows: list[list[str]], rng: Random) -> list[list[str]]:
    rows = [list(row) for row in rows]
    at = rng.randrange(len(rows)) if rows else 0
    if not rows or not rows[at]:
        return [*rows, [rng.choice(WORDS)]]
    column = rng.randrange(len(rows[at]))
    match rng.randrange(24):
        case 0:
            del rows[at]
        case 1:
            rows.insert(rng.randrange(len(rows) + 1), list(rows[at]))
        case 2:
            rows[at] += [rng.choice(WORDS)] * rng.choice((1, 1, 50))
        case 3:
            del rows[at][column]
        case 4:  # a column stands twice, or is gone
            again = rng.random() < 0.5
            for row in rows:
                if column < len(row):
                    row[column : column + 1] = row[column : column + 1] * (2 if again else 0)
        case 5:
            name = column % max(len(rows[0]), 1)
            rows[0][name : name + 1] = [rng.choice((*WORDS, "Latency_MS"))]
        case 6:
            rows = [rows[0], *rng.sample(rows[1:], len(rows) - 1)]
        case 7:
            rows[at][column] = "9" * FIELD
        case 8:
            rows.insert(at, [])
        case _:
            rows[at][column] = _cell(rows[at][column], rng)
    return rows


def _cell(text: str, rng: Random) -> str:
    if text[:1] in ("{", "[") and rng.random() < 0.8:
        return _json_line(text, rng)
    near = (f"{text}{text}", f"-{text}", f" {text} ", f"{text} ms", f"{text}_0", f"{text}.0", "")
    number = re.fullmatch(r"\d{1,300}(\.\d*)?", text)
    if rng.random() < 0.4 and number:
        return str(rng.choice((int(float(text)) + 1, float(text) * 1.1, f"{text}0", f"{text}e300")))
    return str(rng.choice((*near, *NUMBERS, *WORDS[:-1], "inf", "nan", "1,5", "1.000,5", "0x1p3")))


# --- What tools print ------------------------------------------------------------------------


@of_format
def log(data: bytes, rng: Random) -> bytes:
    lines = data.decode(errors="replace").splitlines()
    for _ in range(rng.choice((1, 1, 2, 3))):
        lines = _lines(lines, rng, _log_line)
    return _reencoded("\n".join(lines) + "\n", rng)


def _log_line(line: str, rng: Random) -> str:
    if line[:1] in "{[" and rng.random() < 0.7:
        return _json_line(line, rng)
    numbers = list(re.finditer(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", line))
    if numbers and rng.random() < 0.7:
        one = rng.choice(numbers)
        other = rng.choice((*NUMBERS, "nan", "inf", "", "-" + one[0], one[0] * 30, "²", "٣"))
        return line[: one.start()] + other + line[one.end() :]
    words = line.split(" ")
    words[rng.randrange(len(words))] = rng.choice(WORDS)
    return " ".join(words)


# --- safetensors -----------------------------------------------------------------------------


@of_format
def safetensors(data: bytes, rng: Random) -> bytes:
    (size,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.15:
        length = rng.choice((0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1, len(data)))
        return struct.pack("<Q", length) + header + body
    value = parse(header.decode())
    metadata = [item for key, item in value if key == "__metadata__"]
    tensors = [pair for pair in value if pair[0] != "__metadata__"]
    match rng.randrange(9):
        case 0 | 1 | 2 if metadata and isinstance(metadata[0], Pairs) and metadata[0]:
            pair = rng.choice(metadata[0])
            pair[1] = _metadata(pair[1], rng)
        case 3 if tensors:  # others' shapes and names, of the same number of bytes
            pair = rng.choice(tensors)
            for field in pair[1]:
                if field[0] == "shape":
                    field[1] = _reshaped(field[1], rng)
        case 4 if tensors:
            one, other = rng.choice(tensors), rng.choice(tensors)
            one[0], other[0] = other[0], rng.choice((one[0], f"module.{one[0]}", "x", ""))
        case 5 if tensors:
            for field in rng.choice(tensors)[1]:
                if field[0] == "dtype":
                    kinds = ("F64", "I32", "F16", "BF16", "U8", "BOOL", "I64", "F8_E4M3", "X")
                    field[1] = rng.choice(kinds)
        case 6 if body:
            wide = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"))
            at = rng.randrange(len(body)) // 4 * 4
            body = body[:at] + wide * rng.choice((1, 100)) + body[at:]
            body = body[: len(data) - 8 - size]
        case 7:
            body = body[: rng.randrange(len(body) + 1)] if rng.random() < 0.7 else body + b"\0" * 99
        case _:
            value = damaged(value, rng)
    text = write(value).encode(errors="surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _metadata(text: Any, rng: Random) -> Any:
    """Facts, spaces and Archs are JSON within the JSON."""
    if not isinstance(text, str):
        return any_value(rng)
    try:
        return write(damaged(parse(text), rng))
    except ValueError:
        return rng.choice((*WORDS, any_value(rng)))


def _reshaped(shape: list[Any], rng: Random) -> Any:
    sides = [side for side in shape if isinstance(side, int)]
    return rng.choice(([*shape, 1], shape[::-1], [1, *shape], [*sides[:-2], _product(sides[-2:])]))


def _product(sides: list[int]) -> int:
    found = 1
    for side in sides:
        found *= side
    return found


# --- Pictures --------------------------------------------------------------------------------


@of_format
def png(data: bytes, rng: Random) -> bytes:
    chunks = _chunks(data)
    if len(chunks) < 3:
        return any_bytes(data, rng)
    at = rng.randrange(len(chunks))
    match rng.randrange(10):
        case 0 | 1 | 2:  # sizes and kinds of pixels
            sides = (0, 1, 2, 13300, 20000, 65536, 2**31 - 1, 2**31, 2**32 - 1)
            head = bytearray(chunks[0][1])
            field = rng.choice((0, 4, 8, 9, 10, 12))
            if field < 8:
                head[field : field + 4] = struct.pack(">I", rng.choice(sides))
            else:
                head[field] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
            chunks[0] = (chunks[0][0], bytes(head))
        case 3:
            del chunks[at]
        case 4:
            chunks.insert(at, chunks[rng.randrange(len(chunks))])
        case 5:
            chunks[at] = (rng.choice((b"tEXt", b"zTXt", b"eXIf", b"PLTE", b"acTL")), chunks[at][1])
        case 6:
            chunks.insert(1, (b"zTXt", b"Comment\0\0" + _packed_zeros(64 * 2**20)))
        case 7:
            return _large_png(rng.choice((8, 16)), rng.choice((0, 0, 2)))
        case 8:
            name, body = chunks[at]
            size = struct.pack(">I", rng.choice((0, 2**31, 2**32 - 1)))
            return _png(chunks[:at]) + size + name + body
        case _:
            name, body = chunks[at]
            chunks[at] = (name, any_bytes(body, rng))
    return _png(chunks)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 8 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    text = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        text += struct.pack(">I", len(body)) + name + body
        text += struct.pack(">I", zlib.crc32(name + body))
    return text


@lru_cache
def _packed_zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 1)


@lru_cache
def _large_png(depth: int, colour: int) -> bytes:
    """A picture of one value, of a size that a decoder of pictures still takes."""
    side = 13_300
    line = 1 + side * depth // 8 * (3 if colour == 2 else 1)
    packer = zlib.compressobj(1)
    zeros = bytes(line)
    body = b"".join(packer.compress(zeros) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    return _png([(b"IHDR", head), (b"IDAT", body), (b"IEND", b"")])


@of_format
def jpeg(data: bytes, rng: Random) -> bytes:
    segments, rest = _segments(data)
    if not segments:
        return any_bytes(data, rng)
    at = rng.randrange(len(segments))
    marker, body = segments[at]
    match rng.randrange(8):
        case 0 | 1:  # the frame's sizes
            for number, (kind, frame) in enumerate(segments):
                if kind in (0xC0, 0xC2):
                    sides = struct.pack(">HH", *rng.choices((0, 1, 65535, 13300, 8), k=2))
                    segments[number] = (kind, frame[:1] + sides + frame[5:])
        case 2:
            del segments[at]
        case 3:
            segments.insert(at, segments[rng.randrange(len(segments))])
        case 4:
            segments[at] = (rng.choice((0xC0, 0xC4, 0xDB, 0xE0, 0xE1, 0xEE, 0xFE)), body)
        case 5:
            segments.insert(0, (0xE1, _exif(rng)))
        case 6:
            rest = any_bytes(rest, rng)
        case _:
            segments[at] = (marker, any_bytes(body, rng)[:65000])
    return _jpeg(segments) + rest


def _segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        (size,) = struct.unpack(">H", data[at + 2 : at + 4])
        found.append((data[at + 1], data[at + 4 : at + 2 + size]))
        at += 2 + size
    return found, data[at:]


def _jpeg(segments: list[tuple[int, bytes]]) -> bytes:
    text = b"\xff\xd8"
    for marker, body in segments:
        text += bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body
    return text


def _exif(rng: Random) -> bytes:
    """An orientation, sound or not."""
    count, value = rng.choice((0, 1, 1, 1, 2**31)), rng.choice((*range(10), 65535))
    entry = struct.pack("<HHIHH", 0x0112, rng.choice((3, 3, 2, 5, 99)), count, value, 0)
    head = b"II*\0" + struct.pack("<IH", rng.choice((8, 8, 8, 2**31)), 1)
    return b"Exif\0\0" + head + entry + struct.pack("<I", rng.choice((0, 8)))


# --- Archives of PyTorch ---------------------------------------------------------------------


class Payload:
    """What unpickling would run: it leaves a file beside the output folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("echo ran > ../sentinel/ran.txt",)


@of_format
def pt_file(data: bytes, rng: Random) -> bytes:
    entries: list[list[Any]]
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [[entry.filename, archive.read(entry)] for entry in archive.infolist()]
    except (zipfile.BadZipFile, ValueError):
        return any_bytes(data, rng)
    at = rng.randrange(len(entries))
    names = [name for name, _ in entries]
    program = next((n for n, name in enumerate(names) if name.endswith("data.pkl")), at)
    packed = False
    match rng.randrange(11):
        case 0:
            del entries[at]
        case 1:
            entries[at][1] = entries[at][1][: rng.randrange(len(entries[at][1]) + 1)]
        case 2:
            other = rng.randrange(len(entries))
            entries[at][1], entries[other][1] = entries[other][1], entries[at][1]
        case 3:
            entries[at][0] = rng.choice(("../../sentinel/victim.txt", "/x", "", *WORDS[:8]))
        case 4:
            entries[program][1] = pickle.dumps(rng.choice((Payload(), {"a": Payload()})), 2)
        case 5:
            entries[program][1] = pickle.dumps(rng.choice(_FOREIGN), 2)
        case 6:
            packed = True
        case 7 if rng.random() < 0.3:
            return _packed_pt()
        case 8:
            entries[at][1] += bytes(rng.choice((1, 1000)))
        case 9:
            return rng.choice((pickle.dumps(Payload()), pickle.dumps({"a": 1}), b"\x80\x02}q\0."))
        case _:
            entries[program][1] = any_bytes(entries[program][1], rng)
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, body in entries:
            entry = zipfile.ZipInfo(name.replace("\0", "") or "x")  # no clock in it
            archive.writestr(entry, body, kind)
    return out.getvalue()


_FOREIGN: tuple[Any, ...] = ({}, [], None, 3, {"state_dict": 1}, {"a": "b"}, {1: 2}, {"model": {}})


@lru_cache
def _packed_pt() -> bytes:
    """Tensors of zeros that inflate to much more than the file has."""
    import torch

    elements = BOMB // 4
    own = io.BytesIO()
    torch.save({"weight": torch.zeros(4)}, own)
    entries = zipfile.ZipFile(own)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for entry in entries.infolist():
            body = entries.read(entry)
            if entry.filename.endswith("data.pkl"):
                # K\x04: the number of elements, of the storage and of the shape
                body = body.replace(b"K\x04", b"J" + struct.pack("<i", elements))
            if "/data/" in entry.filename:
                with archive.open(zipfile.ZipInfo(entry.filename), "w", force_zip64=True) as file:
                    file._compressor = zlib.compressobj(1, zlib.DEFLATED, -15)  # type: ignore[attr-defined]
                    file._zinfo.compress_type = zipfile.ZIP_DEFLATED  # type: ignore[attr-defined]
                    for _ in range(BOMB // 2**24):
                        file.write(bytes(2**24))
                continue
            archive.writestr(zipfile.ZipInfo(entry.filename), body)
    return out.getvalue()
