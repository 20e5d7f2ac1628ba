"""Tables of others: every layer becomes the right Block or is named, bad files are one line."""

import json
import os
import random
from dataclasses import replace
from typing import Any

import pytest

from lut.device import Device
from lut.measuring.build import import_to
from lut.measuring.importers import MOST_BYTES, import_table
from lut.measuring.options import BuildOptions
from lut.sidecar import Error
from lut.table import load_table
from results.errors import DeviceError, TableError
from supernet.blocks import Block, blocks_of
from supernet.spaces import get_space
from tests.sheets import VARIANTS, WITH_DECIMAL_COMMAS
from tests.test_table import a_table

NOTE10 = Device("note10", "Note 10", "litert", "fp32")
MBCONV = Block(
    "mbconv", 24, 40, 56, 56, mid_channels=96, kernel_size=5, stride=2, activation="hswish"
)
OFA = """\
Conv-input:224x224x3-output:112x112x16: {count: 50, mean: 1.5, std: 0.1}
expanded_conv-input:112x112x16-output:112x112x16-expand:16-kernel:3-stride:1-idskip:1-se:0-hs:0:
  mean: 0.9
  count: 54
expanded_conv-input:56x56x24-output:28x28x40-expand:96-kernel:5-stride:2-idskip:0-se:0-hs:1:
  {mean: 0.41, std: 2.0e-2, count: 500}
expanded_conv-input:28x28x40-output:28x28x40-expand:160-kernel:3-stride:1-idskip:1-se:1-hs:1:
  {mean: 0.8, std: 0, count: 50}
Conv_1-input:7x7x160-output:7x7x960: {mean: 0.5}
AvgPool2D-input:7x7x960-output:1x1x960: {mean: 0.05}
Conv_2-input:1x1x960-output:1x1x1280: {mean: 0.3}
Logits-input:1x1x1280-output:1000: {mean: 0.25}
"""


def read(tmp_path, text, name="lookup_table.yaml", batch=1):
    path = tmp_path / name
    path.write_text(text)
    return import_table(path, NOTE10, batch, 1)


def test_every_layer_is_a_block_or_is_named(tmp_path):
    table, unknown = read(tmp_path, OFA)
    stem = Block("conv", 3, 16, 224, 224, kernel_size=3, stride=2, activation="hswish")
    first = Block(
        "dsconv", 16, 16, 112, 112, mid_channels=16, kernel_size=3, activation="hswish",
        residual=True,
    )  # fmt: skip
    expected = {
        stem: 1.5,
        first: 0.9,
        replace(first, norm="fewer"): 0.9,
        MBCONV: 0.41,
        replace(MBCONV, norm="fewer"): 0.41,
        Block("conv", 160, 960, 7, 7, activation="hswish"): 0.5,
        Block("pool", 960, 960, 7, 7, norm="none"): 0.05,
        Block("linear", 1280, 1000, 1, 1, norm="none"): 0.25,
    }
    assert {block: entry.latency_ms for block, entry in table.entries.items()} == expected
    entry = table.entries[MBCONV]
    assert (entry.latency_std_ms, entry.num_samples, entry.provenance) == (0.02, 500, "measured")
    assert [key.partition("-")[0] for key in unknown] == ["expanded_conv", "Conv_2"]
    assert "se:1" in unknown[0]


def keys_of(blocks):
    """The blocks' keys as Once-for-All writes them, in its latency_lookup_table.py."""
    for block in blocks:
        size = "x".join(map(str, (block.height, block.width, block.in_channels)))
        out = "x".join(map(str, (*block.out_size, block.out_channels)))
        if block.kind in ("mbconv", "dsconv"):
            yield (
                block,
                (
                    f"expanded_conv-input:{size}-output:{out}-expand:{block.mid_channels}"
                    f"-kernel:{block.kernel_size}-stride:{block.stride}"
                    f"-idskip:{int(block.residual)}-se:0-hs:1"
                ),
            )
        elif block.kind == "conv":
            yield (
                block,
                f"{'Conv' if block.in_channels == 3 else 'Conv_1'}-input:{size}-output:{out}",
            )
        elif block.kind == "pool":
            yield block, f"AvgPool2D-input:{size}-output:{out}"
        elif block.name.endswith("classifier"):
            yield block, f"Logits-input:1x1x{block.in_channels}-output:{block.out_channels}"


