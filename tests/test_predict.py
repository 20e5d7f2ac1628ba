"""What `nas.predict` says of named, filed and found networks."""

import csv
import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest
import torch
import tyro

from lut.calibration.points import read_points
from lut.device import SHIPPED, get_device
from lut.rows import Entry
from lut.table import Table
from lut.terms import NetworkTerms
from nas.predict import Predict
from predictors.latency import LatencyPredictor, load_predictor
from supernet.arch import Arch, ClassificationHead
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.model import create_model
from supernet.official import named_arch
from supernet.sharing.checkpoint import save_checkpoint
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space
from supernet.weights.files import save_weights
from supernet.weights.header import HeldOutFigure, WeightsHeader
from supernet.weights.tensors import write_tensors
from tests.conftest import ROOT
from tests.test_cost import slow_peak

POINTS = ROOT / "results" / "published" / "points"


def predict(capsys, *flags):
    from results.console import main

    main(Predict, "nas.predict", [*map(str, flags), "--json"])
    return json.loads(capsys.readouterr().out)


def test_json_has_the_promised_fields_and_exact_counts(capsys):
    answer = predict(capsys, "--device", "orin", "--arch", "b2", "--resolution", "288")
    promised = "latency_ms latency_std_ms accuracy accuracy_std metric params_m macs_g memory_mb"
    assert {*promised.split(), "provenance"} <= set(answer)
    assert answer["params_m"] == pytest.approx(24.330712, abs=1e-9)
    assert answer["macs_g"] == pytest.approx(2.614475776, abs=1e-9)
    assert answer["metric"] == "ImageNet top-1 [%]"
    assert answer["provenance"]["latency"]["provenance"] == "calibrated"
    assert answer["provenance"]["accuracy"]["provenance"] == "published"
    assert "throughput_img_s" not in answer


def test_the_command_that_writes_the_network_is_named(capsys, tmp_path):
    from lut.exporting.options import ExportOptions
    from nas.candidates import wanted_networks
    from nas.export import Export
    from results.console import main, options_of

    words = ["--arch", "b1", "--task", "segmentation", "--dataset", "ade20k"]
    main(Predict, "nas.predict", ["--device", "orin", *words])
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if "as files:" in line]
    program, module, name, *named = line.partition("as files: ")[2].split()
    assert (program, module, name) == ("python", "-m", "nas.export")
    command = tyro.cli(Export, args=named)
    options = options_of(command, ExportOptions)
    options.check()
    assert (options.task, options.dataset) == ("segmentation", "ade20k")
    assert wanted_networks(command.what, command.pick)[0].text == "b1"


def test_stages_sum_to_the_whole(capsys):
    answer = predict(capsys, "--device", "snapdragon8gen1", "--arch", "b3")
    assert sum(answer["stages_ms"].values()) == pytest.approx(answer["latency_ms"], rel=1e-5)
    assert set(answer["stages_ms"]) == {
        "offset", "stem", "stage1", "stage2", "stage3", "stage4", "head"
    }  # fmt: skip


def test_throughput_devices_say_so_and_take_the_batch_of_the_task(capsys):
    for flags, batch in (
        (["--arch", "l2"], 64),
        (["--arch", "l2", "--task", "segmentation", "--dataset", "ade20k"], 16),
        (["--arch", "l2", "--task", "segmentation"], 1),
        (["--arch", "sam_l0"], 16),
    ):
        answer = predict(capsys, "--device", "a100", *flags)
        assert answer["batch"] == batch
        assert answer["throughput_img_s"] == pytest.approx(1000 / answer["latency_ms"])


@pytest.mark.parametrize("device", ["snapdragon8gen1", "orin", "a100", "jetson-nano"])
def test_published_rows_are_met(device):
    """Fitted rows: 15 % is the worst that the calibration reports for any left-out row."""
    spec = get_device(device)
    errors = []
    for point in read_points(POINTS / f"{device}.csv"):
        if point.fitted:
            predictor = load_predictor(spec, point.dataset)
            found = predictor.predict(blocks_of(point.arch))
            assert found.std_ms > 0
            errors.append(abs(found.latency_ms / point.latency_ms - 1))
    assert len(errors) >= 13
    assert max(errors) < 0.15
    assert sum(errors) / len(errors) < 0.04


