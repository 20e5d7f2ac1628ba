"""Transfer of a table to a new device: what it finds, where it falls back, what it writes."""

import csv
import json
import math
import random
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from lut.calibrate import Calibrate
from lut.calibration.points import Point, read_points
from lut.calibration.propose import propose
from lut.calibration.transfer import FACTORS, GROUP_NAMES, transfer
from lut.device import SHIPPED, find_table, get_device, user_data_dir
from lut.rows import Entry
from lut.sidecar import Sidecar
from lut.table import load_table
from lut.terms import NetworkTerms
from nas.predict import Predict
from nas.search import SearchCommand
from results.console import main
from results.errors import TableError
from supernet.blocks import blocks_of
from supernet.official import named_arch
from supernet.spaces import get_space

PUBLISHED = Path(__file__).parents[1] / "results" / "published" / "points"
SPACE = get_space("b")
ORIN = load_table(SHIPPED / "tables" / "orin-tensorrt-fp16.csv")
NOISE = 0.02
# Twice as slow at arithmetic, five times at memory, and nearly as quick to launch.
SLOWER = {"conv": 2.0, "memory": 5.0, "launch": 1.2}


def archs(count, seed):
    rng = random.Random(seed)
    return [SPACE.sample(rng) for _ in range(count)]


def another_device(source=ORIN):
    """The source's physics with other rates, written out here once more."""
    physics = source.roofline
    assert physics is not None
    moved = replace(
        physics,
        conv_gmacs_per_s=physics.conv_gmacs_per_s / SLOWER["conv"],
        macs_per_byte=physics.bandwidth_gb_s**-1 * SLOWER["memory"] * physics.conv_gmacs_per_s
        / SLOWER["conv"],
        launch_us=physics.launch_us * SLOWER["launch"],
    )  # fmt: skip
    return replace(source, entries={}, roofline=moved, terms=NetworkTerms(ms_per_mb=0.3))


def timed(networks, truth, noise=NOISE, seed=0):
    rng = random.Random(seed)
    return [
        Point(arch, "custom", truth(blocks_of(arch)) * math.exp(rng.gauss(0, noise)))
        for arch in networks
    ]


def rows_only(source=ORIN, networks=()):
    """The source as a measured table: rows, and no model."""
    blocks = {replace(b, inputs=(), name="") for arch in networks for b in blocks_of(arch)}
    entries = {block: Entry(source.entry(block).latency_ms, 0.0, 20) for block in blocks}
    return replace(source, entries=entries, roofline=None, sidecar=Sidecar())


def as_table(found, blocks=()):
    """What `lut.calibrate` writes, in memory."""
    entries = {block: found.entry(block) for block in found.source.entries}
    roofline = found.roofline(found.source.precision)
    return replace(found.source, entries=entries, terms=found.terms, roofline=roofline)


def mape(table, networks, truth):
    errors = [table.network_ms(blocks_of(a)) / truth(blocks_of(a)) - 1 for a in networks]
    return 100 * sum(map(abs, errors)) / len(errors)


def scaled_mape(points, networks, truth, source=ORIN):
    """The textbook: one factor on the source's latency, by the geometric mean."""
    logs = [math.log(p.latency_ms / source.network_ms(blocks_of(p.arch))) for p in points]
    factor = math.exp(sum(logs) / len(logs))
    errors = [factor * source.network_ms(blocks_of(a)) / truth(blocks_of(a)) - 1 for a in networks]
    return 100 * sum(map(abs, errors)) / len(errors)


@pytest.mark.parametrize("count", [10, 30])
def test_a_device_with_other_rates_is_met_where_one_scale_fails(count):
    truth = another_device().network_ms
    unseen = archs(60, seed=1)
    points = timed(archs(count, seed=2), truth)
    found = transfer(points, ORIN, "tensor_core_gpu")
    error = mape(as_table(found), unseen, truth)
    assert found.spread > 0
    assert error < 4
    assert error < scaled_mape(points, unseen, truth) / 3
    # and it says about itself what is true of networks that it has not seen
    assert abs(found.calibration.summary.mape_percent - error) < 2.5


