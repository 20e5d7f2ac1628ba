"""Tables of others as ours: Once-for-All's `lookup_table.yaml`, and plain CSVs of our columns.

Once-for-All (and ProxylessNAS, whose keys end before `se`) has one entry a layer:

    expanded_conv-input:56x56x24-output:28x28x40-expand:96-kernel:5-stride:2-idskip:0-se:0-hs:1:
      {mean: 0.41, count: 50, std: 0.02}

Sizes are height x width x channels; `mean` and `std` are milliseconds of one run of a batch;
`expand` is the number of hidden channels where `se` and `hs` follow, else their ratio.

- `expanded_conv` is an mbconv, and a dsconv where nothing is expanded. A runtime folds the
  normalisation, so one entry gives the rows of both norms, `batch` and `fewer`.
- `Conv` is the stem's 3x3 convolution, `Conv_1` the 1x1 before the pool, `AvgPool2D` the pool,
  and `Logits` with a 1x1 input the classifier.
- A block's activation is hard swish, as in our family b. Entries with ReLU (`hs:0`, or no `hs`)
  stand in where none has hard swish: the convolutions are the same.

Squeeze and excitation, `Conv_2`, ProxylessNAS's `Logits` (pool and classifier in one) and unknown
layers have no Block; they are returned by key, never dropped in silence.

Source: https://github.com/mit-han-lab/once-for-all,
ofa/nas/efficiency_predictor/latency_lookup_table.py
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from lut.device import Device
from lut.table import COLUMNS, KEY_COLUMNS, OPTIONAL_COLUMNS, Entry, Table, parse_row
from lut.terms import NetworkTerms
from results.errors import TableError, nearest
from results.reading import read_text
from supernet.blocks import Block
from supernet.cost import cost_of

MOST_BYTES = 32 * 2**20  # Once-for-All's tables have a tenth of that
_DEFAULTS = {f.name: f.default for f in fields(Block) if f.compare and f.default is not MISSING}
NEEDED = (*(name for name in KEY_COLUMNS if name not in _DEFAULTS), "latency_ms")


def import_table(
    path: Path, device: Device, batch: int, threads: int | None
) -> tuple[Table, list[str]]:
    """The table in `path` as one of `device`, and what of it has no Block of ours.

    A `.yaml` is Once-for-All's; of a `.csv` the columns `NEEDED` must be there, and others take
    a Block's defaults, 0 for spread and samples and `measured` for the provenance. Milliseconds
    of a CSV are per image, as in all our tables; those of a YAML are of a run of the batch.

    Raises TableError naming the line, and UserError where PyYAML is missing.
    """
    readers = {".yaml": _read_yaml, ".yml": _read_yaml, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise TableError(
            f"cannot import {path}: give a .yaml (Once-for-All's lookup_table.yaml) or a .csv of "
            "our columns"
        )
    try:
        size = path.stat().st_size
    except OSError as error:
        raise TableError(f"cannot read {path}: {error.strerror or error}") from None
    if size > MOST_BYTES:
        raise TableError(f"{path} is larger than {MOST_BYTES >> 20} MB, as no latency table is")
    text = read_text(path, error=TableError)
    entries, unknown = readers[path.suffix.lower()](path, text, batch)
    if not entries:
        examples = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        shown = f": {examples}" if unknown else ""
        raise TableError(f"{path}: nothing that is a Block of ours{shown}")
    table = Table(
        device=device.name,
        title=device.title,
        runtime=device.runtime,
        precision=device.precision,
        batch=batch,
        entries=entries,
        terms=NetworkTerms(),
        threads=threads,
        sidecar={
            "note": f"imported from {path.name}",
            "error": {},
            "validation": None,
            "import": {
                "file": path.name,
                "sha256": sha256(path.read_bytes()).hexdigest(),
                "not_imported": unknown,
            },
        },
    )
    return table, unknown


# --- Once-for-All --------------------------------------------------------------------------

_SIZE = r"([1-9]\d{0,4})x([1-9]\d{0,4})x([1-9]\d{0,4})"
_LAYER = re.compile(
    rf"(?P<layer>\w+)-input:{_SIZE}-output:(?:{_SIZE}|(?P<features>[1-9]\d{{0,5}}))"
    r"(?:-expand:(?P<expand>[1-9]\d{0,5})-kernel:(?P<kernel>[1-9]\d?)-stride:(?P<stride>[1-9])"
    r"-idskip:(?P<idskip>[01])(?:-se:(?P<se>[01])-hs:(?P<hs>[01]))?)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One entry of a YAML."""

    line: int
    key: str
    values: Mapping[str, str]  # mean, std, count and whatever else, as written