@pytest.mark.parametrize("device", ["snapdragon8gen1", "orin", "a100", "jetson-nano"])
def test_a_larger_picture_never_costs_less(device):
    predictor = load_predictor(get_device(device), "imagenet")
    for name in ("b0", "b3", "l1"):
        times = [
            predictor.predict(blocks_of(named_arch(name, resolution=(s, s)))).latency_ms
            for s in range(128, 513, 32)
        ]
        assert times == sorted(times)


def test_the_error_widens_away_from_what_the_fit_has_seen():
    predictor = load_predictor(get_device("orin"), "imagenet")
    inside = predictor.predict(blocks_of(named_arch("b2")))
    tiny = predictor.predict(blocks_of(next(iter(get_space("b").extremes()))))
    assert not inside.outside
    assert inside.std_ms / inside.latency_ms == pytest.approx(predictor.table.relative_std)
    assert tiny.outside
    assert tiny.std_ms / tiny.latency_ms > 1.5 * inside.std_ms / inside.latency_ms
    # no row of the phone has a fused MBConv
    phone = load_predictor(get_device("snapdragon8gen1"), "imagenet")
    assert phone.predict(blocks_of(named_arch("l2"))).outside
    assert not phone.predict(blocks_of(named_arch("b2"))).outside


def test_the_error_of_a_measured_sum_is_that_of_drawn_rows():
    """Rows err independently, and a block that repeats repeats its error."""
    from tests.test_table import a_table

    table = a_table()
    blocks = blocks_of(named_arch("b1"))
    rng = random.Random(0)
    sums = []
    for _ in range(4000):
        drawn = {b: rng.gauss(e.latency_ms, e.latency_std_ms) for b, e in table.entries.items()}
        sums.append(0.9 * sum(drawn[block] for block in blocks))
    found = LatencyPredictor(table).predict(blocks)
    assert found.std_ms == pytest.approx(statistics.pstdev(sums), rel=0.05)
    assert found.provenance == "measured"


def test_an_answer_is_as_good_as_its_weakest_block():
    from tests.test_table import a_table

    blocks = blocks_of(named_arch("b1"))
    shipped = load_predictor(get_device("orin"), "imagenet").table
    some = dict(list(a_table().entries.items())[:2])
    table = a_table(entries=some, roofline=shipped.roofline)
    found = LatencyPredictor(table).predict(blocks)
    assert found.provenance == table.provenance == "calibrated"
    assert found.std_ms > 0.02 * found.latency_ms


def test_memory_is_that_of_the_tables_batch_and_precision(capsys):
    for device, batch, bytes_ in (("snapdragon8gen1", 1, 4), ("orin", 1, 2), ("a100", 64, 2)):
        answer = predict(capsys, "--device", device, "--arch", "b1")
        blocks = blocks_of(named_arch("b1"))
        elements = batch * slow_peak(blocks) + network_cost(blocks).params
        assert answer["memory_mb"] == pytest.approx(bytes_ * elements / 1e6, rel=1e-5)


def test_what_others_tell_is_marked(capsys):
    b1 = named_arch("b1")
    for kernel, marked in ((3, False), (5, True)):
        stages = (*b1.stages[:-1], replace(b1.stages[-1], kernel_size=kernel))
        arch = replace(b1, stages=stages).to_json()
        answer = predict(capsys, "--device", "orin", "--arch", arch)
        assert answer["accuracy_transferred"] is marked
        assert not answer["accuracy_extrapolated"]
        Predict(device=("orin",), arch=arch).run()
        assert ("accuracy transferred" in capsys.readouterr().out) is marked


