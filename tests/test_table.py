"""Latency tables: a round trip, and every way a hand-edited file can be wrong."""

import csv
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lut.rows import Entry
from lut.sidecar import Sidecar
from lut.table import Table, load_table
from lut.terms import NetworkTerms
from predictors.latency import LatencyPredictor
from results.errors import TableError
from supernet.blocks import blocks_of
from supernet.official import named_arch
from tests.sheets import VARIANTS, WITH_DECIMAL_COMMAS
from tests.strategies import any_arch

BLOCKS = list(dict.fromkeys(blocks_of(named_arch("b1"))))


def a_table(**changes):
    entries = {
        replace(block, inputs=(), name=""): Entry(0.5 + i / 7, 0.01 * i, 20 + i, "measured")
        for i, block in enumerate(BLOCKS)
    }
    fields: dict[str, Any] = {
        "device": "bench",
        "title": "Test bench",
        "runtime": "onnxruntime",
        "precision": "fp32",
        "batch": 1,
        "entries": entries,
        "terms": NetworkTerms(fixed_ms=0.25, ms_per_mb=0.1, scale=0.9),
        "threads": 1,
    }
    return Table(**fields | changes)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "bench-onnxruntime-fp32.csv"
    a_table().save(path)
    return path


milliseconds = st.floats(1e-6, 1e6).map(lambda ms: float(f"{ms:.6g}"))
entries = st.builds(
    Entry,
    milliseconds,
    milliseconds,
    st.integers(0, 10**6),
    st.sampled_from(["measured", "interpolated", "calibrated"]),
    st.none() | milliseconds,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arch=any_arch, data=st.data())
def test_a_table_survives_a_round_trip(tmp_path, arch, data):
    blocks = list(dict.fromkeys(blocks_of(arch)))
    rows = {replace(b, inputs=(), name=""): data.draw(entries) for b in blocks[:6]}
    table = a_table(entries=rows, sidecar=Sidecar.of({"error": {"relative_std": 0.03}}))
    table.save(tmp_path / "t.csv")
    again = load_table(tmp_path / "t.csv")
    assert dict(again.entries) == rows
    assert again.terms == table.terms
    assert again.relative_std == 0.03


def test_a_network_is_offset_plus_scaled_sum(saved):
    table = load_table(saved)
    blocks = blocks_of(named_arch("b1"))
    by_hand = 0.0
    for block in blocks:
        by_hand += 0.9 * table.entries[block].latency_ms
    by_hand += 0.25 + 0.1 * (3 * 224 * 224 + 1000) * 4 / 1e6
    assert table.network_ms(blocks) == pytest.approx(by_hand, rel=1e-12)


def test_the_decoder_is_part_of_promptable_networks_alone():
    terms = NetworkTerms(decoder_ms=2.0)
    assert terms.offset_ms(blocks_of(named_arch("sam_l0")), 1) == 2.0
    assert terms.offset_ms(blocks_of(named_arch("l1")), 1) == 0.0


def test_reordered_rows_and_columns_load(saved):
    table = load_table(saved)
    with saved.open() as file:
        rows = list(csv.reader(file))
    order = list(range(len(rows[0])))
    random.Random(1).shuffle(order)
    body = rows[1:]
    random.Random(2).shuffle(body)
    with saved.open("w", newline="") as file:
        csv.writer(file).writerows([row[i] for i in order] for row in [rows[0], *body])
    assert dict(load_table(saved).entries) == dict(table.entries)


def test_a_missing_block_of_a_rare_kind_names_the_nearest_and_the_cure(saved):
    """Of others it is interpolated, see tests/test_interpolate.py."""
    table = load_table(saved)
    rare = next(b for b in BLOCKS if b.kind == "dsconv")
    assert sum(b.kind == "dsconv" for b in set(BLOCKS)) < 3
    wider = replace(rare, out_channels=rare.out_channels + 8)
    with pytest.raises(TableError) as caught:
        table.entry(wider)
    assert rare.describe() in str(caught.value)
    assert "python -m lut.build --device bench" in str(caught.value)
    assert "python -m lut.calibrate --device bench" in str(caught.value)


def edit(path, change):
    with path.open() as file:
        rows = list(csv.reader(file))
    rows = change(rows) or rows
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def set_cell(column, value):
    def change(rows):
        rows[2][rows[0].index(column)] = value

    return change


def drop_column(column):
    def change(rows):
        index = rows[0].index(column)
        return [row[:index] + row[index + 1 :] for row in rows]

    return change