def _read_yaml(path: Path, text: str, batch: int) -> tuple[dict[Block, Entry], list[str]]:
    entries: dict[Block, Entry] = {}
    keys: dict[Block, str] = {}
    unknown: list[str] = []
    lines: dict[str, int] = {}
    stand_ins: list[tuple[Block, Entry, str]] = []
    for layer in _layers(path, text):
        if layer.key in lines:
            raise TableError(
                f"{path}, line {layer.line}: {layer.key[:120]} stands in line "
                f"{lines[layer.key]} too; remove one of them"
            )
        lines[layer.key] = layer.line
        entry = _entry(path, layer, batch)
        found = _block(layer.key)
        if found is None:
            unknown.append(layer.key)
            continue
        block, exact = found
        if not exact:
            stand_ins.append((block, entry, layer.key))
        elif block in entries:
            unknown.append(layer.key)
        else:
            entries[block], keys[block] = entry, layer.key
    for block, entry, key in stand_ins:
        if block in entries:
            unknown.append(key)
        else:
            entries[block], keys[block] = entry, key
    both = {replace(b, norm="fewer"): e for b, e in entries.items() if b.kind in _EXPANDED}
    return entries | both, unknown


_EXPANDED = ("mbconv", "dsconv")


def _block(key: str) -> tuple[Block, bool] | None:
    """The Block of a layer's key, and whether its activation is ours; None: there is none."""
    match = _LAYER.fullmatch(key)
    if match is None:
        return None
    height, width, channels = map(int, match.group(2, 3, 4))
    layer, features = match["layer"], match["features"]
    if features:
        whole = layer == "Logits" and (height, width) == (1, 1)
        linear = Block("linear", channels, int(features), 1, 1, norm="none")
        return (linear, True) if whole else None
    out_height, out_width, out_channels = map(int, match.group(5, 6, 7))
    if layer == "AvgPool2D":
        pool = Block("pool", channels, channels, height, width, norm="none")
        same = (out_height, out_width, out_channels) == (1, 1, channels)
        return (pool, True) if same and not match["expand"] else None
    block = Block("conv", channels, out_channels, height, width, activation="hswish")
    if layer == "Conv" and not match["expand"]:
        block = replace(block, kernel_size=3, stride=2)
    elif layer == "expanded_conv" and match["expand"] and match["se"] != "1":
        expand = int(match["expand"])
        hidden = expand if match["hs"] else channels * expand
        block = replace(
            block,
            kind="dsconv" if hidden == channels else "mbconv",
            mid_channels=hidden,
            kernel_size=int(match["kernel"]),
            stride=int(match["stride"]),
            residual=match["idskip"] == "1",
        )
    elif layer != "Conv_1" or match["expand"]:
        return None
    narrow = block.residual and (block.stride != 1 or channels != out_channels)
    if block.out_size != (out_height, out_width) or narrow or block.kernel_size % 2 == 0:
        return None
    # The stem and the head do not say; Once-for-All's have hard swish, ProxylessNAS's ReLU6.
    return block, match["hs"] == "1" or layer != "expanded_conv"


def _entry(path: Path, layer: _Layer, batch: int) -> Entry:
    numbers = {}
    for name, default in (("mean", None), ("std", "0"), ("count", "0")):
        text = layer.values.get(name, default)
        try:
            numbers[name] = float(text if text is not None else "nan")
        except ValueError:
            numbers[name] = math.nan
        if not 0 <= numbers[name] < 1e9:
            said = "missing" if text is None else f"{text[:40]!r}"
            raise TableError(
                f"{path}, line {layer.line}: {name} of {layer.key[:120]} is {said}; a finite "
                "number, not negative, is expected"
            )
    return Entry(numbers["mean"] / batch, numbers["std"] / batch, int(numbers["count"]))