def test_our_own_networks_find_their_blocks_again(tmp_path):
    """A table with the keys of our networks gives exactly the blocks of these networks."""
    space, rng = get_space("b"), random.Random(3)
    blocks = [block for _ in range(10) for block in blocks_of(space.sample(rng))]
    keys = {key: (1 + i % 97, block) for i, (block, key) in enumerate(keys_of(blocks))}
    text = "".join(f"{key}: {{mean: {ms}}}\n" for key, (ms, _) in keys.items())
    table, unknown = read(tmp_path, text)
    assert unknown == []
    kinds = {block.kind for _, block in keys.values()}
    assert kinds == {"mbconv", "dsconv", "conv", "pool", "linear"}
    for ms, block in keys.values():
        assert table.entry(block).latency_ms == ms


def test_proxyless_ratios_are_ratios(tmp_path):
    layer = "expanded_conv-input:56x56x24-output:28x28x40-expand:4-kernel:5-stride:2-idskip:0"
    logits = "Logits-input:7x7x1280-output:1000"
    table, unknown = read(tmp_path, f"{layer}: {{mean: 2}}\n{logits}: {{mean: 1}}\n")
    assert set(table.entries) == {MBCONV, replace(MBCONV, norm="fewer")}
    assert unknown == [logits]


def test_hard_swish_goes_before_relu_wherever_it_stands(tmp_path):
    key = "expanded_conv-input:56x56x24-output:28x28x40-expand:96-kernel:5-stride:2-idskip:0-se:0"
    lines = [f"{key}-hs:0: {{mean: 1}}\n", f"{key}-hs:1: {{mean: 2}}\n"]
    for text in ("".join(lines), "".join(reversed(lines))):
        table, unknown = read(tmp_path, text)
        assert table.entries[MBCONV].latency_ms == 2
        assert unknown == [f"{key}-hs:0"]


def test_milliseconds_of_a_batch_become_those_of_an_image(tmp_path):
    table, _ = read(tmp_path, OFA, batch=8)
    assert table.batch == 8
    assert table.entries[MBCONV].latency_ms == pytest.approx(0.41 / 8)
    assert table.entries[MBCONV].latency_std_ms == pytest.approx(0.02 / 8)


@pytest.mark.parametrize(
    "key",
    [
        "expanded_conv-input:56x56x24-output:27x27x40-expand:96-kernel:5-stride:2-idskip:0-se:0-hs:1",
        "expanded_conv-input:56x56x24-output:56x56x40-expand:96-kernel:5-stride:1-idskip:1-se:0-hs:1",
        "expanded_conv-input:56x56x24-output:56x56x24-expand:96-kernel:4-stride:1-idskip:0-se:0-hs:1",
        "expanded_conv-input:0x56x24-output:0x28x40-expand:96-kernel:5-stride:2-idskip:0-se:0-hs:1",
        "expanded_conv-input:56x56x24-output:28x28x40",
        "Conv-input:224x224x3-output:224x224x16",
        "Conv_1-input:14x14x160-output:7x7x960",
        "AvgPool2D-input:7x7x960-output:1x1x961",
        "ResidualBlock-input:7x7x960-output:7x7x960",
        "LinearLayer-input:1280-output:1000",
        f"Conv-input:{'9' * 5000}x224x3-output:112x112x16",
    ],
)
def test_what_is_no_block_of_ours_is_named(tmp_path, key):
    quoted = f"? {key}\n: {{mean: 1}}\n" if len(key) > 500 else f"{key}: {{mean: 1}}\n"
    _, unknown = read(tmp_path, OFA + quoted)
    assert unknown[-1] == key
    with pytest.raises(TableError, match="nothing that is a Block"):
        read(tmp_path, quoted)