def rename(column, new):
    def change(rows):
        rows[0][rows[0].index(column)] = new

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_cell("latency_ms", "-0.1"), "line 3: latency_ms is '-0.1'"),
        (set_cell("latency_ms", "nan"), "line 3: latency_ms is 'nan'"),
        (set_cell("latency_ms", "inf"), "line 3: latency_ms is 'inf'"),
        (set_cell("latency_ms", ""), "line 3: latency_ms is ''"),
        (set_cell("latency_std_ms", "-1"), "line 3: latency_std_ms"),
        (set_cell("num_samples", "many"), "line 3: num_samples"),
        (set_cell("in_channels", "16.5"), "line 3: in_channels"),
        (set_cell("kind", "mbconf"), "did you mean 'mbconv'"),
        (set_cell("norm", "bacth"), "did you mean 'batch'"),
        (set_cell("activation", "hswich"), "did you mean 'hswish'"),
        (set_cell("provenance", "guessed"), "no provenance 'guessed'"),
        (drop_column("kernel_size"), "column 'kernel_size' is missing"),
        (drop_column("latency_ms"), "column 'latency_ms' is missing"),
        (rename("latency_ms", "latency_us"), "found 'latency_us', convert it to milliseconds"),
        (rename("stride", "strid"), "unknown column 'strid'; did you mean 'stride'"),
        (lambda rows: [*rows, rows[4]], "the same block as line 5"),
        (lambda rows: rows[:-3], "cut short or was edited"),
        (lambda rows: [*rows[:-1], rows[-1][:5]], "is it cut off?"),
        (lambda rows: [[*row, "x"] for row in rows], "unknown column 'x'"),
        (lambda rows: [[*row, row[0]] for row in rows], "stands twice"),
        (lambda rows: rows[:1], "no rows"),
    ],
)
def test_a_hand_edited_table_is_refused_in_one_line(saved, change, says):
    edit(saved, change)
    with pytest.raises(TableError) as caught:
        load_table(saved)
    assert says in str(caught.value)
    assert saved.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(saved):
    text = saved.read_text()
    for length in (0, 10, len(text) // 2, len(text) - 3):
        saved.write_text(text[:length])
        with pytest.raises(TableError, match=saved.name):
            load_table(saved)


def test_binary_and_missing_files_are_refused(saved, tmp_path):
    with pytest.raises(TableError, match="cannot read"):
        load_table(tmp_path / "none.csv")
    saved.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TableError, match="it is not text"):
        load_table(saved)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.update(schema_version=99),
        lambda d: d.pop("network_terms"),
        lambda d: d.update(network_terms={"fixed_ms": -1}),
        lambda d: d.update(network_terms={"fixed": 1}),
        lambda d: d.update(roofline={"speed": 1}),
        lambda d: d.pop("batch"),
        lambda d: d.update(batch=0),
        lambda d: d.update(precision="fp64"),
        lambda d: d.update(error=[1]),
        lambda d: d.update(title=None),
        lambda d: d.update(device=float("nan")),
        lambda d: d.update(error={"block_kinds": 5}),
        lambda d: d.update(error={"relative_std": "low"}),
        lambda d: d.update(error={"min_ms": float("nan")}),
    ],
)
def test_a_damaged_sidecar_is_refused(saved, damage):
    sidecar = saved.with_suffix(".json")
    data = json.loads(sidecar.read_text())
    damage(data)
    sidecar.write_text(json.dumps(data))
    with pytest.raises(TableError):
        load_table(saved)


def test_what_was_never_checked_may_be_null(saved):
    sidecar = saved.with_suffix(".json")
    data = json.loads(sidecar.read_text())
    data["error"] = {"relative_std": None, "block_kinds": []}
    sidecar.write_text(json.dumps(data))
    assert load_table(saved).relative_std is None


def test_what_a_spreadsheet_writes_loads(saved):
    table = load_table(saved)
    text = saved.read_text().replace("\n", "\r\n")
    saved.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert dict(load_table(saved).entries) == dict(table.entries)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_table_that_was_saved_again_loads(saved, variant):
    table = load_table(saved)
    with saved.open(newline="") as file:
        rows = list(csv.reader(file))
    saved.write_bytes(VARIANTS[variant](rows))
    again = load_table(saved)
    assert dict(again.entries) == dict(table.entries)
    described = LatencyPredictor(again).describe()
    assert ("decimal points" in described) == (variant in WITH_DECIMAL_COMMAS)


