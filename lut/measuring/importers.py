"""Tables of others as ours: Once-for-All's lookup tables, and plain CSVs of our columns.

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

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from lut.device import Device
from lut.rows import COLUMNS, KEY_COLUMNS, NUMBERS, OPTIONAL_COLUMNS, Entry, add_row, check_columns
from lut.sidecar import Sidecar
from lut.table import Table
from lut.terms import NetworkTerms
from results.errors import RunError, TableError, printable, reason_of, shown
from results.reading import as_kind, decode, parse_json, read_bytes
from results.sheets import MOST_TITLE_ROWS, parse_number, parse_sheet
from supernet.blocks import Block

MOST_BYTES = 32 * 2**20  # Once-for-All's tables have a tenth of that
_DEFAULTS = {f.name: f.default for f in fields(Block) if f.compare and f.default is not MISSING}
NEEDED = (*(name for name in KEY_COLUMNS if name not in _DEFAULTS), "latency_ms")


def import_table(
    path: Path, device: Device, batch: int, threads: int | None
) -> tuple[Table, list[str]]:
    """Return the table in `path` as one of `device`, and what of it has no Block of ours.

    What the file is tells its content, whatever its name: Once-for-All's table as JSON or YAML,
    or a CSV with the columns `NEEDED` at least, where others take a Block's defaults, 0 for
    spread and samples and `measured` for the provenance. Milliseconds of a CSV are per image, as
    in all our tables; those of Once-for-All are of a run of the batch.

    Raises TableError naming the line, and UserError where PyYAML is missing.
    """
    data = read_bytes(path, error=TableError, most=MOST_BYTES)
    text = decode(data, str(path), error=TableError)
    remark = ""
    if layers := _layers(path, text):
        entries, unknown = _read_layers(str(path), layers, batch)
    else:
        entries, remark = _read_csv(path, text)
        unknown = []
    if not entries:
        examples = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        what = f": {examples}" if unknown else ""
        raise TableError(f"{path}: nothing that is a Block of ours{what}")
    table = Table(
        device=device.name,
        title=device.title,
        runtime=device.runtime,
        precision=device.precision,
        batch=batch,
        entries=entries,
        terms=NetworkTerms(),
        threads=threads,
        sidecar=Sidecar.of(
            {
                "note": f"imported from {printable(path.name)}",
                "error": {},
                "validation": None,
                "import": {
                    "file": printable(path.name),
                    "sha256": sha256(data).hexdigest(),
                    "not_imported": unknown,
                },
            }
        ),
        remark=remark,
    )
    return table, unknown


def _layers(path: Path, text: str) -> "Iterator[_Layer] | None":
    """Return the layers of a table of Once-for-All's, read one by one; None: it is a CSV.

    Raises TableError where it is neither.
    """
    yaml = path.suffix.lower() in (".yaml", ".yml")
    if text.lstrip().startswith("{"):
        try:
            return _json_layers(str(path), text)
        except TableError:
            if not yaml:  # which has a notation with braces, too
                raise
    if yaml or _is_yaml(path, text):
        return _yaml_layers(str(path), text)
    return None


def _is_yaml(path: Path, text: str) -> bool:
    first = text.lower().splitlines()[: 2 * MOST_TITLE_ROWS]
    if any(sum(name in line for name in NEEDED) > 1 for line in first):
        return False
    if any("-input:" in line for line in first):
        return True
    if path.suffix.lower() == ".csv":
        return False
    raise TableError(
        f"cannot import {path}: give Once-for-All's lookup table (.yaml or .json) or a .csv of our "
        f"columns, at least {', '.join(NEEDED)}"
    )


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
    values: Mapping[str, object]  # mean, std, count and whatever else, as written


def _read_layers(
    where: str, layers: Iterable[_Layer], batch: int
) -> tuple[dict[Block, Entry], list[str]]:
    entries: dict[Block, Entry] = {}
    keys: dict[Block, str] = {}
    unknown: list[str] = []
    lines: dict[str, int] = {}
    stand_ins: list[tuple[Block, Entry, str]] = []
    for layer in layers:
        if layer.key in lines:
            raise TableError(
                f"{where}, line {layer.line}: {layer.key[:120]} stands in line "
                f"{lines[layer.key]} too; remove one of them"
            )
        lines[layer.key] = layer.line
        entry = _entry(where, layer, batch)
        read = _block(layer.key)
        if read is None:
            unknown.append(layer.key)
            continue
        block, exact = read
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
    """Return the Block of a layer's key, and whether its activation is ours; None for none."""
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


