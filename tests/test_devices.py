"""Devices and their tables: the shipped ones, and those that a user makes."""

import json
import os
import random
import re
import shlex
from dataclasses import replace

import pytest

from lut.build import Build
from lut.calibrate import Calibrate
from lut.calibration.options import CalibrationOptions
from lut.calibration.run import calibrate as make_tables
from lut.calibration.run import propose_points
from lut.device import SHIPPED, find_table, get_device, tables_of, user_data_dir
from lut.table import load_table
from nas.devices import Devices
from nas.predict import Predict
from results.console import main
from results.errors import DeviceError, TableError
from supernet.blocks import blocks_of
from supernet.official import named_arch
from supernet.spaces import SPACES, get_space

POINTS = """arch,resolution,latency_ms
b0,224,4.1
b1,224,19.5
b1,288,31
b2,224,57
b2,256,75
b3,224,143
l1,224,190
l2,224,250
"""


@pytest.fixture
def points(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(POINTS)
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_example_tables_are_measured_whole_and_validated(runtime):
    table = load_table(find_table(get_device(f"example-cpu:{runtime}"), 1))
    assert table.provenance == "measured"
    assert "AMD EPYC" in table.title
    space = get_space("b", freeze=["resolution=128,160,192,224,256,288"])
    arch = space.sample(random.Random(0))
    assert all(table.entries[block].num_samples >= 12 for block in blocks_of(arch))
    validation = table.sidecar.written["validation"]
    assert validation["num_networks"] >= 60
    assert validation["scaled"]["mape_percent"] <= 1.5
    assert validation["scaled"]["within_5_percent"] >= 97


def test_shipped_tables_are_what_calibrating_gives(tmp_path):
    """On another machine the last digits may differ: the fit is floating-point arithmetic."""
    for name in ("snapdragon8gen1", "orin", "a100", "jetson-nano"):
        main(Calibrate, "lut.calibrate", ["--device", name, "--out", str(tmp_path), "--json"])
    tables = (SHIPPED / "tables").iterdir()
    shipped = sorted(path.name for path in tables if not path.name.startswith("example-cpu"))
    assert sorted(path.name for path in tmp_path.iterdir()) == shipped
    for name in shipped:
        if name.endswith(".csv"):
            new, old = load_table(tmp_path / name), load_table(SHIPPED / "tables" / name)
            assert set(new.entries) == set(old.entries)
            for block, entry in old.entries.items():
                assert new.entries[block].latency_ms == pytest.approx(entry.latency_ms, rel=1e-3)
            assert new.sidecar.error.mape_percent == pytest.approx(
                old.sidecar.error.mape_percent, abs=0.05
            )


@pytest.mark.parametrize(
    ("device", "mape_percent", "rows"),
    [("snapdragon8gen1", 5, 13), ("orin", 4, 24), ("a100", 5, 28), ("jetson-nano", 3, 16)],
)
def test_shipped_tables_carry_their_sources_and_errors(device, mape_percent, rows):
    for path in tables_of(device):
        table = load_table(path)
        sidecar = table.sidecar.written
        fitted = [row for row in sidecar["calibration"]["rows"] if row["fitted"]]
        assert len(fitted) == rows
        assert all(row["source"] for row in sidecar["calibration"]["rows"])
        errors = [abs(row["leave_out_error_percent"]) for row in fitted]
        assert table.sidecar.error.mape_percent == pytest.approx(sum(errors) / len(errors))
        assert table.sidecar.error.mape_percent <= mape_percent
        assert table.provenance == "calibrated"
        assert sidecar["validation"] is None


@pytest.mark.parametrize("space", SPACES)
def test_a_table_covers_every_block_of_the_spaces(space):
    import random

    table = load_table(find_table(get_device("orin"), 1))
    rng = random.Random(0)
    for task in ("classification", "segmentation"):
        whole = get_space(space, task=task, nearest_head=False)
        for _ in range(30):
            for block in blocks_of(whole.sample(rng)):
                assert table.entry(block).latency_ms > 0
                assert table.entry(block).provenance == "calibrated"


def test_rows_of_a_shipped_table_equal_its_model():
    table = load_table(find_table(get_device("orin"), 1))
    assert table.roofline is not None
    for block, entry in list(table.entries.items())[::50]:
        model_ms = table.roofline.block_ms(block, 1, "fp16")
        assert entry.latency_ms == pytest.approx(model_ms, rel=1e-5)


def test_a_new_device_is_found_by_name_once_calibrated(points, capsys):
    flags = ["--device", "desk:onnxruntime:fp32", "--points", str(points), "--title", "My desk"]
    main(Calibrate, "lut.calibrate", flags)
    shown = capsys.readouterr().out
    assert "next: python -m nas.search --device desk" in shown
    assert (user_data_dir() / "tables" / "desk-onnxruntime-fp32.csv").exists()
    assert get_device("desk").runtime == "onnxruntime"
    main(Predict, "nas.predict", ["--device", "desk", "--arch", "b2", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["title"] == "My desk"
    assert answer["latency_ms"] == pytest.approx(57, rel=0.1)
    main(Devices, "nas.devices", ["--json"])
    rows = json.loads(capsys.readouterr().out)
    assert "desk" in {row["device"] for row in rows}


def test_a_device_is_calibrated_from_python(points, tmp_path, capsys):
    options = CalibrationOptions(("desk:onnxruntime:fp32",), points, title="My desk", out=tmp_path)
    result = make_tables(options)
    assert capsys.readouterr() == ("", "")
    ((path, table),) = result.tables.items()
    assert path == tmp_path / "desk-onnxruntime-fp32.csv"
    assert dict(load_table(path).entries) == dict(table.entries)
    assert result.calibration.summary.num_rows == 8
    assert result.transfer is None
    assert result.physical_percent is None
    with pytest.raises(TableError, match="--propose N"):
        make_tables(replace(options, out_points=tmp_path / "more.csv"))
    path.unlink()
    with pytest.raises(TableError, match="--propose writes no table; call propose_points"):
        make_tables(replace(options, propose=2))
    assert not path.exists()
    with pytest.raises(DeviceError, match="give one --device"):
        make_tables(replace(options, device=()))


def test_networks_are_proposed_from_python(tmp_path, capsys):
    options = CalibrationOptions(from_="orin", propose=2, out_points=tmp_path / "points.csv")
    proposal = propose_points(options)
    assert capsys.readouterr() == ("", "")
    assert len(proposal.networks) == 2
    assert (tmp_path / "points.csv").read_text() == proposal.to_csv()
    with pytest.raises(TableError, match="--propose needs --from"):
        propose_points(replace(options, from_=None))
    with pytest.raises(TableError, match="--propose N how many networks"):
        propose_points(replace(options, propose=None))


def test_a_table_elsewhere_is_used_as_the_next_command_says(points, tmp_path, capsys):
    flags = ["--device", "desk:litert:fp32", "--points", str(points), "--out", str(tmp_path / "t")]
    main(Calibrate, "lut.calibrate", flags)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    arguments = shlex.split(last.removeprefix("next: python -m nas.search "))
    assert "desk" not in [row["device"] for row in devices(capsys)]
    main(Predict, "nas.predict", [*arguments, "--arch", "b2", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["device"] == "desk"
    assert answer["provenance"]["latency_source"].startswith("own table, calibrated")


def devices(capsys):
    main(Devices, "nas.devices", ["--json"])
    return json.loads(capsys.readouterr().out)


def test_a_users_table_goes_before_the_shipped_one(points, capsys):
    main(Calibrate, "lut.calibrate", ["--device", "orin", "--points", str(points)])
    assert "delete it to go back" in capsys.readouterr().out
    assert next(r["source"] for r in devices(capsys) if r["device"] == "orin").startswith(
        "own table"
    )
    assert find_table(get_device("orin"), 1).is_relative_to(user_data_dir())
    shipped = SHIPPED / "tables" / "orin-tensorrt-fp16.csv"
    assert load_table(shipped).network_ms(blocks_of(named_arch("b2"))) < 10


def test_measured_latencies_are_never_overwritten_by_a_calibration(points, tmp_path, fails):

    from tests.test_table import a_table

    path = tmp_path / "bench-onnxruntime-fp32.csv"
    a_table().save(path)
    before = path.read_bytes()
    flags = ("--device", "bench:onnxruntime:fp32", "--points", points, "--out", tmp_path)
    assert "holds measured latencies" in fails(Calibrate, "lut.calibrate", *flags)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--device", "desk"], "name its runtime and precision"),
        (["--device", "desk:onnxruntime:fp32"], "nothing is published for desk"),
        (["--device", "orin:litert:fp32"], "nothing is published for orin with litert fp32"),
        (["--device", "orin:tensorrt:int8"], "nothing is published for orin with tensorrt int8"),
        (["--device", "../desk:litert:fp32"], "letters, digits"),
        (["--device", "orin", "--processor", "gppu"], "did you mean 'gpu'"),
        ([], "give one --device"),
    ],
)
def test_bad_devices_are_one_line(fails, flags, says):
    assert says in fails(Calibrate, "lut.calibrate", *flags)


def test_bad_points_are_one_line(tmp_path, fails):
    path = tmp_path / "points.csv"
    for text, says in (
        ("arch,latency_ms\nb9,3\n", "b9"),
        ("arch,latency_ms\nb1,-3\n", "latency_ms"),
        ("arch\nb1\n", "latency_ms"),
        ("", "points.csv"),
        ("arch,latency_ms\nb1,3\nb1,4\n", "one architecture"),
        ("arch,latency_ms\nb0,4\nb1,20\nb2,57\nb3,1.4\n", "contradict each other"),
    ):
        path.write_text(text)
        flags = ("--device", "desk:litert:fp32", "--points", path)
        assert says in fails(Calibrate, "lut.calibrate", *flags)


def test_listing_shows_runtime_precision_and_error(run):
    shown = run("nas.devices").stdout
    for word in ("snapdragon8gen1", "orin", "a100", "jetson-nano", "tensorrt", "calibrated, error"):
        assert word in shown


def test_a_broken_table_of_the_users_does_not_hide_the_others(capsys):
    folder = user_data_dir() / "tables"
    folder.mkdir(parents=True)
    (folder / "broken-litert-fp32.csv").write_text("nothing")
    main(Devices, "nas.devices", ["--json"])
    rows = {row["device"]: row["source"] for row in json.loads(capsys.readouterr().out)}
    assert rows["broken"].startswith("unusable: ")
    assert rows["orin"].startswith("calibrated")
    with pytest.raises(TableError):
        load_table(folder / "broken-litert-fp32.csv")


def calibrate(capsys, *flags):
    main(Calibrate, "lut.calibrate", [*map(str, flags), "--json"])
    return json.loads(capsys.readouterr().out)


def test_every_batch_has_its_table_and_batch_1_goes_first(tmp_path, capsys):
    rows = POINTS.splitlines()
    lines = [rows[0] + ",batch", *(f"{row},1" for row in rows[1:])]
    for row in rows[1:]:
        arch, px, ms = row.split(",")
        lines.append(f"{arch},{px},{8 * 0.8 * float(ms)},8")
    (tmp_path / "points.csv").write_text("\n".join(lines))
    flags = ("--device", "desk:onnxruntime:fp32", "--points", tmp_path / "points.csv")
    for _ in range(2):  # the second time the device is known
        assert len(calibrate(capsys, *flags)["tables"]) == 2
    table = load_table(find_table(get_device("desk"), 1))
    assert table.network_ms(blocks_of(named_arch("b1"))) == pytest.approx(19.5, rel=0.1)
    batched = load_table(find_table(get_device("desk"), 8))
    assert batched.network_ms(blocks_of(named_arch("b1"))) == pytest.approx(0.8 * 19.5, rel=0.1)


def test_points_replace_the_table_of_their_own_batch_alone(points, capsys):
    assert len(calibrate(capsys, "--device", "a100", "--points", points)["tables"]) == 1
    device = get_device("a100")
    assert find_table(device, 64).is_relative_to(SHIPPED)
    assert find_table(device, 1).is_relative_to(user_data_dir())


def test_points_of_a_batch_that_the_device_is_not_used_with_say_so(points, capsys):
    main(Calibrate, "lut.calibrate", ["--device", "a100", "--points", str(points)])
    shown = capsys.readouterr().out
    assert "goes before" not in shown
    assert "used with batch 64" in shown
    arguments = shlex.split(
        shown.strip().splitlines()[-1].removeprefix("next: python -m nas.search")
    )
    main(Predict, "nas.predict", [*arguments, "--arch", "b1", "--resolution", "224", "--json"])
    assert json.loads(capsys.readouterr().out)["latency_ms"] == pytest.approx(19.5, rel=0.1)


def test_another_runtime_takes_nothing_of_the_devices_own(points, capsys):
    calibrate(capsys, "--device", "a100:litert:fp32", "--points", points)
    device = get_device("a100:litert:fp32")
    assert (device.batch, device.throughput, device.note, device.processor) == ({}, False, "", "")
    table = load_table(find_table(device, 1))
    assert table.sidecar.calibration.processor == "cpu"


def test_a_device_with_a_runtime_in_its_name_is_found(points, capsys):
    name = "my-onnxruntime-box"
    calibrate(capsys, "--device", f"{name}:litert:fp32", "--points", points)
    assert get_device(name).runtime == "litert"
    assert get_device(name.upper()).name == name


def test_other_files_in_the_tables_folder_are_passed_over(points, capsys):
    calibrate(capsys, "--device", "desk:litert:fp32", "--points", points)
    folder = user_data_dir() / "tables"
    table = folder / "desk-litert-fp32.csv"
    for name in ("desk-litert-fp32-backup.csv", "desk-litert-fp32-b0.csv", "notes.csv"):
        (folder / name).write_bytes(table.read_bytes())
    assert [path.name for path in tables_of("desk")] == [table.name]


def test_an_unreadable_table_makes_way_and_is_kept(points, capsys):
    flags = ("--device", "desk:litert:fp32", "--points", points)
    calibrate(capsys, *flags)
    table = user_data_dir() / "tables" / "desk-litert-fp32.csv"
    table.write_text("cut sho")
    calibrate(capsys, *flags)
    assert load_table(table).entries
    assert table.with_name(table.name + ".bak").read_text() == "cut sho"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('precision = "fp32"', "no runtime"),
        ('runtime = "litter"\nprecision = "fp32"', "did you mean 'litert'"),
        (
            'runtime = "litert"\nprecision = "fp32"\nbatch = 5',
            "Expected `object`, got `int` - at `$.batch`",
        ),
        (
            'runtime = "litert"\nprecision = "fp32"\n[batch]\nimagenet = "a"',
            "Expected `int`, got `str`",
        ),
        ('runtime = "litert"\nprecision = "fp32"\ntitel = "x"', "did you mean 'title'"),
        ('runtime = "litert"\nprecision = "fp32"\n[batch]\nimagnet = 8', "did you mean 'imagenet'"),
        ('runtime = "litert"\nprecision = "fp32"\nprocessor = "gppu"', "did you mean 'gpu'"),
        ('runtime = "litert"\nprecision = "fp32"', "no table mydev-litert-fp32"),
        ("runtime =", "cannot read"),
    ],
)
def test_a_wrong_device_file_is_one_line_and_hides_no_other(text, says, fails, capsys):
    folder = user_data_dir() / "devices"
    folder.mkdir(parents=True)
    (folder / "MyDev.toml").write_text(text)
    assert says in fails(Predict, "nas.predict", "--device", "mydev", "--arch", "b1")
    main(Devices, "nas.devices", ["--json"])
    rows = {row["device"]: row["source"] for row in json.loads(capsys.readouterr().out)}
    assert rows["mydev"].startswith("unusable: ")
    assert rows["orin"].startswith("calibrated")


def test_without_a_home_there_is_a_cure(monkeypatch, fails):
    for name in ("EFFICIENTVIT_NAS_DATA", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", no_home)
    assert "set EFFICIENTVIT_NAS_DATA" in fails(Devices, "nas.devices")


def test_the_documented_errors_are_the_tables_own():
    text = (SHIPPED.parent / "docs" / "calibration.md").read_text()
    rows = re.findall(
        r"^\| \[.*?\]\(calibration/(.*?)\.md\) \|.*?\| (\d+) / (\d+) \| ([\d.]+) % \| "
        r"([\d.]+) % \| (\d+) of (\d+) \|",
        text,
        re.MULTILINE,
    )
    assert len(rows) == 4
    for name, *quoted in rows:
        device = get_device(name)
        sidecar = load_table(find_table(device, device.batch_for("imagenet"))).sidecar.written
        found = sidecar["calibration"]["summary"]
        assert quoted == [
            str(found["num_rows"]),
            str(found["num_architectures"]),
            f"{found['mape_percent']:.1f}",
            f"{found['worst_percent']:.1f}",
            str(found["num_ordered_pairs"]),
            str(found["num_pairs"]),
        ]


def device_file(name, text):
    folder = user_data_dir() / "devices"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if text is None:
        os.mkfifo(path)
    else:
        path.write_text(text)


GOOD = 'runtime = "litert"\nprecision = "fp32"\n'


BAD_FILES = [
    None,  # a FIFO, which would never end
    "",
    "[" * 5000,
    "a = " + "[" * 5000,
    "a = " + "9" * 5000,
    "\x00",
    GOOD + "title = 5",
    GOOD + 'title = ["x"]',
    GOOD + "note = 1979-05-27",
    GOOD + "throughput = 1",
    GOOD + "throughput = nan",
    GOOD + "processor = []",
    GOOD + "[batch]\nimagenet = 0",
    GOOD + "[batch]\nimagenet = true",
    GOOD + "[batch]\nimagenet = 1.5",
    GOOD + "[batch]\nimagenet = inf",
    GOOD + f"[batch]\nimagenet = {10**400}",
    GOOD + "batch = [1]",
    "runtime = 5\nprecision = 6",
    f"runtime = 'x'\nprecision = '{'x' * 20_000}'",
    "'" + "k" * 20_000 + "' = 1",
]


def test_bad_device_files_hide_no_other(capsys, fails):
    for number, text in enumerate(BAD_FILES):
        device_file(f"mine{number}.toml", text)
    rows = {row["device"]: row["source"] for row in devices(capsys)}
    assert rows["orin"].startswith("calibrated")
    for number in range(len(BAD_FILES)):
        source = rows[f"mine{number}"]
        assert source.startswith("unusable: ")
        assert f"mine{number}.toml" in source
        assert len(source) < 700
        with pytest.raises(DeviceError, match=f"mine{number}.toml"):
            get_device(f"mine{number}")
    assert "mine0.toml" in fails(Predict, "nas.predict", "--device", "mine0", "--arch", "b1")
    main(Predict, "nas.predict", ["--device", "orin", "--arch", "b1", "--quiet"])


def test_what_a_file_calls_a_device_holds_no_escapes(points, capsys):
    escapes = "\\u001b]0;gone\\u0007\\u001b[31m\\u202e"
    device_file("desk.toml", GOOD + f'title = "Desk{escapes}"\nnote = "see{escapes}"\n')
    flags = ["--device", "desk", "--points", str(points), "--report", str(points.parent / "page")]
    main(Calibrate, "lut.calibrate", flags)
    main(Devices, "nas.devices", [])
    main(Predict, "nas.predict", ["--device", "desk", "--arch", "b1"])
    shown = capsys.readouterr().out
    assert "Desk" in shown
    for text in (shown, (points.parent / "page" / "desk.md").read_text()):
        assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("-rf", "'rf'"),
        ("--help", "'help'"),
        ("_desk", "'desk'"),
        ("../desk", "'desk'"),
        ("a/b", "'a-b'"),
        ("a b", "'a-b'"),
        ("a\x1b[2Jb", "'a-2jb'"),
        ("a.b", "'a-b'"),
        ("\u202edesk", "'desk'"),
        ("...", "'mydevice'"),
        ("x" * 300, "'" + "x" * 100 + "'"),
    ],
)
def test_a_new_devices_name_is_plain(name, valid, points, fails, tmp_path):
    for command, module, flags in (
        (Calibrate, "lut.calibrate", ("--points", points)),
        (Build, "lut.build", ("--import", points)),
    ):
        said = fails(command, module, f"--device={name}:litert:fp32", *flags)
        assert f"but {valid}" in said
    assert not (user_data_dir() / "tables").exists()