KEY = "Conv-input:224x224x3-output:112x112x16"
BOMB = "a: &a {mean: 1}\n" + "".join(
    f"{c}: &{c} {{<<: [{','.join('*' + p for _ in range(9))}]}}\n"
    for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "nothing that is a Block"),
        ("just words", "line 1: not a latency table"),
        ("- 1\n- 2\n", "line 1: not a latency table"),
        (f"{KEY}: 3\n", "line 1: not a latency table"),
        (f"{KEY}: [1, 2]\n", "line 1: not a latency table"),
        (f"{KEY}:\n", "line 1: not a latency table"),
        (f"{KEY}: {{mean: [1]}}\n", "line 1: not a latency table"),
        (f"{KEY}: {{mean: {{a: 1}}}}\n", "line 1: not a latency table"),
        (f"{KEY}: {{? [a] : 1}}\n", "line 1: not a latency table"),
        ("? {a: 1}\n: {mean: 1}\n", "line 1: not a latency table"),
        (f"{KEY}: {{std: 1}}\n", "mean of Conv-input:224x224x3-output:112x112x16 is missing"),
        (f"\n\n{KEY}: {{mean: fast}}\n", "line 3: mean of"),
        (f"{KEY}: {{mean: -1}}\n", "is '-1'"),
        (f"{KEY}: {{mean: .nan}}\n", "is '.nan'"),
        (f"{KEY}: {{mean: nan}}\n", "is 'nan'"),
        (f"{KEY}: {{mean: inf}}\n", "is 'inf'"),
        (f"{KEY}: {{mean: 1, count: 1e400}}\n", "count of"),
        (f"{KEY}: {{mean: 1, std: x}}\n", "std of"),
        (f"{KEY}: {{mean: 1}}\n{KEY}: {{mean: 2}}\n", "line 2: Conv-input"),
        (f"{KEY}: {{mean: 1, mean: 2}}\n", "line 1: 'mean' of Conv-input:224x224x3"),
        (f"{KEY}:\n  mean: 1\n  std: 2\n  std: 2\n", "line 4: 'std' of Conv-input:224x224x3"),
        (f"{KEY}:\n  mean: 1\n  flops: 2\n  'flops': 2\n", "stands twice; remove one of them"),
        (f"{KEY}: {{mean: 1}}\n---\n{KEY}: {{mean: 2}}\n", "line 3"),
        (f"{KEY}: {{mean: 1\n", "line 2: cannot read it"),
        (f"{KEY}: !!python/object/apply:os.system [ls]\n", "python/object/apply:os.system"),
        (f"{KEY}: !!python/object:x.Y {{mean: 1}}\n", "tag"),
        (f"{KEY}: {{mean: !!float 1}}\n", "tag"),
        (BOMB, "line 1: anchors and aliases"),
        (f"{KEY}: {{mean: *a}}\n", "anchors and aliases"),
        ("[" * 50_000, "line 1"),
        ("{" * 50_000, "line 1"),
        (f"{KEY}: {{mean: 1}}\n\x00\n", "cannot read it"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("libyaml", [True, False])
def test_bad_yaml_is_one_line(tmp_path, monkeypatch, libyaml, text, says):
    if not libyaml:
        monkeypatch.delattr("yaml.CSafeLoader", raising=False)
    with pytest.raises(TableError) as caught:
        read(tmp_path, text)
    assert says in str(caught.value)
    assert "lookup_table.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables_are_refused(tmp_path):
    (tmp_path / "table.pkl").write_bytes(b"pickled")
    with pytest.raises(TableError, match=r"lookup table \(\.yaml or \.json\) or a \.csv"):
        import_table(tmp_path / "table.pkl", NOTE10, 1, 1)
    with pytest.raises(TableError, match="cannot read"):
        import_table(tmp_path / "none.yaml", NOTE10, 1, 1)
    huge = tmp_path / "huge.yaml"
    with huge.open("wb") as file:
        file.truncate(MOST_BYTES + 1)  # sparse: takes no space
    with pytest.raises(TableError, match="larger than 32 MB"):
        import_table(huge, NOTE10, 1, 1)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TableError, match="not text"):
        import_table(tmp_path / "binary.yaml", NOTE10, 1, 1)


def test_an_imported_table_is_saved_with_its_origin(tmp_path):
    table, unknown = read(tmp_path, OFA)
    table.save(tmp_path / "note10-litert-fp32.csv")
    again = load_table(tmp_path / "note10-litert-fp32.csv")
    assert dict(again.entries) == dict(table.entries)
    assert (again.device, again.runtime, again.threads) == ("note10", "litert", 1)
    assert again.sidecar.error == Error()
    sidecar = json.loads((tmp_path / "note10-litert-fp32.json").read_text())
    assert sidecar["import"]["not_imported"] == unknown
    assert sidecar["note"] == "imported from lookup_table.yaml"


def test_a_table_is_imported_from_python(tmp_path, capsys):
    table, unknown = read(tmp_path, OFA)
    options = BuildOptions(("note10:litert:fp32",), out=tmp_path / "tables")
    imported = import_to(options, tmp_path / "lookup_table.yaml")
    assert capsys.readouterr() == ("", "")
    assert imported.path == tmp_path / "tables" / "note10-litert-fp32.csv"
    assert dict(load_table(imported.path).entries) == dict(table.entries)
    assert list(imported.unknown) == unknown
    with pytest.raises(DeviceError, match="give one --device"):
        import_to(replace(options, device=()), tmp_path / "lookup_table.yaml")