def test_rows_of_a_measured_table_move_by_what_limits_them():
    truth = another_device().network_ms
    known, unseen = archs(30, seed=3), archs(60, seed=4)
    source = rows_only(networks=known + unseen)
    points = timed(known, truth)
    found = transfer(points, source, "tensor_core_gpu")
    error = mape(as_table(found), unseen, truth)
    assert error < 6
    assert error < scaled_mape(points, unseen, truth) / 2
    assert as_table(found).roofline is None


def test_kinds_of_block_get_factors_where_the_source_is_measured():
    """A runtime that takes three times as long for attention, whatever its shape."""

    def truth(blocks):
        return sum(
            ORIN.entry(b).latency_ms * (3.0 if b.kind == "relu_linear" else 1.0) for b in blocks
        )

    known, unseen = archs(30, seed=5), archs(60, seed=6)
    points = timed(known, truth, noise=0.0)
    found = transfer(points, rows_only(networks=known + unseen), "tensor_core_gpu")
    assert set(found.factors) == {*FACTORS, *GROUP_NAMES}
    assert mape(as_table(found), unseen, truth) < scaled_mape(points, unseen, truth) / 3


@pytest.mark.parametrize("measured", [False, True])
def test_a_device_that_is_slower_at_everything_is_one_scale(measured):
    """Ten noisy points of 7 times the source: wide factors would only follow the noise."""

    def truth(blocks):
        return 7 * ORIN.network_ms(blocks)

    known, unseen = archs(10, seed=7), archs(30, seed=8)
    source = rows_only(networks=known + unseen) if measured else ORIN
    found = transfer(timed(known, truth), source, "tensor_core_gpu")
    assert found.spread == 0
    assert found.calibration.parameters == pytest.approx({"scale": 7.0}, rel=0.02)
    assert mape(as_table(found), unseen, truth) < 2
    for block, entry in as_table(found).entries.items():
        ratio = entry.latency_ms / ORIN.entry(block).latency_ms
        assert ratio == pytest.approx(found.factors["memory"], rel=1e-4)
        assert entry.provenance == "calibrated"
        assert (entry.num_samples, entry.energy_mj) == (0, None)


def test_the_same_points_give_the_same_table_in_any_order():
    points = timed(archs(12, seed=9), another_device().network_ms)
    first, again = (transfer(points, ORIN, "tensor_core_gpu") for _ in range(2))
    assert (first.factors, first.calibration) == (again.factors, again.calibration)
    back = transfer(points[::-1], ORIN, "tensor_core_gpu")
    assert dict(back.factors) == pytest.approx(dict(first.factors), rel=0.02)


def test_leaving_out_hides_every_row_of_the_architecture(monkeypatch):
    """At one spread: its choice alone has seen, in the fits of others, what is left out."""
    monkeypatch.setattr("lut.calibration.transfer.SPREADS", (0.8,))
    points = [p for p in read_points(PUBLISHED / "jetson-nano.csv") if p.fitted]
    before = transfer(points, ORIN, "gpu").calibration.rows
    b2 = [i for i, point in enumerate(points) if point.name == "b2"]
    assert len(b2) > 1
    changed = [
        replace(p, latency_ms=p.latency_ms * 1.7) if i in b2 else p for i, p in enumerate(points)
    ]
    after = transfer(changed, ORIN, "gpu").calibration.rows
    assert [after[i].leave_out_ms for i in b2] == pytest.approx(
        [before[i].leave_out_ms for i in b2], rel=1e-3
    )
    others = [i for i in range(len(points)) if i not in b2]
    assert any(abs(after[i].leave_out_ms / before[i].leave_out_ms - 1) > 0.05 for i in others)