def test_fields_that_a_spreadsheet_leaves_out_at_the_end_may_be_missing(saved):
    """Excel writes no delimiters behind the last cell that holds anything, in some rows."""
    with saved.open(newline="") as file:
        names, *rows = list(csv.reader(file))
    with saved.open("w", newline="") as file:
        csv.writer(file).writerows([[*names, "energy_mj"], [*rows[0], "1.5"], *rows[1:]])
    energies = [entry.energy_mj for entry in load_table(saved).entries.values()]
    assert energies == [1.5, *[None] * (len(rows) - 1)]


@pytest.mark.parametrize(
    "change",
    [
        {"note": 5},
        {"note": "x" * 20_000},
        {"title": ["x"]},
        {"device": "a\x1b[2Jb"},
        {"runtime": "on nx"},
        {"batch": True},
        {"batch": 10**400},
        {"batch": 1.0},
        {"threads": -1},
        {"threads": "1"},
        {"num_rows": 10**400},
        {"num_rows": "x" * 20_000},
        {"network_terms": {"fixed_ms": 10**400}},
        {"network_terms": {"fixed_ms": True}},
        {"network_terms": {"x" * 20_000: 1.0}},
        {"network_terms": {"scale": 1e-320, "fixed_ms": 1e300}},
        {"roofline": {"conv_gmacs_per_s": "fast", "macs_per_byte": 1.0}},
        {"roofline": [1]},
        {"error": {"mape_percent": 10**400}},
        {"error": {"judged_on": 5}},
        {"error": {"block_kinds": [5]}},
        {"space_flags": {"freeze": "resolution=224"}},
        {"space_flags": {"num_classes": -1}},
        {"space_flags": []},
        {"measurement": {"networks": {"arch": 1}}},
        {"measurement": {"environment": {"cpus": "all"}}},
        {"calibration": {"processor": 5}},
    ],
    ids=lambda change: str(change)[:40],
)
def test_a_sidecar_of_other_types_is_one_short_line(saved, change):
    path = saved.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(TableError) as caught:
        load_table(saved)
    assert saved.stem in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "9" * 5000])
def test_a_sidecar_with_numbers_that_are_none_is_one_line(saved, number):
    path = saved.with_suffix(".json")
    text = path.read_text()
    for field in ('"batch": 1', '"num_rows"'):
        path.write_text(text.replace(field, f'"more": {number}, {field}', 1))
        with pytest.raises(TableError, match=saved.stem):
            load_table(saved)


def test_a_nested_sidecar_is_one_line(saved):
    path = saved.with_suffix(".json")
    for deep in ("[" * 100_000, '{"a":' * 100_000):
        path.write_text(path.read_text().replace("{", f'{{"more": {deep}, ', 1))
        with pytest.raises(TableError, match="nested too deep"):
            load_table(saved)


def test_what_a_table_is_called_holds_no_escapes(saved):
    path = saved.with_suffix(".json")
    change = {
        "title": "\x1b]0;gone\x07\x1b[31mBoard\n\u202e" + "x" * 9000,
        "note": "\x1b[2J" + "y" * 9000,
        "error": {"mape_percent": 1.0, "judged_on": "\x1b[2Jz"},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    table = load_table(saved)
    predictor = LatencyPredictor(table)
    for text in (table.title, predictor.note, predictor.describe()):
        assert text.isprintable()
        assert len(text) < 2500


def test_what_the_program_does_not_read_of_a_sidecar_is_kept(saved):
    sidecar = Sidecar.of({"mine": {"x": [1, None, "y"]}, "error": {}})
    table = replace(load_table(saved), sidecar=sidecar)
    table.save(saved)
    assert load_table(saved).sidecar.written["mine"] == {"x": [1, None, "y"]}


def test_a_file_has_its_hash(saved):
    first = load_table(saved).sha256
    saved.write_text(saved.read_text().replace("measured", "interpolated", 1))
    assert load_table(saved).sha256 != first


def test_a_fixed_offset_is_shared_by_a_batch():
    blocks = blocks_of(named_arch("b0"))
    terms = NetworkTerms(fixed_ms=8.0)
    assert a_table(terms=terms, batch=16).offset_ms(blocks) == 0.5


def test_provenance_is_the_weakest_of_the_rows():
    table = a_table()
    assert table.provenance == "measured"
    mixed = dict(table.entries) | {next(iter(table.entries)): Entry(1.0, provenance="interpolated")}
    assert replace(table, entries=mixed).provenance == "interpolated"