def test_a_csv_needs_few_columns(tmp_path):
    text = "Kind,in_channels,out_channels,height,width,latency_ms\npool,64,64,7,7,0.25\n,,,,,\n"
    table, unknown = read(tmp_path, text, "mine.csv", batch=4)
    ((block, entry),) = table.entries.items()
    assert block == Block("pool", 64, 64, 7, 7)
    assert (entry.latency_ms, entry.latency_std_ms, entry.num_samples) == (0.25, 0, 0)
    assert (entry.provenance, table.batch, unknown) == ("measured", 4, [])


def test_a_csv_of_a_spreadsheet_is_read(tmp_path):
    text = (
        "kind;in_channels;out_channels;height;width;kernel_size;stride;residual;latency_ms;energy_mj"
        "\r\nconv;3;16;224;224;3;2;;1,5;2,25\r\n"
    )
    table, _ = read(tmp_path, "\ufeff" + text, "mine.csv")
    ((block, entry),) = table.entries.items()
    assert block == Block("conv", 3, 16, 224, 224, kernel_size=3, stride=2)
    assert (entry.latency_ms, entry.energy_mj) == (1.5, 2.25)


def test_our_own_tables_are_imported_as_they_are(tmp_path):
    table = a_table()
    table.save(tmp_path / "ours.csv")
    again, _ = import_table(tmp_path / "ours.csv", NOTE10, 1, None)
    assert again.entries == load_table(tmp_path / "ours.csv").entries


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no row names the columns"),
        ("kind,in_channels,out_channels,height,width\n", "column 'latency_ms' is missing"),
        (
            "kind,in_channels,out_channels,height,width,latency_us\n",
            "convert it to milliseconds as latency_ms",
        ),
        (
            "kind,in_channels,out_channels,height,width,latency\n",
            "convert it to milliseconds as latency_ms",
        ),
        ("kind,in_chanels\n", "did you mean 'in_channels'"),
        ("kind,kind\n", "stands twice"),
        ("{h}pool,64,64,7,7\n", "line 2: ends before latency_ms; is it cut off?"),
        ("{h}pool,64,64,7,7,fast\n", "line 2: latency_ms is 'fast'"),
        ("{h}pool,64,64,7,7,-1\n", "line 2: latency_ms is '-1'"),
        ("{h}pool,64,64,7,7,\n", "line 2: latency_ms is ''"),
        ("{h}pool,64,,7,7,1\n", "line 2: out_channels is ''"),
        ("{h}pol,64,64,7,7,1\n", "did you mean 'pool'"),
        ("{h}pool,0,64,7,7,1\n", "line 2: in_channels cannot be 0"),
        ("{h}pool,-4,64,7,7,1\n", "in_channels cannot be -4"),
        ("{h}pool,64,64,7,7,1\npool,64,64,7,7,2\n", "line 3: the same block as line 2"),
        ("{h}mbconv,24,40,56,56,1\n", "line 2: mbconv needs mid_channels of 1 or more"),
        ("{h}", "nothing that is a Block"),
    ],
)
def test_bad_csv_is_one_line(tmp_path, text, says):
    header = "kind,in_channels,out_channels,height,width,latency_ms\n"
    with pytest.raises(TableError) as caught:
        read(tmp_path, text.replace("{h}", header), "mine.csv")
    assert says in str(caught.value)
    assert "mine.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


HEADS = ("num_heads", "head_dim")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv", "mine.txt", "mine"])
def test_a_csv_is_read_however_it_was_written(tmp_path, variant, name):
    rows: list[list[Any]] = [
        ["kind", "in_channels", "out_channels", "height", "width", *HEADS, "scales", "latency_ms"],
        ["conv", 3, "16.0", 224, 224, "", "", "", 0.5],
        ["relu_linear", "64.0", 64, 14.0, 14, 4, 16, "3+5", 1.25],
    ]
    (tmp_path / name).write_bytes(VARIANTS[variant](rows))
    table, _ = import_table(tmp_path / name, NOTE10, 1, None)
    assert [(b.kind, b.in_channels, b.out_channels, b.scales) for b in table.entries] == [
        ("conv", 3, 16, ()),
        ("relu_linear", 64, 64, (3, 5)),
    ]
    assert [entry.latency_ms for entry in table.entries.values()] == [0.5, 1.25]
    assert ("decimal points" in table.remark) == (variant in WITH_DECIMAL_COMMAS)