@pytest.mark.parametrize(
    ("name", "source", "processor", "percent"),
    [
        ("orin", "jetson-nano-tensorrt-fp16", "tensor_core_gpu", 3.5),
        ("orin", "a100-tensorrt-fp16", "tensor_core_gpu", 3.5),
        ("jetson-nano", "orin-tensorrt-fp16", "gpu", 6.5),
    ],
)
def test_published_latencies_follow_from_another_devices_table(name, source, processor, percent):
    points = [p for p in read_points(PUBLISHED / f"{name}.csv") if p.fitted]
    found = transfer(points, load_table(SHIPPED / "tables" / f"{source}.csv"), processor)
    assert found.calibration.summary.mape_percent < percent
    assert found.calibration.summary.mape_percent < found.errors[0.0] / 3  # of one scale
    assert found.calibration.summary.kendall_tau > 0.95


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_blocks_that_no_row_lists_move_like_rows_at_any_precision(scale):
    source = replace(ORIN, terms=replace(ORIN.terms, scale=scale))
    found = transfer(timed(archs(12, seed=10), another_device().network_ms), source, "gpu")
    assert found.spread > 0
    blocks = [b for arch in archs(5, seed=11) for b in blocks_of(arch)]
    for precision in ("fp16", "fp32", "int8"):
        physics = found.roofline(precision)
        assert physics is not None
        for block in blocks:
            moved_ms = physics.block_ms(block, 1, precision)
            assert moved_ms == pytest.approx(found.entry(block).latency_ms, rel=1e-4)


def test_a_cache_is_moved_to_another_precision():
    source = load_table(SHIPPED / "tables" / "snapdragon8gen1-litert-fp32.csv")
    assert source.roofline is not None
    assert source.roofline.cache_mb > 0
    found = transfer(timed(archs(6, seed=12), another_device(source).network_ms), source, "cpu")
    physics = found.roofline("int8")
    assert physics is not None
    for block in blocks_of(named_arch("b1")):
        assert physics.block_ms(block, 1, "int8") == pytest.approx(
            found.entry(block).latency_ms, rel=1e-4
        )


def test_a_larger_block_is_never_cheaper_on_the_new_device():
    found = transfer(timed(archs(12, seed=13), another_device().network_ms), ORIN, "gpu")
    for block in {b for b in blocks_of(named_arch("b2")) if b.kind in ("mbconv", "relu_linear")}:
        taller = replace(block, height=2 * block.height)
        assert found.entry(taller).latency_ms > found.entry(block).latency_ms


def test_scale_and_terms_of_the_source_count():
    """A source of rows / 2 with scale 2 and an offset is the same device."""
    truth = another_device().network_ms
    networks = archs(12, seed=14)
    plain = rows_only(networks=networks)
    halved = {b: replace(e, latency_ms=e.latency_ms / 2) for b, e in plain.entries.items()}
    scaled = replace(plain, entries=halved, terms=replace(plain.terms, scale=2.0))
    first, second = (transfer(timed(networks, truth), s, "gpu") for s in (plain, scaled))
    for arch in networks:
        ms = [as_table(f).network_ms(blocks_of(arch)) for f in (first, second)]
        assert ms[0] == pytest.approx(ms[1], rel=0.02)
    assert second.terms.scale == 1


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_what_a_measured_source_adds_beyond_blocks_moves_along(factor):
    """Times by parameters and by peak activations, which other terms cannot stand for."""
    known, unseen = archs(8, seed=31), archs(20, seed=32)
    plain = rows_only(networks=known + unseen)
    terms = replace(plain.terms, fixed_ms=0.02, ms_per_m_params=0.01, ms_per_peak_mb=0.02)
    source = replace(plain, terms=terms)

    def truth(blocks):
        return factor * source.network_ms(blocks)

    rest_ms = [source.network_ms(blocks_of(a)) - plain.network_ms(blocks_of(a)) for a in unseen]
    assert min(rest_ms) > 0.1 * min(plain.network_ms(blocks_of(a)) for a in unseen)
    found = transfer(timed(known, truth, noise=0.0), source, "tensor_core_gpu")
    assert found.spread == 0
    assert mape(as_table(found), unseen, truth) < 0.1
    assert found.calibration.summary.mape_percent < 0.1