def _entry(where: str, layer: _Layer, batch: int) -> Entry:
    numbers = {}
    for name, default in (("mean", None), ("std", 0), ("count", 0)):
        written = layer.values.get(name, default)
        try:
            value = (
                parse_number(written) if isinstance(written, str) else as_kind(written, float, name)
            )
        except (ValueError, RunError):
            value = -1.0
        if not 0 <= value < 1e9:
            given = "missing" if written is None else shown(written)
            raise TableError(
                f"{where}, line {layer.line}: {name} of {layer.key[:120]} is {given}; a finite "
                "number, not negative, is expected"
            )
        numbers[name] = value
    return Entry(numbers["mean"] / batch, numbers["std"] / batch, int(numbers["count"]))


_KEY = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*\{')


def _json_layers(where: str, text: str) -> Iterator[_Layer]:
    """Return the layers of a JSON file in order, also those whose keys stand twice.

    Raises TableError for anything but an object of objects, and for a name that stands twice in
    one of them.
    """
    layers = parse_json(text, dict[str, dict[str, Any]], where, error=TableError)
    return _in_order(where, layers, text)


def _names_twice(where: str, text: str) -> dict[str, str]:
    """Return a name that stands twice in a layer's object, by the layer. Raises TableError."""
    try:
        # Objects as lists of pairs; numbers are not converted, as only names are looked at.
        layers = json.loads(text, object_pairs_hook=list, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise TableError(f"{where}: not JSON ({reason_of(error)})") from None
    twice = {}
    for layer, pairs in layers:
        seen = set()
        for name, _ in pairs:
            if name in seen:
                twice[layer] = name
            seen.add(name)
    return twice


def _in_order(
    where: str, layers: Mapping[str, Mapping[str, object]], text: str
) -> Iterator[_Layer]:
    line, end = 1, 0
    twice = _names_twice(where, text)
    for match in _KEY.finditer(text):
        line += text.count("\n", end, match.start())
        end = match.start()
        key = parse_json(f'"{match[1]}"', str, f"line {line}", error=TableError)
        if key in twice:
            raise _stands_twice(f"{where}, line {line}", twice[key], key)
        if key in layers:
            yield _Layer(line, key, layers[key])


def _stands_twice(where: str, name: str, key: str) -> TableError:
    return TableError(f"{where}: {shown(name)} of {key[:120]} stands twice; remove one of them")


def _yaml_layers(path: str, text: str) -> Iterator[_Layer]:
    """Yield the layers in order, from the YAML's events: nothing is constructed or expands.

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
                    if name in values:
                        raise _stands_twice(where, name, str(key))
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
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise TableError(f"{where}: cannot read it: {problem}") from None


# --- CSV -----------------------------------------------------------------------------------


def _read_csv(path: Path, text: str) -> tuple[dict[Block, Entry], str]:
    columns = COLUMNS + OPTIONAL_COLUMNS
    sheet = parse_sheet(text, columns, str(path), numbers=NUMBERS, error=TableError)
    check_columns(str(path), sheet.columns, NEEDED)
    defaults = {name: _written(value) for name, value in _DEFAULTS.items()}
    defaults |= {"latency_std_ms": "0", "num_samples": "0", "provenance": "measured"}
    entries: dict[Block, Entry] = {}
    lines: dict[Block, int] = {}
    for line, row in sheet:
        where = f"{path}, line {line}"
        if missing := [name for name in NEEDED if name not in row]:
            raise TableError(f"{where}: ends before {missing[0]}; is it cut off?")
        given = {name: cell for name, cell in row.items() if cell}
        full = dict.fromkeys(NEEDED, "") | defaults | given
        add_row(entries, lines, line, where, full)
    return entries, sheet.remark


def _written(value: object) -> str:
    """Return a value as a cell of our tables has it."""
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return str(int(value)) if isinstance(value, bool) else str(value)
