import json
from pathlib import Path
from typing import Any

import pytest

from lut.calibration.points import FITTED_KINDS, Point, check_points, read_points
from results.errors import TableError
from supernet.official import named_arch
from tests.sheets import VARIANTS

PUBLISHED = Path(__file__).parents[1] / "results" / "published" / "points"
DEVICES = ("snapdragon8gen1", "orin", "a100", "jetson-nano")


def read(tmp_path: Path, text: str) -> list[Point]:
    path = tmp_path / "points.csv"
    path.write_text(text)
    return read_points(path)


def test_two_columns_are_enough(tmp_path):
    b1, sam = read(tmp_path, "arch,latency_ms\nb1,19\nsam_l0,8.2\n")
    assert b1.arch == named_arch("b1", resolution=(224, 224))
    assert (b1.latency_ms, b1.batch, b1.fitted) == (19.0, 1, True)
    assert sam.arch.task == "promptable"
    assert sam.backbone == read(tmp_path, "arch,latency_ms\nl0,2\n")[0].backbone


def test_latency_is_per_image_however_it_is_given(tmp_path):
    rows = "arch,batch,latency_ms,throughput_img_s\nb1,4,20,\nb1,4,,200\n"
    assert [point.latency_ms for point in read(tmp_path, rows)] == [5.0, 5.0]


def test_every_column_is_read(tmp_path):
    header = "arch,task,dataset,resolution,rounding_percent,kind,includes,latency_ms,source,notes\n"
    (point,) = read(
        tmp_path, header + 'b2,segmentation,ade20k,512,5,issue,mask_decoder,7,web,"a, b"\n'
    )
    assert point.arch == named_arch("b2", task="segmentation", dataset="ade20k")
    assert (point.rounding, point.kind, point.fitted) == (0.05, "issue", False)
    assert (point.includes, point.source, point.notes) == ("mask_decoder", "web", "a, b")