def test_files_of_devices_with_odd_names_are_listed_and_hide_no_other(capsys):
    for name in ("-rf.toml", "a:b.toml", "x\x1b[2J.toml", "new\nline.toml"):
        device_file(name, GOOD)
    main(Devices, "nas.devices", [])
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "orin" in shown
    assert "-rf" in shown


@pytest.mark.parametrize("wrong_ms", [0.57, 5700])
@pytest.mark.parametrize("source", [(), ("--from", "snapdragon8gen1")])
def test_a_wrong_row_is_blamed_and_no_innocent_one(points, fails, wrong_ms, source):
    points.write_text(points.read_text().replace("b2,224,57\n", f"b2,224,{wrong_ms}\n"))
    row = points.read_text().splitlines().index(f"b2,224,{wrong_ms}") + 1
    points.write_text(points.read_text().replace("b2,256,75\n", ""))
    said = fails(
        Calibrate, "lut.calibrate", "--device", "desk:litert:fp32", "--points", points, *source
    )
    assert f"b2 in row {row} with {wrong_ms} ms" in said
    points.write_text(points.read_text() + "b1,224,1950\n")
    last = len(points.read_text().splitlines())
    said = fails(Calibrate, "lut.calibrate", "--device", "desk:litert:fp32", "--points", points)
    assert re.search(rf"rows \d and {last} contradict each other: b1 at 224", said)
    assert not (user_data_dir() / "tables").exists()


def test_what_was_guessed_is_a_note(points, capsys):
    points.write_text(points.read_text().replace(",", ";").replace(".", ","))
    flags = ["--device", "desk:litert:fp32", "--points", str(points)]
    main(Calibrate, "lut.calibrate", [*flags, "--json"])
    found = capsys.readouterr()
    assert "note: " in found.err
    assert "decimal points" in found.err
    json.loads(found.out)
    main(Calibrate, "lut.calibrate", [*flags, "--quiet"])
    assert capsys.readouterr().err == ""
