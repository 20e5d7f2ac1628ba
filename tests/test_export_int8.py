"""`nas.export --precision int8`: what files lose on pictures, and what becomes of losers."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import lut.exporting.int8
from lut.builders.integers import Quantisation
from lut.exporting.accuracy import Accuracy, _drop_stderr, accuracy_of
from lut.exporting.formats import FileForm
from lut.exporting.int8 import told_int8
from lut.exporting.job import Job
from lut.exporting.networks import Network
from lut.exporting.options import ExportOptions
from lut.exporting.run import MANIFEST
from nas.export import Export, _fault, _int8
from results.console import main
from results.errors import DataError
from supernet.arch import ClassificationHead
from supernet.blocks import blocks_of
from supernet.evaluation.batchnorm import recalibrate
from supernet.evaluation.recalibrated import task_of
from supernet.tasks.classification import TopAccuracy
from supernet.tasks.segmentation import MeanIoU
from supernet.tasks.task import EvaluationSettings
from supernet.weights.files import save_weights
from supernet.weights.header import WeightsHeader
from supernet.weights.preprocessing import Preprocessing
from tests.conftest import ROOT
from tests.test_export import ENLARGER, RUN, SEGMENTER, exported, seeded, tiny

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")
ARCH = replace(tiny(ClassificationHead((48, 64), 6)), resolution=(32, 32))
CLASSES = tuple(f"kind {i}" for i in range(6))
SEEN = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bilinear", 1.0, "crop")
PICTURES, STEPS = 45, 40  # pictures to train on, and held out, each


def coloured(rng, number):
    """Pictures, (B, 32, 32, 3), of six colours that take turns in pairs, and which."""
    classes = np.arange(number) // 2 % 6
    colours = np.array([[c >> 2 & 1, c >> 1 & 1, c & 1] for c in range(1, 7)])
    pixels = 90 + 60 * colours[classes][:, None, None]
    pixels = pixels + 20 * rng.standard_normal((number, 4, 4, 1)).repeat(8, 1).repeat(8, 2)
    pixels = pixels + 10 * rng.standard_normal((number, 32, 32, 3))
    return pixels.clip(0, 255).astype(np.uint8), classes


@pytest.fixture(scope="module")
def told_right(tmp_path_factory):
    """Weights that tell six colours apart, a folder of pictures, and of those held out classes."""
    folder = tmp_path_factory.mktemp("int8")
    rng = np.random.default_rng(0)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (SEEN.mean, SEEN.std))
    model = seeded(ARCH).train()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(STEPS):
        pixels, classes = coloured(rng, 60)
        x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.from_numpy(classes)).backward()
        optimizer.step()
    pixels, classes = coloured(rng, 2 * PICTURES)
    recalibrate(model, [x])
    told = WeightsHeader(preprocessing=SEEN, classes=CLASSES)
    save_weights(model.eval(), folder / "net.safetensors", **told.to_metadata())
    for number, (picture, label) in enumerate(zip(pixels, classes, strict=True)):
        path = folder / "data" / ("train", "val")[number % 2] / CLASSES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder / "net.safetensors", folder / "data", pixels[1::2], classes[1::2]


def in_int8(told_right, out, **options):
    weights, data, _, _ = told_right
    return exported(
        weights, out, weights=weights, data=data, format=("onnx", "tflite"), precision=("int8",),
        resolution="32", calibration_images=16, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    "ends",
    [{}, {"input_type": "uint8", "head": "softmax", "batch": 3},
     {"input_type": "uint8", "head": "argmax"}],
    ids=["plain", "softmax", "argmax"],
)  # fmt: skip
def test_files_keep_what_pytorch_gets_right(ends, told_right, tmp_path):
    done, network = in_int8(told_right, tmp_path / "out", **ends)
    assert not done.rejected
    pixels, classes = told_right[2:]
    for entry in network["files"]:
        assert entry["name"] == f"net-32-int8.{entry['format']}"
        own = entry["int8"]
        assert own["calibration_images"] == 16
        assert own["costly_blocks"] == []
        assert own["integer_macs"] > 0.9
        assert not own["mostly_float"]
        found = own["accuracy"]
        assert (found["metric"], found["fp32"], found["pictures"]) == ("top1", 100, PICTURES)
        assert found["drop"] == found["fp32"] - found["int8"] <= found["max_drop"] == 1
        assert 1e-4 < entry["relative_difference"] < 0.3 or ends.get("head") == "argmax"
        batch = ends.get("batch", 1)
        given = pixels[:batch].transpose(0, 3, 1, 2)
        if not ends:
            mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in (SEEN.mean, SEEN.std))
            given = ((given / 255 - mean) / std).astype(np.float32)
        given = np.ascontiguousarray(given)
        result = RUN[entry["format"]](tmp_path / "out" / entry["name"], given)
        best = result if ends.get("head") == "argmax" else result.argmax(1)
        assert (best == classes[:batch]).all()
    model = onnx.load(tmp_path / "out" / "net-32-int8.onnx")
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["precision"] == "int8"
    assert float(said["integer_macs"]) == pytest.approx(own["integer_macs"], abs=1e-3)
    assert "float" not in model.doc_string


BROKEN = "stage2.0.mbconv"


def test_a_file_that_loses_is_rejected_and_its_block_named(
    told_right, tmp_path, monkeypatch, capsys
):
    weights, data, _, _ = told_right
    right = lut.exporting.int8._limits

    def narrow(seen):
        limits = right(seen)
        return {
            place: (low / 50, high / 50) if place == f"{BROKEN}/0" else (low, high)
            for place, (low, high) in limits.items()
        }

    monkeypatch.setattr("lut.exporting.int8._limits", narrow)
    words = [str(weights), "--weights", str(weights), "--data", str(data), "--format", "onnx"]
    words += ["--precision", "int8", "--resolution", "32", "--workers", "0", "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main(Export, "nas.export", [*words, "--out", str(tmp_path / "out")])
    assert ended.value.code == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert f"net-32-int8.onnx{'.rejected'} loses" in said.err
    assert f"more than --max-drop 1, most in {BROKEN}" in said.err
    (network,) = json.loads((tmp_path / "out" / MANIFEST).read_text())["networks"]
    (entry,) = network["files"]
    assert entry["status"] == "rejected"
    assert entry["int8"]["accuracy"]["drop"] > 1
    costly = entry["int8"]["costly_blocks"]
    assert costly[0]["block"] == BROKEN
    assert costly[0]["relative_difference"] > 2 * costly[1]["relative_difference"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {MANIFEST, "net-32-int8.onnx.rejected"}


def test_limits_leave_out_the_farthest_of_many_pictures():
    numbers = np.random.default_rng(0).normal(size=500)
    seen = {
        "a/0:1/least": [-1.0],
        "a/0:2/least": [-2.0],
        "a/0:1/largest": [3.0],
        "a/0:2/largest": [1.0],
        "b/out/least": list(-numbers),
        "b/out/largest": list(numbers),
    }
    limits = lut.exporting.int8._limits(seen)
    assert limits["a/0"] == (-2.0, 3.0)
    beyond = [(-numbers < limits["b/out"][0]).sum(), (numbers > limits["b/out"][1]).sum()]
    assert beyond == [5, 5]


def job_for(arch, batch=1):
    model = seeded(arch)
    header = WeightsHeader(arch=arch, preprocessing=model.preprocessing)
    task = task_of(arch, header, None)
    weights = {"untrained": False, "sha256": "0"}
    network = Network("net", arch, model, header, weights, {}, task)
    return Job(network, FileForm("onnx", "int8"), batch, "float", "logits")


CELLS = replace(SEGMENTER, resolution=(64, 64), head=replace(SEGMENTER.head, num_classes=8))


@pytest.mark.parametrize("arch", [tiny(ClassificationHead((48, 64), 12)), CELLS, ENLARGER],
                         ids=lambda arch: arch.task)  # fmt: skip
@pytest.mark.parametrize("batch", [1, 4])
def test_accuracies_are_those_of_an_evaluation(arch, batch):
    """Of PyTorch, and of a file that computes something else, on the same pictures."""
    job = job_for(arch, batch=batch)
    task, model = job.network.task, job.network.model
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.manual_seed(1))

    def run(inputs):
        assert len(inputs["image"]) == batch
        return {"output": other(torch.from_numpy(inputs["image"])).numpy()}

    options = ExportOptions(format=("onnx",), limit=10, workers=0)
    found = accuracy_of(run, job, options)
    settings = EvaluationSettings(5, 10, 0)
    before, after = (task.evaluate(m, arch, settings) for m in (model, other))
    assert found.metric == task.primary
    assert found.pictures == 10
    assert found.before == pytest.approx(before[task.primary], rel=1e-6)
    assert found.after == pytest.approx(after[task.primary], rel=1e-6)
    other = model
    batch = 1
    same = accuracy_of(run, replace(job, batch=1), options)
    assert same.drop == pytest.approx(0, abs=1e-5)


def test_standard_errors_of_what_is_lost_are_of_pairs():
    rng = np.random.default_rng(0)
    gained = rng.choice([-1, 0, 0, 0, 0, 0, 1], 5000).tolist()
    plain = 100 * np.std(gained, ddof=1) / math.sqrt(len(gained))
    assert _drop_stderr(TopAccuracy(), TopAccuracy(), gained) == pytest.approx(plain, rel=1e-3)
    assert _drop_stderr(TopAccuracy(), TopAccuracy(), [0] * 100) == pytest.approx(
        100 / 102, rel=0.1
    )

    logits = [torch.from_numpy(rng.normal(size=(6, 3, 8, 8))) for _ in range(2)]
    masks = torch.from_numpy(rng.integers(0, 3, (6, 8, 8)))

    def metric(scores, keep):
        own = MeanIoU(("a", "b", "c"))
        own.update(scores[keep], masks[keep])
        return own

    every = list(range(6))
    drops = [
        metric(logits[0], rest).compute()["miou"] - metric(logits[1], rest).compute()["miou"]
        for rest in ([i for i in every if i != out] for out in every)
    ]
    jackknife = math.sqrt(5 * np.var(drops))
    found = _drop_stderr(metric(logits[0], every), metric(logits[1], every), [])
    assert found == pytest.approx(jackknife)


def test_random_weights_have_no_accuracy(tmp_path):
    file = tmp_path / "net.json"
    file.write_text(ARCH.to_json())
    done, network = exported(
        file, tmp_path / "out", format=("onnx", "tflite"), precision=("int8",), calibration_images=4
    )
    assert not done.rejected
    for entry in network["files"]:
        assert entry["name"] == f"net-32-int8-untrained.{entry['format']}"
        assert entry["int8"]["accuracy"] is None
        assert entry["top1_agreement"] is not None
        assert "no accuracy is told" in _int8(entry["int8"])


def test_int8_without_pictures_of_the_weights_is_refused(told_right, tmp_path):
    weights = told_right[0]
    with pytest.raises(DataError, match=r"int8 needs pictures like those .* give --data FOLDER"):
        exported(weights, tmp_path / "out", weights=weights, format=("onnx",), precision=("int8",))
    assert not (tmp_path / "out").exists()


def test_a_file_of_which_most_is_float_says_so():
    job = job_for(tiny(ClassificationHead((48, 64), 12)))
    assert "float" not in job.description
    names = frozenset(block.name for block in blocks_of(job.network.arch))
    job = replace(job, quantisation=Quantisation(floats=names))
    assert job.description.endswith("int8 of 0 % of its MACs, the others float")
    own = told_int8(job, ExportOptions(format=("onnx",)), None, ())
    own["integer_macs"] = 0.31
    assert _int8(own).endswith("31.0 % of its MACs are int8, most work is in float")


def test_what_is_lost_or_gained_is_told_with_its_error():
    job = job_for(tiny(ClassificationHead((48, 64), 12)))
    for after, said in ((80.5, "loses 0.75 ± 0.20 points"), (82.0, "gains 0.75 ± 0.20 points")):
        found = Accuracy("top1", 81.25, after, 0.2, 900)
        text = _int8(told_int8(job, ExportOptions(format=("onnx",)), found, ()))
        assert said in text
        assert f"top1 81.25 in fp32, {after:.2f} in int8" in text
        assert "the same 900 held-out pictures" in text


def test_what_is_not_finite_is_said_to_differ():
    own = {"accuracy": None, "costly_blocks": [{"block": "stem.0.conv"}]}
    assert _fault({"int8": own}) == "is not what PyTorch gives, most in stem.0.conv"
    assert _fault({}) == "is not what PyTorch gives"
    assert Accuracy("psnr_db", 30.0, 29.0, 0.1, 9).drop == 1


@pytest.mark.parametrize("moment", ["loss_of", "costly_blocks"])
def test_a_killed_export_leaves_no_file_by_its_name(moment, told_right, tmp_path):
    weights, data, _, _ = told_right
    code = f"""
import os, signal
from pathlib import Path
from lut.exporting import int8, run
from lut.exporting.options import ExportOptions, Wanted
def die(*given, **more):
    os.kill(os.getpid(), signal.SIGKILL)
if {moment!r} == "costly_blocks":
    int8.difference = die
    run.loss_of = lambda *given: type("", (), dict(drop=9, metric="top1"))()
else:
    run.{moment} = die
options = ExportOptions(
    out=Path({str(tmp_path / "out")!r}), format=("onnx",), precision=("int8",), images=1,
    weights=Path({str(weights)!r}), data=Path({str(data)!r}), calibration_images=2, workers=0,
    resolution="32",
)
run.export(options, [Wanted({str(weights)!r}, "net")])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    left = [path.name for path in Path(tmp_path / "out").iterdir()]
    assert left
    assert all(name.startswith(".") for name in left)