def test_the_decoder_is_timed_kept_or_gone():
    sam = [named_arch("sam_l0"), named_arch("sam_l1"), named_arch("sam_l2")]
    others = [named_arch("l1"), named_arch("b1"), named_arch("b3")]

    def points(includes):
        return [
            Point(a, "x", 2 * ORIN.network_ms(blocks_of(a)) + 5.0 * bool(includes), 1, 0, includes)
            for a in sam
        ] + [Point(a, "x", 2 * ORIN.network_ms(blocks_of(a))) for a in others]

    alone = transfer(points("")[3:], ORIN, "tensor_core_gpu")
    assert alone.terms.decoder_ms == pytest.approx(2 * ORIN.terms.decoder_ms, rel=1e-3)
    assert transfer(points(""), ORIN, "tensor_core_gpu").terms.decoder_ms == 0
    found = transfer(points("mask_decoder"), ORIN, "tensor_core_gpu")
    assert found.terms.decoder_ms == pytest.approx(2 * ORIN.terms.decoder_ms + 5, rel=0.1)
    bare = replace(ORIN, terms=replace(ORIN.terms, decoder_ms=0.0))
    found = transfer(points("mask_decoder"), bare, "tensor_core_gpu")
    assert found.terms.decoder_ms == pytest.approx(2 * ORIN.terms.decoder_ms + 5, rel=0.1)


def test_points_that_cannot_be_transferred_are_refused():
    points = timed(archs(3, seed=15), ORIN.network_ms)
    with pytest.raises(TableError, match="kind"):
        transfer([replace(p, kind="issue") for p in points], ORIN, "gpu")
    with pytest.raises(TableError, match="another"):
        transfer(points[:1], ORIN, "gpu")
    with pytest.raises(TableError, match="batch 8"):
        transfer([replace(points[0], batch=8), *points], ORIN, "gpu")
    with pytest.raises(TableError, match="no latency for"):
        transfer(points, rows_only(networks=[points[0].arch]), "gpu")
    nothing = rows_only(networks=[p.arch for p in points])
    nothing = replace(nothing, entries=dict.fromkeys(nothing.entries, Entry(0.0)))
    with pytest.raises(TableError, match="above 0 ms"):
        transfer(points, nothing, "gpu")


def test_compared_kinds_are_listed_but_do_not_move_the_transfer():
    points = timed(archs(8, seed=16), another_device().network_ms)
    stray = replace(points[0], latency_ms=99 * points[0].latency_ms, kind="issue")
    alone, beside = (transfer(p, ORIN, "gpu") for p in (points, [*points, stray]))
    assert dict(beside.factors) == pytest.approx(dict(alone.factors), rel=1e-6)
    assert beside.calibration.summary.num_rows == len(points)
    assert beside.calibration.rows[-1].leave_out_error_percent < -90


# --- what to time next ---------------------------------------------------------------------


def test_proposed_networks_teach_more_than_random_ones():
    """On a device with other rates, at ten points each, over several draws."""
    truth = another_device().network_ms
    unseen = archs(60, seed=20)
    errors: dict[str, list[float]] = {"proposed": [], "random": []}
    for seed in range(3):
        proposed = [a for a, _ in propose(8, ORIN, SPACE, [], "tensor_core_gpu", seed)]
        for name, networks in (("proposed", proposed), ("random", archs(8, seed=30 + seed))):
            found = transfer(timed(networks, truth, seed=seed), ORIN, "tensor_core_gpu")
            errors[name].append(mape(as_table(found), unseen, truth))
    assert sum(errors["proposed"]) < sum(errors["random"])


def test_proposed_networks_spread_over_the_range_and_are_new():
    measured = timed(archs(4, seed=21), ORIN.network_ms)
    found = propose(10, ORIN, SPACE, measured, "tensor_core_gpu")
    ms = [own for _, own in found]
    assert ms == sorted(ms)
    assert all(own == pytest.approx(ORIN.network_ms(blocks_of(arch))) for arch, own in found)
    assert all(arch in SPACE for arch, _ in found)
    assert len({arch for arch, _ in found} | {p.arch for p in measured}) == 14
    typical = sorted(ORIN.network_ms(blocks_of(a)) for a in archs(200, seed=22))
    assert ms[0] < typical[40]
    assert ms[-1] > typical[160]
    again = propose(10, ORIN, SPACE, measured, "tensor_core_gpu")
    assert found == again != propose(10, ORIN, SPACE, measured, "tensor_core_gpu", seed=1)