def test_what_nobody_has_seen_is_marked(capsys):
    def marks(*flags):
        answer = predict(capsys, "--device", *flags)
        return answer["latency_extrapolated"], answer["accuracy_extrapolated"]

    assert marks("orin", "--arch", "b2") == (False, False)
    odd = next(iter(get_space("b").extremes())).to_json()
    assert marks("orin", "--arch", odd) == (True, True)
    assert marks("snapdragon8gen1", "--arch", "l1") == (True, False)
    flags = ("--task", "segmentation", "--resolution", "512x1024")
    assert marks("orin", "--arch", "b2", *flags) == (False, True)


def test_every_answer_of_a100_says_that_the_batch_is_assumed(capsys):
    answer = predict(capsys, "--device", "a100", "--arch", "l2")
    assert "batch assumed to be 64" in answer["provenance"]["latency_source"]
    assert "batch assumed to be 64" in answer["provenance"]["latency"]["note"]


@pytest.mark.parametrize(
    ("ms", "what"), [(0.0, "ms for a network"), (1e308, "latency_ms is '1e+308'; a number from 0")]
)
def test_a_table_that_makes_no_sense_is_one_line(tmp_path, fails, ms, what):
    from tests.test_table import a_table

    entries = {block: Entry(ms) for block in a_table().entries}
    path = tmp_path / "bench-onnxruntime-fp32.csv"
    a_table(entries=entries, terms=NetworkTerms()).save(path)
    says = fails(Predict, "nas.predict", "--device", "bench", "--arch", "b1", "--table", path)
    assert what in says


def test_a_table_is_used_for_its_own_device_only(fails, capsys):
    table = SHIPPED / "tables" / "a100-tensorrt-fp16-b64.csv"
    flags = ("--arch", "l2", "--table", table)
    says = fails(Predict, "nas.predict", "--device", "orin", *flags)
    assert "is of device a100:tensorrt:fp16, not orin" in says
    assert predict(capsys, "--device", "a100", *flags)["throughput_img_s"] > 0


def test_an_arch_from_a_file_and_from_a_run(tmp_path, capsys, run):
    arch = next(iter(get_space("l").extremes()))
    (tmp_path / "mine.json").write_text(arch.to_json())
    answer = predict(capsys, "--device", "orin", "--arch", tmp_path / "mine.json")
    assert Arch.from_dict(answer["arch"]) == arch
    run(
        "nas.search",
        "--device",
        "orin",
        "--trials",
        100,
        "--evaluations",
        20_000,
        "--out",
        tmp_path / "run",
        "--quiet",
    )
    front = json.loads((tmp_path / "run" / "front.json").read_text())["candidates"]
    number = front[3]["id"]
    answer = predict(capsys, "--device", "orin", "--arch", f"{tmp_path / 'run'}#{number}")
    assert answer["latency_ms"] == pytest.approx(front[3]["latency_ms"])
    assert answer["arch"] == front[3]["arch"]
    flags = ["--task", "segmentation", "--dataset", "cityscapes", "--resolution", "512x1024"]
    dense = predict(capsys, "--device", "orin", "--arch", f"{tmp_path / 'run'}#{number}", *flags)
    assert dense["metric"] == "Cityscapes mIoU [%]"
    assert dense["resolution"] == "512x1024"


REACHED = HeldOutFigure(metric="top1", value=93.5, stderr=0.4, n=1600, dataset="shapes")


def stored(path, header):
    """Write weights of B0 of 10 classes, and return the network that they are of."""
    model = create_model("efficientvit_b0", num_classes=10)
    save_weights(model, path, **header.to_metadata())
    return model.arch


def test_weights_tell_their_network_and_what_it_reached(tmp_path, capsys, run):
    path = tmp_path / "b0.safetensors"
    header = WeightsHeader(resolutions=((160, 160), (192, 192)), steps=1600, accuracy=REACHED)
    arch = stored(path, header)
    flags = ("--device", "orin", "--arch", path)
    answer = predict(capsys, *flags)
    assert Arch.from_dict(answer["arch"]) == replace(arch, resolution=(192, 192))
    assert answer["trained"] == msgspec.to_builtins(REACHED) | {"steps": 1600}
    source = f"1,600 held-out pictures of shapes, as {path} says"
    assert answer["provenance"]["trained"] == source
    shown = run("nas.predict", *flags).stdout
    assert f"  trained    93.50 ± 0.40  top-1 [%], after 1,600 steps  ({source})\n" in shown
    for more in (["--num-classes", 7], ["--resolution", 160], ["--task", "segmentation"]):
        assert "trained" not in predict(capsys, *flags, *more)  # another network than was trained
    stored(path, WeightsHeader())
    assert "trained" not in predict(capsys, *flags)