def test_an_arch_may_be_json(tmp_path):
    arch = named_arch("b0", resolution=(160, 160))
    quoted = json.dumps(arch.to_dict()).replace('"', '""')
    (point,) = read(tmp_path, f'arch,latency_ms\n"{quoted}",3\n')
    assert (point.arch, point.name) == (arch, "custom")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["no row names the columns", "arch"]),
        ("arch,latency_ms\n", ["no points"]),
        ("arch\nb1\n", ["arch,latency_ms"]),
        ("latency_ms\n1\n", ["arch,latency_ms"]),
        ("arch,latency\nb1,1\n", ["'latency'", "did you mean 'latency_ms'"]),
        ("arch,latency_ms\nb1,19\nb11,3\n", ["row 3", "column arch", "did you mean 'b1'"]),
        ("arch,latency_ms\nb1,-3\n", ["row 2", "column latency_ms", "'-3'"]),
        ("arch,latency_ms\nb1,nan\n", ["row 2", "column latency_ms", "'nan'"]),
        ("arch,latency_ms\nb1,inf\n", ["row 2", "column latency_ms"]),
        ("arch,latency_ms\nb1,0\n", ["row 2", "column latency_ms"]),
        ("arch,latency_ms\nb1,19 ms\n", ["row 2", "column latency_ms", "'19 ms'"]),
        ("arch,latency_ms\nb1,\n", ["row 2", "exactly one of latency_ms and throughput_img_s"]),
        ("arch,latency_ms,throughput_img_s\nb1,2,500\n", ["row 2", "exactly one of"]),
        ("arch,latency_ms,batch\nb1,2,1.5\n", ["row 2", "column batch"]),
        ("arch,latency_ms,resolution\nb1,2,big\n", ["row 2", "column resolution", "'big'"]),
        ("arch,latency_ms,task\nb1,2,segment\n", ["column task", "did you mean 'segmentation'"]),
        ("arch,latency_ms,kind\nb1,2,tabel\n", ["column kind", "did you mean 'table'"]),
        ("arch,latency_ms,includes\nb1,2,decoder\n", ["column includes", "mask_decoder"]),
        ("arch,latency_ms\nb1,2,3\n", ["line 2", "is in no column"]),
        ('arch,latency_ms\n"{""family"":""b""}",2\n', ["row 2", "column arch"]),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, parts):
    with pytest.raises(TableError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert "points.csv" in message
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TableError, match=r"nowhere\.csv"):
        read_points(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("device", DEVICES)
def test_published_points_are_distinct_and_sourced(device):
    points = read_points(PUBLISHED / f"{device}.csv")
    fitted = [(point.arch, point.batch) for point in points if point.fitted]
    assert len(fitted) == len(set(fitted))
    assert all(point.source for point in points)
    assert all(0 < point.rounding < 0.1 for point in points)


def test_published_points_hold_all_printed_measurements():
    fitted = {
        device: sum(
            point.kind in FITTED_KINDS for point in read_points(PUBLISHED / f"{device}.csv")
        )
        for device in DEVICES
    }
    assert fitted == {"snapdragon8gen1": 13, "orin": 24, "a100": 28, "jetson-nano": 16}


@pytest.mark.parametrize(
    "text",
    [
        "arch;resolution;latency_ms\r\nb1;224;9,5\r\nb2;256;30\r\n",
        "arch\tresolution\tlatency_ms\nb1\t224\t9.5\nb2\t256\t30\n",
        "\ufeffArch, Resolution ,Latency_ms\nb1,224,9.5\n\n,,\nb2,256,30\n",
        "arch,resolution,latency_ms,,\nb1,224,9.5,,\nb2,256,30,,\n",
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path, text):
    path = tmp_path / "points.csv"
    path.write_bytes(text.encode())
    points = read_points(path)
    assert [(p.name, p.arch.resolution[0], p.latency_ms) for p in points] == [
        ("b1", 224, 9.5),
        ("b2", 256, 30.0),
    ]


def test_a_huge_field_and_a_double_column_are_one_line(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(f"arch,latency_ms,notes\nb1,2,{'x' * 200_000}\n")
    with pytest.raises(TableError, match="field larger"):
        read_points(path)
    path.write_text("arch,latency_ms,latency_ms\nb1,2,3\n")
    with pytest.raises(TableError, match="stands twice"):
        read_points(path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_is_read_however_it_was_written(tmp_path, variant):
    rows: list[list[Any]] = [
        ["arch", "resolution", "batch", "latency_ms", "notes"],
        ["b1", 224, "2.0", 19.5, "a, b; c"],
        [named_arch("b0").to_json(), 256, 1, 0.25, ""],
    ]
    path = tmp_path / "points.csv"
    path.write_bytes(VARIANTS[variant](rows))
    b1, own = read_points(path)
    assert (b1.name, b1.arch.resolution, b1.latency_ms) == ("b1", (224, 224), 9.75)
    assert (b1.batch, b1.notes) == (2, "a, b; c")
    assert (own.arch, own.latency_ms) == (named_arch("b0", resolution=(256, 256)), 0.25)


def test_what_was_guessed_is_told(tmp_path):
    path = tmp_path / "points.csv"
    said: list[str] = []
    path.write_text("My phone\narch;latency_ms\nb1;1,234\n")
    (point,) = read_points(path, tell=said.append)
    assert point.latency_ms == 1.234
    (line,) = said
    assert "1 row above the names" in line
    assert "1,234 is 1.234" in line
    path.write_text("arch,latency_ms\nb1,1.234\n")
    read_points(path, tell=said.append)
    assert len(said) == 1


@pytest.mark.parametrize("number", ['"1,234"', "1 234", "1'234", "1_234", '"1,234.5"', "0x10"])
def test_thousands_are_not_guessed(tmp_path, number):
    with pytest.raises(TableError):
        read(tmp_path, f"arch,latency_ms\nb1,{number}\n")


@pytest.mark.parametrize(
    ("name", "same", "side"),
    [
        ("efficientvit_b1", "b1", 224),
        ("EfficientViT_B1", "b1", 224),
        ("efficientvit_b1.r288_in1k", "b1", 288),
        ("efficientvit_l2.r384_in1k", "l2", 384),
        ("efficientvit_sam_l0", "sam_l0", 512),
    ],
)
def test_the_names_of_timm_are_read(tmp_path, name, same, side):
    (point,) = read(tmp_path, f"arch,latency_ms\n{name},2\n")
    assert (point.name, point.arch) == (same, named_arch(same, resolution=(side, side)))
    (told,) = read(tmp_path, f"arch,resolution,latency_ms\n{name},1024,2\n")
    assert told.arch.resolution == (1024, 1024)  # a column goes before a tag


@pytest.mark.parametrize("name", ["efficientvit_m0", "M5", "efficientvit_m3.r224_in1k"])
def test_another_family_of_the_same_name_is_named(tmp_path, name):
    with pytest.raises(TableError, match="Microsoft's EfficientViT") as caught:
        read(tmp_path, f"arch,latency_ms\n{name},2\n")
    assert "did you mean" not in str(caught.value)


def test_two_latencies_of_one_network_name_both_rows(tmp_path):
    rows = ["arch,resolution,batch,latency_ms", "b0,224,1,4", "b1,224,1,20", "b1,288,1,31"]
    check_points(read(tmp_path, "\n".join([*rows, "b1,224,1,22", "b1,224,64,99"])))
    with pytest.raises(TableError, match=r"rows 3 and 5 contradict each other: b1 at 224"):
        check_points(read(tmp_path, "\n".join([*rows, "b1,224,1,200"])))
    with pytest.raises(TableError, match=r"takes 20 and 2 ms"):
        check_points(read(tmp_path, "\n".join([*rows, "b1,224,1,2"])))


def test_texts_of_a_file_hold_no_escapes(tmp_path):
    text = "arch,latency_ms,dataset,source,notes\nb1,2,,\x1b[2J,\x1b]0;x\x07y\n"
    (point,) = read(tmp_path, text)
    assert (point.source + point.notes).isprintable()


def test_an_error_does_not_repeat_a_long_value(tmp_path):
    for cell in ("x" * 50_000, "[" * 50_000, "{" * 50_000, "9" * 50_000):
        for row in (f"{cell},2", f"b1,{cell}"):
            with pytest.raises(TableError) as caught:
                read(tmp_path, f"arch,latency_ms\n{row}\n")
            assert len(str(caught.value)) < 500


def test_a_column_in_another_unit_is_to_be_converted(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("arch,latency_s\nb0,0.0041\n")
    with pytest.raises(TableError, match="'latency_s'; convert it to latency_ms"):
        read_points(path)


@pytest.mark.parametrize(
    "name", ["EfficientViT-B1", "timm/efficientvit_b1.r224_in1k", "b1-r224", "efficientvit_b1_r224"]
)
def test_names_as_others_write_them(tmp_path, name):
    path = tmp_path / "p.csv"
    path.write_text(f"arch,latency_ms\n{name},4.1\n")
    (point,) = read_points(path)
    assert point.arch == named_arch("b1", resolution=(224, 224))