def test_what_is_known_changes_what_is_proposed():
    known = [replace(p, latency_ms=100 * p.latency_ms) for p in timed(archs(30, 23), lambda _: 1.0)]
    fresh, later = (propose(5, ORIN, SPACE, m, "gpu") for m in ([], known))
    assert fresh != later


def test_impossible_proposals_are_refused():
    with pytest.raises(TableError, match="1 to"):
        propose(0, ORIN, SPACE, [], "gpu")
    (part,) = get_space("tiny").parts
    fixed = {name: choices[:1] for name, choices in part.dimensions.items()}
    few = replace(part, dimensions=fixed | {"stage4.depth": (1, 2, 3)})
    with pytest.raises(TableError, match="3 networks left to time, not 4"):
        propose(4, ORIN, replace(SPACE, parts=(few,)), [], "gpu")


# --- the command ---------------------------------------------------------------------------


@pytest.fixture
def points_file(tmp_path):
    path = tmp_path / "points.csv"
    truth = another_device().network_ms
    names = [("b0", 224), ("b1", 224), ("b1", 288), ("b2", 224), ("b3", 224), ("l1", 224)]
    lines = ["arch,resolution,latency_ms"]
    for name, side in names:
        ms = truth(blocks_of(named_arch(name, resolution=(side, side))))
        lines.append(f"{name},{side},{ms}")
    path.write_text("\n".join(lines))
    return path


def calibrate(*flags):
    main(Calibrate, "lut.calibrate", list(map(str, flags)))


def test_a_transferred_table_is_found_and_tells_its_origin(points_file, capsys):
    flags = ("--device", "desk:tensorrt:fp32", "--points", points_file)
    calibrate(*flags, "--from", "orin", "--title", "My desk")
    shown = " ".join(capsys.readouterr().out.split())
    assert "from Jetson AGX Orin, tensorrt fp16: times as long are convolution" in shown
    assert "a physical fit without --from: error" in shown
    assert "next: python -m nas.search --device desk" in shown
    table = load_table(find_table(get_device("desk"), 1))
    truth = another_device().network_ms
    for name in ("b1", "b2"):
        blocks = blocks_of(named_arch(name, resolution=(256, 256)))
        assert table.network_ms(blocks) == pytest.approx(truth(blocks), rel=0.1)
    assert set(table.entries) == set(ORIN.entries)
    assert table.provenance == "calibrated"
    assert (table.title, table.precision, table.threads) == ("My desk", "fp32", None)
    sidecar = table.sidecar.written
    origin = sidecar["transfer"]["from"]
    assert origin["sha256"] == ORIN.sha256
    assert (origin["device"], origin["table"]) == ("orin", "orin-tensorrt-fp16.csv")
    assert sidecar["note"] == "transferred from Jetson AGX Orin, tensorrt fp16"
    assert sidecar["validation"] is None
    assert len(sidecar["calibration"]["rows"]) == 6
    shipped = load_table(SHIPPED / "tables" / "jetson-nano-tensorrt-fp16.csv").sidecar.written
    assert set(sidecar["error"]) == set(shipped["error"])
    judged_on = table.sidecar.error.judged_on or ""
    assert judged_on.endswith("each architecture left out of the transfer in turn")