def test_weights_of_no_one_network_are_one_line(tmp_path, fails):
    flags = ("--device", "orin", "--arch")
    save_checkpoint(tmp_path / "s.safetensors", Supernet(get_space("tiny")))
    says = fails(Predict, "nas.predict", *flags, tmp_path / "s.safetensors")
    assert "s.safetensors is a supernet; name a network of it by --arch NAME" in says
    assert "python -m supernet.extract --weights" in says
    write_tensors(tmp_path / "t.safetensors", {"x": torch.zeros(1)}, {})
    says = fails(Predict, "nas.predict", *flags, tmp_path / "t.safetensors")
    assert "t.safetensors does not tell its network; name it by --arch, such as" in says
    (tmp_path / "x.safetensors").write_bytes(b"\x08" + bytes(7) + b"{}      ")
    says = fails(Predict, "nas.predict", *flags, tmp_path / "x.safetensors")
    assert "x.safetensors" in says
    torch.save({"x": torch.zeros(1)}, tmp_path / "w.pt")
    says = fails(Predict, "nas.predict", *flags, tmp_path / "w.pt")
    assert says.count("w.pt") == 1


def test_weights_are_named_without_pytorch(tmp_path):
    """As by who installed the search alone: neither PyTorch nor safetensors is there."""
    stored(tmp_path / "b0.safetensors", WeightsHeader(steps=5, accuracy=REACHED))
    code = """
import sys
sys.modules |= dict.fromkeys(("torch", "safetensors"))  # importing them fails
from nas.predict import Predict
Predict(device=("orin",), arch="b0.safetensors").run()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "  trained    93.50 ± 0.40  top-1 [%], after 5 steps" in done.stdout, done.stderr


def test_an_own_head_is_kept(tmp_path, capsys):
    own = replace(named_arch("b1"), head=ClassificationHead((512, 640), 7))
    (tmp_path / "a#1.json").write_text(own.to_json())
    flags = ("--device", "orin", "--arch", tmp_path / "a#1.json")
    assert Arch.from_dict(predict(capsys, *flags)["arch"]) == own
    ten = Arch.from_dict(predict(capsys, *flags, "--num-classes", 10)["arch"])
    assert ten.head == ClassificationHead((512, 640), 10)


def test_classes_change_the_head_alone(capsys):
    flags = ("--device", "orin", "--arch", "b1", "--num-classes", 10)
    answer = predict(capsys, *flags)
    assert answer["params_m"] * 1e6 == pytest.approx(9_102_024 - 990 * 1601)


def test_samples_are_a_plain_csv(tmp_path, capsys):
    file = tmp_path / "costs.csv"
    flags = ("--device", "orin", "--sample", 40, "--space", "tiny", "--csv", file)
    assert predict(capsys, *flags)["archs"] == 40
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0]) == ["arch", "latency_ms", "latency_std_ms"]
    archs = [Arch.from_json(row["arch"]) for row in rows]
    assert len(set(archs)) == 40
    space = get_space("tiny")
    predictor = load_predictor(get_device("orin"), "imagenet")
    for arch, row in zip(archs, rows, strict=True):
        assert arch in space
        found = predictor.predict(blocks_of(arch))
        assert float(row["latency_ms"]) == pytest.approx(found.latency_ms, rel=1e-5)
    again = tmp_path / "again.csv"
    predict(capsys, *flags[:-1], again)
    assert again.read_bytes() == file.read_bytes()


def test_people_see_sources_and_stages(run):
    shown = run("nas.predict", "--device", "orin", "--arch", "b2", "--resolution", 288).stdout
    assert "calibrated, error" in shown
    assert "published" in shown
    assert "stage4" in shown


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "give either --arch, or --costs FILE"),
        (["--arch", "b1"], "give one --device"),
        (["--arch", "b1", "--device", "orn"], "did you mean 'orin'"),
        (["--arch", "b7", "--device", "orin"], "choose from b0, b1"),
        (["--arch", "b1", "--device", "orin", "--resolution", "big"], "neither a side"),
        (["--arch", "b1", "--device", "orin", "--task", "promptable"], "try family l"),
        (["--arch", "b1", "--device", "orin", "--task", "segmentation", "--resolution", "500"],
         "divisible by 32"),
        (["--arch", "b1", "--device", "orin", "--dataset", "ade20k"], "choose from imagenet"),
        (["--arch", "b1", "--device", "orin", "--num-classes", "0"], "num_classes must be from 1"),
        (["--arch", "b1", "--device", "orin", "--num-classes", "9" * 400], "401 digits"),
        (["--arch", "b1", "--device", "orin", "--resolution", "9" * 9], "neither a side"),
        (["--arch", "b1", "--device", "orin", "--csv", "x"], "give either --arch, or --costs"),
        (["--sample", "9", "--device", "orin", "--csv", "x", "--resolution", "224"], "--freeze"),
        (["--arch", "x" * 5000, "--device", "orin"], "no arch or file"),
        (["--arch", "{}", "--device", "orin"], "not an architecture"),
        (["--arch", "/", "--device", "orin"], "no run folder"),
        (["--arch", "none#3", "--device", "orin"], "no run folder none"),
        (["--sample", "3", "--device", "orin"], "--costs FILE"),
        (["--sample", "0", "--device", "orin", "--csv", "x"], "--sample must be 1 or more, not 0"),
        (["--sample", "9999", "--device", "orin", "--csv", "x", "--space", "tiny"], "only 3072"),
        (["--sample", "9", "--device", "orin", "--csv", "/dev/null/x"], "cannot write"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(fails, flags, says):
    assert says in fails(Predict, "nas.predict", *flags)


def test_broken_arch_files_are_one_line(tmp_path, fails):
    for text in ("", "{}", "[1]", '{"family": "b"}', "\0"):
        (tmp_path / "arch.json").write_text(text)
        says = fails(Predict, "nas.predict", "--device", "orin", "--arch", tmp_path / "arch.json")
        assert "not" in says


@pytest.mark.parametrize(
    ("name", "resolution", "latency_ms"),  # EfficientViT, Table 5: A100, fp16, batch 1
    [("sr_x2", "512", 17.8), ("sr_x2", "160x240", 3.2), ("sr_w075_x2", "512", 14.3)],
)
def test_super_resolution_has_a_latency_but_no_accuracy(name, resolution, latency_ms, run):
    flags = ("--device", "a100", "--arch", name, "--resolution", resolution)
    answer = json.loads(run("nas.predict", *flags, "--json").stdout)
    assert answer["latency_ms"] == pytest.approx(latency_ms, rel=0.05)
    assert answer["accuracy"] is None
    assert answer["provenance"]["accuracy"] is None
    assert "accuracy   unknown" in run("nas.predict", *flags).stdout


def test_energy_is_the_sum_of_what_was_measured(run, tmp_path):
    arch = named_arch("b0")
    path = tmp_path / "meter-onnxruntime-fp32.csv"
    entries = {b: Entry(1.0, 0.1, 9, "measured", 0.5) for b in blocks_of(arch)}
    table = Table("meter", "Meter", "onnxruntime", "fp32", 1, entries, NetworkTerms())
    table.save(path)
    flags = ("nas.predict", "--device", "meter", "--table", path, "--arch", "b0")
    found = json.loads(run(*flags, "--json").stdout)
    assert found["energy_mj"] == 0.5 * len(blocks_of(arch))
    assert f"{found['energy_mj']:.4g} mJ per image  (measured" in run(*flags).stdout
    replace(table, entries=entries | {blocks_of(arch)[0]: Entry(1.0)}).save(path)
    assert "energy_mj" not in json.loads(run(*flags, "--json").stdout)