@pytest.mark.parametrize("name", ["160_lookup_table.json", "table.yaml", "table.txt", "table"])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_same_table_as_json_gives_the_same(tmp_path, name, indent):
    yaml = pytest.importorskip("yaml")
    by_yaml, unknown = read(tmp_path, OFA)
    (tmp_path / name).write_text(json.dumps(yaml.safe_load(OFA), indent=indent))
    by_json, same = import_table(tmp_path / name, NOTE10, 1, None)
    assert (by_json.entries, same) == (by_yaml.entries, unknown)


@pytest.mark.parametrize("name", ["renamed.txt", "renamed"])
def test_yaml_is_known_by_what_it_holds(tmp_path, name):
    (tmp_path / name).write_text(OFA)
    assert import_table(tmp_path / name, NOTE10, 1, None)[0].entries


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "nothing that is a Block"),
        ("{", "not JSON"),
        ('{"a": [1]}', "damaged, or of another layout"),
        ('{"a":' * 50_000, "table.json"),
        (f'{{"{KEY}": {{"std": 1}}}}', "mean of Conv-input:224x224x3-output:112x112x16 is missing"),
        (f'{{"{KEY}": {{"mean": null}}}}', "mean of"),
        (f'{{"{KEY}": {{"mean": true}}}}', "mean of"),
        (f'{{"{KEY}": {{"mean": [[]]}}}}', "mean of"),
        (f'{{"{KEY}": {{"mean": NaN}}}}', "not JSON"),
        (f'{{"{KEY}": {{"mean": 1e999}}}}', "out of range"),
        (f'{{"{KEY}": {{"mean": {"9" * 400}}}}}', "table.json"),
        (f'{{"{KEY}": {{"mean": 1, "count": {10**400}}}}}', "table.json"),
        (f'{{\n"{KEY}": {{"mean": 1}},\n"{KEY}": {{"mean": 2}}}}', "line 3: Conv-input"),
        (f'{{\n"{KEY}": {{"mean": 1, "mean": 2}}}}', "line 2: 'mean' of Conv-input:224x224x3"),
        (f'{{"{KEY}": {{"mean": 1, "me\\u0061n": 1}}}}', "line 1: 'mean' of Conv-input:224"),
        (f'{{"{KEY}": {{"count": 1, "mean": 1, "count": 3}}}}', "stands twice; remove one"),
    ],
    ids=lambda text: text[:20],
)
def test_bad_json_is_one_line(tmp_path, text, says):
    with pytest.raises(TableError) as caught:
        read(tmp_path, text, "table.json")
    assert says in str(caught.value)
    assert "table.json" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("conv,3,16.5,224,224,0,0,1", "line 2: out_channels is '16.5'; a whole number"),
        ("conv,3,16,224,224,33,0,1", "out_height x out_width cannot be 33x0"),
        ("conv,3,16,224,224,0,33,1", "out_height x out_width cannot be 0x33"),
        ("conv,3,1e9,224,224,0,0,1", "out_channels cannot be 1000000000"),
        ("conv,3," + "9" * 5000 + ",224,224,0,0,1", "out_channels is"),
        ("conv,3,16,224,224,0,0,1e300", "latency_ms is '1e300'"),
        ("conv,3,16,224,224,0,0", "ends before latency_ms; is it cut off?"),
        ("x" * 20_000 + ",3,16,224,224,0,0,1", "no kind"),
    ],
    ids=lambda text: text[:20],
)
def test_bad_rows_are_one_short_line(tmp_path, row, says):
    header = "kind,in_channels,out_channels,height,width,out_height,out_width,latency_ms\n"
    with pytest.raises(TableError) as caught:
        read(tmp_path, header + row + "\n", "mine.csv")
    assert says in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["table.yaml", "table.json"])
def test_the_same_names_in_two_layers_are_no_doubles(tmp_path, name):
    other = KEY.replace("16", "24")
    text = f'{{"{KEY}": {{"mean": 1, "std": 0}}, "{other}": {{"mean": 2, "std": 0}}}}'
    assert len(read(tmp_path, text, name)[0].entries) == 2


def test_a_fifo_is_refused(tmp_path):
    os.mkfifo(tmp_path / "table.json")
    with pytest.raises(TableError, match="regular file"):
        import_table(tmp_path / "table.json", NOTE10, 1, None)