def test_a_table_is_named_by_its_file_as_well(points_file, tmp_path, capsys):
    networks = [p.arch for p in read_points(points_file)]
    source = rows_only(networks=networks)
    source.save(tmp_path / "measured.csv")
    out = tmp_path / "out"
    flags = ("--device", "desk:tensorrt:fp16", "--points", points_file, "--out", out)
    calibrate(*flags, "--from", tmp_path / "measured.csv", "--report", tmp_path / "page")
    assert "not in this table" in " ".join(capsys.readouterr().out.split())
    table = load_table(out / "desk-tensorrt-fp16.csv")
    assert set(table.entries) == set(source.entries)
    assert table.roofline is None
    assert "left out" in (tmp_path / "page" / "desk.md").read_text()
    calibrate(*flags, "--from", tmp_path / "measured.csv", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["from"]["device"] == "orin"
    assert answer["num_rows"] == 6
    assert answer["physical_mape_percent"] > 0


def test_proposed_points_are_filled_in_and_transferred(points_file, tmp_path, capsys):
    path = tmp_path / "next.csv"
    calibrate("--propose", 6, "--from", "orin", "--space", "b", "--points", points_file,
              "--out-points", path)  # fmt: skip
    assert "fill in latency_ms" in capsys.readouterr().out
    with pytest.raises(TableError, match="exactly one of latency_ms"):
        read_points(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        row["latency_ms"] = row["notes"].partition(" ")[0]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    calibrate("--device", "desk:tensorrt:fp16", "--points", path, "--from", "orin", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["mape_percent"] < 1
    calibrate("--propose", 2, "--from", "orin", "--json")
    assert len(json.loads(capsys.readouterr().out)["networks"]) == 2
    calibrate("--propose", 2, "--from", "a100")
    printed = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["batch"] for row in printed] == ["64", "64"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--from", "orinn"], "did you mean 'orin'"),
        (["--from", "nowhere.csv"], "nowhere"),
        (["--from", "orin:litert"], "no table orin-litert-fp16"),
        (["--from", "orin", "--propose", "0"], "1 to 200"),
        (["--from", "orin", "--propose", "3", "--space", "bb"], "no space 'bb'"),
        (["--propose", "3"], "--propose needs --from"),
        (["--out-points", "x.csv"], "--propose N"),
    ],
)
def test_bad_flags_are_one_line(fails, points_file, flags, says):
    common = ("--device", "desk:tensorrt:fp16", "--points", points_file)
    assert says in fails(Calibrate, "lut.calibrate", *common, *flags)
    assert not (user_data_dir() / "tables").exists()


def test_batches_are_transferred_one_at_a_time(fails, tmp_path, capsys):
    path = tmp_path / "points.csv"
    rows = ["b0,1,10", "b1,1,20", "b2,8,300"]
    path.write_text("arch,batch,latency_ms\n" + "\n".join(rows))
    flags = ("--device", "desk:tensorrt:fp16", "--points", path)
    assert "batches 1, 8" in fails(Calibrate, "lut.calibrate", *flags, "--from", "orin")
    path.write_text("arch,batch,latency_ms\nb0,64,100\nb1,64,200\nb2,64,500\n")
    assert "no table orin-tensorrt-fp16-b64" in fails(
        Calibrate, "lut.calibrate", *flags, "--from", "orin"
    )
    calibrate(*flags, "--from", "a100", "--json")
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert load_table(Path(table)).batch == 64


def test_a_network_outside_a_measured_source_names_its_row_and_a_cure(fails, tmp_path):
    """Of lut.calibrate itself: no flag of a calibration takes another space."""
    path = tmp_path / "points.csv"
    path.write_text("arch,latency_ms\nb0,4\nl1,30\nb1,10\nb2,30\n")
    flags = ("--device", "desk:onnxruntime:fp32", "--points", path)
    source = ("--from", "example-cpu:onnxruntime")
    cure = "a block of l1 in row 3 of the points; leave that row out"
    said = fails(Calibrate, "lut.calibrate", *flags, *source)
    assert cure in said
    assert "--space" not in said
    more = ("--propose", "3", "--space", "b")
    assert cure in fails(Calibrate, "lut.calibrate", "--points", path, *source, *more)


def test_a_contradiction_writes_no_table(fails, tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("arch,latency_ms\nb0,40\nb1,2\nb2,57\nb3,1.4\n")
    flags = ("--device", "desk:tensorrt:fp16", "--points", path, "--from", "orin")
    assert "contradict each other" in fails(Calibrate, "lut.calibrate", *flags)


def test_a_source_that_is_too_unlike_says_what_is_better(fails, tmp_path):
    """A phone's CPU from a data centre's GPU, by few points that allow one scale alone."""
    path = tmp_path / "points.csv"
    path.write_text("arch,resolution,latency_ms\nb1,224,19\nb3,224,140\nb3,288,228\n")
    flags = ("--device", "desk:litert:fp32", "--points", path)
    said = fails(Calibrate, "lut.calibrate", *flags, "--from", "a100:tensorrt:fp16")
    assert "by a physical fit; leave --from out" in said


FEW = ("--trials", "10", "--evaluations", "9000")


def next_of(out):
    (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
    module, *arguments = shlex.split(line.removeprefix("next: python -m "))
    return module, arguments


def test_what_a_measured_source_covers_is_searched_next(tmp_path, capsys):
    """It was measured for the networks of one space, which the new table serves, too."""
    path = tmp_path / "points.csv"
    path.write_text("arch,resolution,latency_ms\nb0,224,4\nb1,224,20\nb2,224,57\nb1,288,33\n")
    flags = ("--device", "desk:onnxruntime:fp32", "--points", path, "--from", "example-cpu")
    for out in ((), ("--out", tmp_path / "a folder")):
        calibrate(*flags, *out)
        module, arguments = next_of(capsys.readouterr().out)
        assert module == "nas.search"
        run = tmp_path / f"run{len(out)}"
        main(SearchCommand, module, [*arguments, *FEW, "--out", str(run), "--quiet"])
        candidates = json.loads((run / "front.json").read_text())["candidates"]
        assert {candidate["arch"]["family"] for candidate in candidates} == {"b"}
    name = "desk-onnxruntime-fp32.json"
    source = (SHIPPED / "tables" / "example-cpu-onnxruntime-fp32.json").read_text()
    written = (tmp_path / "a folder" / name).read_text()
    assert json.loads(written)["space_flags"] == json.loads(source)["space_flags"]


def test_what_an_unknown_source_covers_is_predicted_next(points_file, tmp_path, capsys):
    """A table that was imported, say, tells no space."""
    networks = [point.arch for point in read_points(points_file)]
    rows_only(networks=networks).save(tmp_path / "measured.csv")
    flags = ("--device", "desk:tensorrt:fp16", "--points", points_file)
    calibrate(*flags, "--from", tmp_path / "measured.csv")
    module, arguments = next_of(capsys.readouterr().out)
    assert module == "nas.predict"
    main(Predict, module, [*arguments, "--json"])
    assert json.loads(capsys.readouterr().out)["latency_ms"] > 0


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"task": "segmentation", "dataset": "cityscapes", "resolution": "512"}, "b0 b1 b2"),
        ({"task": "segmentation", "dataset": "ade20k", "resolution": "512"}, "b1 b2 b3"),
        ({}, "sam_l0 sam_l1 sam_l2"),
        ({}, "sr_x2 sr_w075_x2 sr_x4"),
        ({}, "b0 b1 sam_l0"),
        ({"as": "JSON"}, "sr_x2 sr_w075_x2 sr_x4"),
    ],
)
def test_points_of_any_task_have_a_next_command_that_works(tmp_path, capsys, columns, names):
    columns = dict(columns)
    own = columns.pop("as", "")

    def write(times):
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["arch", "latency_ms", *columns])
            for name, ms in zip(names.split(), times, strict=True):
                arch = named_arch(name).to_json() if own else name
                writer.writerow([arch, ms, *columns.values()])

    path = tmp_path / "points.csv"
    write([1, 1, 1])
    write([ORIN.network_ms(blocks_of(point.arch)) for point in read_points(path)])
    calibrate("--device", "desk:tensorrt:fp16", "--points", path, "--from", "orin")
    module, arguments = next_of(capsys.readouterr().out)
    if module == "nas.predict":
        main(Predict, module, [*arguments, "--json"])
        assert json.loads(capsys.readouterr().out)["device"] == "desk"
        return
    run = tmp_path / "run"
    main(SearchCommand, module, [*arguments, *FEW, "--out", str(run), "--quiet"])
    settings = json.loads((run / "run.json").read_text())["settings"]
    assert (settings["task"] or "classification") == read_points(path)[0].arch.task