def _layers(path: Path, text: str) -> Iterator[_Layer]:
    """The layers in order, from the YAML's events: nothing is constructed, nothing can expand.

    Raises TableError for anything but a mapping of keys to mappings of plain values.
    """
    try:
        import yaml
    except ImportError:
        raise TableError(
            'reading YAML needs PyYAML; install it with `pip install -e ".[device]"`'
        ) from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # of libyaml, where it is there
    depth = 0
    key: str | None = None
    name: str | None = None
    line = 0
    values: dict[str, str] = {}
    try:
        for event in yaml.parse(text, Loader=loader):
            where = f"{path}, line {event.start_mark.line + 1}"
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise TableError(f"{where}: anchors and aliases are not read; write values out")
            if getattr(event, "tag", None):
                raise TableError(f"{where}: tag {event.tag[:60]!r} is not read; write plain values")
            if isinstance(event, yaml.MappingStartEvent) and (depth == 0 or (depth == 1 and key)):
                depth += 1
                values = {}
            elif isinstance(event, yaml.MappingEndEvent):
                depth -= 1
                if depth == 1 and key:
                    yield _Layer(line, key, values)
                    key = None
            elif isinstance(event, yaml.ScalarEvent) and depth == 1 and key is None:
                key, line = event.value, event.start_mark.line + 1
            elif isinstance(event, yaml.ScalarEvent) and depth == 2:
                if name is None:
                    name = event.value
                else:
                    values[name] = event.value
                    name = None
            elif isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent):
                raise TableError(
                    f"{where}: not a latency table; each layer's key has a mapping with mean, and "
                    "count and std where known"
                )
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        said = getattr(error, "problem", None) or "it is not YAML"
        raise TableError(f"{where}: cannot read it: {said}") from None


# --- CSV -----------------------------------------------------------------------------------


def _read_csv(path: Path, text: str, batch: int) -> tuple[dict[Block, Entry], list[str]]:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise TableError(f"{path}, line {reader.line_num}: {error}") from None
    header = [name.strip().lower() for name in rows[0][1]] if rows else []
    _check_header(path, header)
    defaults = {name: _written(value) for name, value in _DEFAULTS.items()}
    defaults |= {"latency_std_ms": "0", "num_samples": "0", "provenance": "measured"}
    entries: dict[Block, Entry] = {}
    lines: dict[Block, int] = {}
    for line, row in rows[1:]:
        where = f"{path}, line {line}"
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=False)}
        if not any(cells.values()):
            continue
        if len(row) != len(header):
            raise TableError(f"{where}: {len(row)} fields instead of {len(header)}; is it cut off?")
        if delimiter != ",":  # of a spreadsheet that writes decimal commas
            decimal = ("_ms", "_mj")
            cells = {
                name: cell.replace(",", ".") if name.endswith(decimal) else cell
                for name, cell in cells.items()
            }
        given = {name: cell for name, cell in cells.items() if cell}
        block, entry = parse_row(dict.fromkeys(NEEDED, "") | defaults | given, where)
        _check_sizes(block, where)
        if block in entries:
            raise TableError(f"{where}: the same block as line {lines[block]}; remove one of them")
        entries[block] = entry
        lines[block] = line
    return entries, []


def _check_header(path: Path, header: Sequence[str]) -> None:
    known = COLUMNS + OPTIONAL_COLUMNS
    units = {name.rpartition("_")[0]: name for name in known if name.endswith(("_ms", "_mj"))}
    for column in header:
        if column in known:
            if header.count(column) > 1:
                raise TableError(f"{path}: column {column!r} stands twice; remove one of them")
        elif meant := units.get(column.rpartition("_")[0]) or units.get(column):
            raise TableError(f"{path}: column {column!r}; convert it to {meant}")
        else:
            raise TableError(f"{path}: unknown column {column!r}{nearest(column, known)}")
    for column in NEEDED:
        if column not in header:
            raise TableError(f"{path}: column {column!r} is missing; needed: {', '.join(NEEDED)}")


def _check_sizes(block: Block, where: str) -> None:
    for name in KEY_COLUMNS:
        value: Any = getattr(block, name)
        least = 1 if name in (*NEEDED, "kernel_size", "stride") else 0
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, int) and not least <= number <= 10**6 for number in numbers):
            raise TableError(f"{where}: {name} cannot be {_written(value)}")
    try:
        cost_of(block)
    except ZeroDivisionError:  # of groups of a width of 0
        raise TableError(f"{where}: {block.kind} needs mid_channels of 1 or more") from None


def _written(value: object) -> str:
    """As a cell of our tables has it."""
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return str(int(value)) if isinstance(value, bool) else str(value)
