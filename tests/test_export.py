"""`nas.export`: its files by their own runtimes against PyTorch, and what it refuses."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lut.builders.pipeline import build_pipeline
from lut.exporting.options import ExportOptions, Prediction, Wanted
from lut.exporting.run import MANIFEST, export
from nas.candidates import wanted_networks
from nas.export import Export
from nas.picks import knee, pick
from results.console import main
from results.errors import SearchError, UserError, WeightsError
from supernet.arch import (
    HEADED,
    Arch,
    ClassificationHead,
    SegmentationHead,
    Stage,
    Stem,
    SuperResolutionHead,
)
from supernet.evaluation.extraction import extract
from supernet.evaluation.options import ExtractionOptions
from supernet.model import build
from supernet.sharing.checkpoint import save_checkpoint
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space
from supernet.weights.files import official_state_dict, save_weights
from supernet.weights.fitting import set_norm_eps
from supernet.weights.header import WeightsHeader, read_header
from supernet.weights.networks import load_network
from supernet.weights.preprocessing import Preprocessing
from supernet.weights.tensors import read_tensors, sha256_of
from tests.conftest import ROOT
from tests.seeded import seeded_state

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
litert = pytest.importorskip("ai_edge_litert.interpreter")
ALL = ("onnx", "tflite", "pt2", "safetensors")
PIPELINES = ALL[:3]
MIXERS = ("relu_linear", "softmax", "hyena", "retention", "rwkv")
SEEN = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bilinear", 0.9, "crop")


def tiny(head=None, mixer="relu_linear", resolution=(64, 64)):
    """A network of 16 channels and more, with a mixer in its last two stages."""
    stages = [
        Stage(
            16 * number,
            1,
            expand_ratio=2,
            mixer=mixer if number > 2 else "none",
            head_dim=16 if number > 2 and mixer in HEADED else 0,
            scales=(5,) if number > 2 and mixer == "relu_linear" else (),
        )
        for number in (1, 2, 3, 4)
    ]
    stem = Stem(16, 1, stride=1 if isinstance(head, SuperResolutionHead) else 2)
    return Arch("b", resolution, stem, tuple(stages), head or ClassificationHead((48, 64), 10))


SEGMENTER = tiny(SegmentationHead(16, 1, 2, "mbconv", 4, 7), resolution=(64, 96))
ENLARGER = tiny(SuperResolutionHead(16, 1, 2, 2), resolution=(32, 48))


def seeded(arch):
    model = build(arch)
    state = seeded_state((k, v.shape) for k, v in model.state_dict().items())
    model.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in state.items()})
    return model.eval()


@pytest.fixture
def trained(tmp_path):
    """A function that writes an Arch and weights for it, and gives both files and the model."""

    def trained(arch, **header):
        path = tmp_path / "net.safetensors"
        model = seeded(arch)
        model.preprocessing = SEEN
        told = WeightsHeader(preprocessing=SEEN, **header)
        save_weights(model, path, **told.to_metadata())
        file = tmp_path / "net.json"
        file.write_text(arch.to_json())
        return file, path, model

    return trained


def run_onnx(path, pictures):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"image": pictures})
    return output


def run_tflite(path, pictures):
    interpreter = litert.Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (entry,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert entry["name"] == "image"
    assert entry["dtype"] == pictures.dtype.type
    interpreter.set_tensor(entry["index"], np.ascontiguousarray(np.moveaxis(pictures, 1, -1)))
    interpreter.invoke()
    found = interpreter.get_tensor(out["index"])
    return np.moveaxis(found, -1, 1) if found.ndim == 4 else found


def run_pt2(path, pictures):
    program = torch.export.load(path)
    with torch.no_grad():
        return program.module()(torch.from_numpy(pictures)).numpy()


def run_safetensors(path, pictures):
    arch = read_header(path).arch
    assert arch is not None
    model = load_network(arch, path).eval()
    with torch.no_grad():
        return model(torch.from_numpy(pictures)).numpy()


RUN = {"onnx": run_onnx, "tflite": run_tflite, "pt2": run_pt2, "safetensors": run_safetensors}


def pictures_for(arch, batch=1):
    shape = (batch, 3, *arch.resolution)
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def pixels_for(arch, batch=1):
    return np.random.default_rng(6).integers(0, 256, (batch, 3, *arch.resolution), np.uint8)


def far(found, expected):
    expected = expected.numpy()
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def exported(what, out, **options):
    """The folder, and what the manifest says of the one network."""
    given = ExportOptions(out=out, **{"images": 2, "workers": 0} | options)
    done = export(given, wanted_networks((str(what),), None))
    assert json.loads((out / MANIFEST).read_text()) == done.manifest
    (network,) = done.manifest["networks"]
    return done, network


ARCHS = {**{mixer: tiny(mixer=mixer) for mixer in MIXERS}, "seg": SEGMENTER, "sr": ENLARGER}


@pytest.mark.parametrize("name", ARCHS)
def test_every_file_is_what_pytorch_is(name, trained, tmp_path):
    arch = ARCHS[name]
    file, weights, model = trained(arch)
    out = tmp_path / "out"
    formats = ALL if name in ("relu_linear", "sr") else ("onnx", "tflite")
    precisions = ("fp32", "fp16") if name == "relu_linear" else ("fp32",)
    done, network = exported(file, out, weights=weights, format=formats, precision=precisions)
    assert not done.rejected
    names = {entry["name"] for entry in network["files"]}
    assert {path.name for path in out.iterdir()} == names | {MANIFEST}
    pictures = pictures_for(arch)
    with torch.no_grad():
        expected = model(torch.from_numpy(pictures))
    size = {"seg": "64x96", "sr": "32x48"}.get(name, "64")
    for entry in network["files"]:
        path = out / entry["name"]
        assert path.name == f"net-{size}-{entry['precision']}.{entry['format']}"
        found = RUN[entry["format"]](path, pictures)
        assert found.dtype == np.float32
        bound = 1e-5 if entry["precision"] == "fp32" else 2e-2
        assert far(found, expected) <= bound
        assert entry["relative_difference"] <= bound
        assert entry["bytes"] == path.stat().st_size
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        agrees = entry["top1_agreement"]
        assert agrees is None if name == "sr" else agrees > 0.99
        if entry["format"] == "tflite":
            assert entry["xnnpack_partitions"] == 1
        if entry["precision"] == "fp16":
            assert path.stat().st_size < 0.85 * (out / path.name.replace("16", "32")).stat().st_size


@pytest.mark.parametrize(
    ("arch", "head"),
    [(tiny(), "softmax"), (tiny(), "argmax"), (SEGMENTER, "argmax")],
    ids=["softmax", "argmax", "map"],
)
def test_stored_pictures_become_classes(arch, head, trained, tmp_path):
    """Normalised by the weights' own mean and deviation; a map is as large as its picture."""
    file, weights, model = trained(arch)
    ends = {"input_type": "uint8", "head": head, "batch": 2}
    done, network = exported(file, tmp_path / "out", weights=weights, format=PIPELINES, **ends)
    assert not done.rejected
    pixels = pixels_for(arch, 2)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (SEEN.mean, SEEN.std))
    with torch.no_grad():
        logits = model((torch.from_numpy(pixels) / 255 - mean) / std)
    if arch is SEGMENTER:
        logits = F.interpolate(logits, size=(64, 96), mode="bicubic", align_corners=False)
    for entry in network["files"]:
        found = RUN[entry["format"]](tmp_path / "out" / entry["name"], pixels)
        if head == "softmax":
            assert far(found, logits.softmax(1)) <= 1e-5
            np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
        else:
            assert found.dtype in (np.int32, np.int64)
            assert found.shape == (2, *logits.shape[2:])
            best = logits.argmax(1).numpy()
            assert (found == best).mean() > 0.999
        assert entry["relative_difference"] <= 1e-5
    assert (network["batch"], network["head"], network["input_type"]) == (2, head, "uint8")


def test_float_pictures_of_a_batch_are_apart(trained, tmp_path):
    file, weights, model = trained(tiny())
    _, network = exported(file, tmp_path / "out", weights=weights, format=ALL[:2], batch=3)
    pictures = pictures_for(tiny(), 3)
    with torch.no_grad():
        expected = model(torch.from_numpy(pictures))
    for entry in network["files"]:
        found = RUN[entry["format"]](tmp_path / "out" / entry["name"], pictures)
        assert far(found, expected) <= 1e-5
        assert entry["pictures"] == 3


def test_an_epsilon_of_the_weights_own_goes_into_every_file(tmp_path):
    model = seeded(tiny())
    set_norm_eps(model, 0.3)
    save_weights(model, tmp_path / "net.safetensors")
    formats = ("onnx", "tflite", "safetensors")
    done, network = exported(tmp_path / "net.safetensors", tmp_path / "out", format=formats)
    assert not done.rejected
    pictures = pictures_for(tiny())
    with torch.no_grad():
        expected = model(torch.from_numpy(pictures))
    for entry in network["files"]:
        found = RUN[entry["format"]](tmp_path / "out" / entry["name"], pictures)
        assert far(found, expected) <= 1e-5


def test_files_say_what_they_are(trained, tmp_path):
    classes = tuple(f"kind {i}" for i in range(10))
    file, weights, _ = trained(tiny(), classes=classes, steps=7)
    _, network = exported(file, tmp_path / "out", weights=weights, format=ALL)
    own = {entry["format"]: tmp_path / "out" / entry["name"] for entry in network["files"]}
    sha256 = sha256_of(weights)
    assert network["weights"] == {
        "file": str(weights), "sha256": sha256, "untrained": False, "seed": None,
    }  # fmt: skip
    assert network["classes"] == list(classes)
    assert Arch.from_dict(network["arch"]) == tiny()
    assert network["preprocessing"]["mean"] == list(SEEN.mean)

    model = onnx.load(own["onnx"])
    onnx.checker.check_model(model, full_check=True)
    said = {"onnx": {entry.key: entry.value for entry in model.metadata_props}}
    assert "net, classification, 64 px, fp32" in model.doc_string

    from ai_edge_litert import schema_py_generated as schema

    data = own["tflite"].read_bytes()
    flat = schema.ModelT.InitFromPackedBuf(data)
    assert flat.description == b"EfficientViT net, classification, 64 px, fp32"
    said["tflite"] = {
        entry.name.decode(): bytes(flat.buffers[entry.buffer].data).decode()
        for entry in flat.metadata
    }
    extra = {"metadata.json": ""}
    torch.export.load(own["pt2"], extra_files=extra)
    said["pt2"] = json.loads(extra["metadata.json"])
    for texts in said.values():
        assert Arch.from_json(texts["arch"]) == tiny()
        assert texts["weights_sha256"] == sha256
        assert json.loads(texts["classes"]) == list(classes)
        assert json.loads(texts["preprocessing"])["std"] == list(SEEN.std)
        assert (texts["untrained"], texts["precision"], texts["head"]) == (
            "false",
            "fp32",
            "logits",
        )
    header = read_header(own["safetensors"])
    assert (header.arch, header.classes, header.steps) == (tiny(), classes, 7)
    assert header.preprocessing == SEEN
    assert read_tensors(own["safetensors"])[1]["exported_from_sha256"] == sha256


def test_without_weights_they_are_random_and_say_so(tmp_path):
    (tmp_path / "my net.json").write_text(tiny().to_json())
    notes: list[str] = []
    folders = [tmp_path / str(i) for i in range(3)]
    for folder, seed in zip(folders, (4, 4, 5), strict=True):
        options = ExportOptions(out=folder, format=("onnx", "safetensors"), images=1, seed=seed)
        export(options, [Wanted(str(tmp_path / "my net.json"), "my_net")], tell=notes.append)
    assert len(notes) == 3
    assert "random weights" in notes[0]
    first, same, other = (
        (folder / "my_net-64-fp32-untrained.safetensors").read_bytes() for folder in folders
    )
    assert first == same != other
    (network,) = json.loads((folders[0] / MANIFEST).read_text())["networks"]
    assert network["weights"] == {"file": None, "sha256": None, "untrained": True, "seed": 4}
    model = onnx.load(folders[0] / "my_net-64-fp32-untrained.onnx")
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert (said["untrained"], said["random_seed"]) == ("true", "4")
    assert "untrained" in model.doc_string
    assert "weights_sha256" not in said


def test_official_weights_bring_their_classes(tmp_path):
    from supernet.official import named_arch

    arch = named_arch("b0", num_classes=6, resolution=(32, 32))
    model = seeded(arch)
    torch.save({"state_dict": official_state_dict(model)}, tmp_path / "b0.pt")
    done, network = exported(
        "b0", tmp_path / "out", weights=tmp_path / "b0.pt", resolution="32", format=("onnx",)
    )
    assert not done.rejected
    assert network["files"][0]["name"] == "b0-32-fp32.onnx"
    assert network["num_classes"] == 6
    pictures = pictures_for(arch)
    with torch.no_grad():
        expected = model(torch.from_numpy(pictures))
    assert far(run_onnx(tmp_path / "out" / "b0-32-fp32.onnx", pictures), expected) <= 1e-5


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    torch.manual_seed(0)
    space = get_space("tiny", num_classes=12, freeze=["resolution=64"])
    path = tmp_path_factory.mktemp("supernet") / "super.safetensors"
    save_checkpoint(path, Supernet(space), metadata={"seed": "5"})
    return path, space


def test_a_subnet_is_that_of_supernet_extract(supernet, tmp_path):
    path, space = supernet
    arch = next(iter(space.enumerate()))
    file = tmp_path / "net.json"
    file.write_text(arch.to_json())
    few: Any = {"recalibration_images": 24, "batch_size": 12, "workers": 0}
    extract(ExtractionOptions(path, str(file), tmp_path / "own.safetensors", **few))
    done, network = exported(
        file, tmp_path / "out", weights=path, format=("onnx", "safetensors"), **few
    )
    assert not done.rejected
    tensors, metadata = read_tensors(tmp_path / "own.safetensors")
    found, told = read_tensors(tmp_path / "out" / "net-64-fp32.safetensors")
    assert tensors.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert metadata.items() <= told.items()
    assert network["weights"]["sha256"] == sha256_of(path)
    assert network["weights"]["subnet"]["recalibration_images"] == 24
    pictures = pictures_for(arch)
    expected = torch.from_numpy(run_safetensors(tmp_path / "own.safetensors", pictures))
    assert far(run_onnx(tmp_path / "out" / "net-64-fp32.onnx", pictures), expected) <= 1e-5
    with pytest.raises(WeightsError, match="leave --num-classes out"):
        exported(file, tmp_path / "more", weights=path, format=("onnx",), num_classes=3)


FRONTS = [
    {n: (float(np.exp(x)), 80 - 20 * np.exp(-x)) for n, x in enumerate(np.linspace(0, 3, 9))},
    {3: (1.0, 60.0)},
    {0: (1.0, 60.0), 1: (1.0, 61.0), 2: (4.0, 61.0)},
    {n: tuple(row) for n, row in enumerate(np.random.default_rng(0).uniform(1, 90, (40, 2)))},
]


@pytest.mark.parametrize("front", FRONTS)
def test_picks_are_those_of_brute_force(front):
    by_latency = sorted(front, key=lambda n: (front[n][0], -front[n][1]))
    by_accuracy = sorted(front, key=lambda n: (-front[n][1], front[n][0]))
    assert pick(front, "fastest", "R") == by_latency[0]
    assert pick(front, "best", "R") == by_accuracy[0]
    for limit in (1.0, 3.5, 20):
        within = [n for n in by_accuracy if front[n][0] <= limit]
        if within:
            assert pick(front, f"<={limit}ms", "R") == within[0]
        else:
            with pytest.raises(SearchError, match=rf"nearest is R#{by_latency[0]} with"):
                pick(front, f"<={limit}ms", "R")
    points = {n: np.array([np.log(x), y]) for n, (x, y) in front.items()}
    a, b = points[by_latency[0]], points[by_accuracy[0]]
    length = np.hypot(*(b - a))
    if length:
        above = {
            n: float(np.cross([*(b - a), 0], [*(p - a), 0])[2]) / length for n, p in points.items()
        }
        assert above[knee(front)] == pytest.approx(max(above.values()))


@pytest.mark.parametrize("text", ["knees", "<20", "<=ms", "20ms", ">=3ms"])
def test_what_is_no_pick_is_refused(text):
    with pytest.raises(SearchError, match="choose from knee, fastest, best"):
        pick(FRONTS[0], text, "R")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A small search for this test's own space."""
    folder = tmp_path_factory.mktemp("searched") / "front"
    subprocess.run(
        [
            sys.executable, "-m", "nas.search", "--device", "orin", "--space", "tiny",
            "--evaluations", "9000", "--trials", "20", "--quiet", "--out", str(folder),
        ],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    return folder


def test_a_network_of_a_run_by_id_and_by_pick(searched, run, tmp_path):
    record = json.loads((searched / "front.json").read_text())
    places = {
        c.get("id", n): (c["latency_ms"], c["accuracy"]) for n, c in enumerate(record["candidates"])
    }
    own = pick(places, "fastest", "R")
    small = ("--format", "onnx", "--precision", "fp16", "--images", 1)
    done = run("nas.export", searched, "--pick", "fastest", *small, "--out", "a", "--json")
    assert "random weights" in done.stderr
    manifest = json.loads(done.stdout)
    (network,) = manifest["networks"]
    assert network["asked"] == f"{searched}#{own}"
    (candidate,) = [c for n, c in enumerate(record["candidates"]) if c.get("id", n) == own]
    assert network["arch"] == candidate["arch"]
    (entry,) = network["files"]
    size = candidate["arch"]["resolution"][0]
    assert entry["name"] == f"front-{own}-{size}-fp16-untrained.onnx"
    predicted = entry["predicted_latency"]
    assert (predicted["device"], predicted["runtime"]) == ("orin", "tensorrt")
    assert (predicted["precision"], predicted["batch"]) == ("fp16", 1)
    assert predicted["latency_ms"] == candidate["latency_ms"]
    assert predicted["source"] == record["latency_source"]

    done = run("nas.export", f"{searched}#{own}", *small, "--out", "b", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")
    again = json.loads((tmp_path / "b" / MANIFEST).read_text())["networks"]
    assert again[0]["files"][0]["sha256"] == entry["sha256"]


def test_a_prediction_is_told_of_its_own_network_and_files_alone(tmp_path):
    (tmp_path / "net.json").write_text(tiny().to_json())
    known = Prediction("orin", 1.5, 0.1, "a table", "onnxruntime", "fp32", 1)
    own = Wanted(str(tmp_path / "net.json"), "net", tiny(), (known,))
    options = ExportOptions(out=tmp_path / "a", format=("onnx", "tflite"), images=1)
    (network,) = export(options, [own]).manifest["networks"]
    told = {entry["format"]: entry["predicted_latency"] for entry in network["files"]}
    assert told["onnx"]["latency_ms"] == 1.5
    assert told["tflite"] is None
    options = replace(options, out=tmp_path / "b", format=("onnx",), resolution="32")
    (network,) = export(options, [own]).manifest["networks"]
    assert network["predicted_latency"] == []
    assert network["files"][0]["predicted_latency"] is None


def test_a_thinned_out_network_has_its_prediction(searched):
    lines = (searched / "front_all.csv").read_text().splitlines()
    columns = lines[0].split(",")
    shown = {
        c.get("id", n)
        for n, c in enumerate(json.loads((searched / "front.json").read_text())["candidates"])
    }
    for line in lines[1:]:
        row = dict(zip(columns, line.split(","), strict=False))
        (own,) = wanted_networks((f"{searched}#{row['id']}",), None)
        assert own.predictions[0].latency_ms == pytest.approx(float(row["latency_ms"]), rel=1e-5)
        assert own.arch is not None
    assert shown <= {int(line.split(",")[0]) for line in lines[1:]}


def test_a_file_that_differs_does_not_get_its_name(tmp_path, monkeypatch, capsys):
    def another(*given, eps, **more):
        return build_pipeline(*given, eps=eps * 100, **more)

    monkeypatch.setattr("lut.exporting.job.build_pipeline", another)
    (tmp_path / "net.json").write_text(tiny().to_json())
    words = [str(tmp_path / "net.json"), "--format", "onnx", "--format", "safetensors"]
    with pytest.raises(SystemExit) as ended:
        main(Export, "nas.export", [*words, "--out", str(tmp_path / "out"), "--quiet"])
    assert ended.value.code == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "net-64-fp32-untrained.onnx.rejected" in said.err
    (network,) = json.loads((tmp_path / "out" / MANIFEST).read_text())["networks"]
    status = {entry["name"]: entry["status"] for entry in network["files"]}
    assert status == {
        "net-64-fp32-untrained.onnx.rejected": "rejected",
        "net-64-fp32-untrained.safetensors": "checked",
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*status, MANIFEST}


def test_a_file_that_its_runtime_does_not_take_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr("lut.exporting.job.build_pipeline", lambda *given, **more: b"no model")
    (tmp_path / "net.json").write_text(tiny().to_json())
    done, network = exported(tmp_path / "net.json", tmp_path / "out", format=("onnx", "tflite"))
    assert done.rejected == network["files"]
    assert all(entry["reason"] for entry in network["files"])
    assert not list((tmp_path / "out").glob("*.onnx"))


def test_data_without_pictures_is_refused_before_anything_is_written(trained, tmp_path):
    file, weights, _ = trained(tiny())
    (tmp_path / "data").mkdir()
    for more in ({}, {"weights": weights}):
        with pytest.raises(UserError, match="data"):
            exported(file, tmp_path / "out", format=("onnx",), data=tmp_path / "data", **more)
    assert not (tmp_path / "out").exists()


def test_what_is_not_finite_is_no_number_in_the_manifest(trained, tmp_path):
    file, weights, model = trained(tiny())
    with torch.no_grad():
        list(model.parameters())[-1][0] = 3e38  # a bias of the classifier
    save_weights(model, weights)
    done, network = exported(
        file, tmp_path / "out", weights=weights, format=("onnx",), precision=("fp16",)
    )
    (entry,) = network["files"]
    assert entry["relative_difference"] is None
    assert done.rejected == [entry]


@pytest.mark.parametrize("moment", ["write", "check"])
def test_a_killed_export_leaves_no_file_by_its_name(moment, tmp_path):
    """kill -9 while a file is written, or before it is checked."""
    (tmp_path / "net.json").write_text(tiny().to_json())
    code = f"""
import os, signal
from lut.exporting import onnx_file, run
from lut.exporting.options import ExportOptions, Wanted
def die(*given, **more):
    os.kill(os.getpid(), signal.SIGKILL)
if {moment!r} == "write":
    import results.files
    os.replace = die
else:
    onnx_file.load = die
options = ExportOptions(out={str(tmp_path / "out")!r}, format=("onnx",), images=1)
run.export(options, [Wanted({str(tmp_path / "net.json")!r}, "net")])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left
    assert all(name.startswith(".") for name in left)


def test_a_folder_that_holds_anything_is_left_alone(tmp_path, fails):
    (tmp_path / "net.json").write_text(tiny().to_json())
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    error = fails(
        Export, "nas.export", tmp_path / "net.json", "--format", "onnx", "--out", out, "--quiet"
    )
    assert "choose another --out" in error.replace("Choose", "choose")
    assert [path.name for path in out.iterdir()] == ["mine"]


def bad(words, said):
    return pytest.param(words, said, id=" ".join(words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        bad(["b0"], "--format: onnx, tflite, pt2, safetensors"),
        bad(["b0", "--format", "onx"], "did you mean 'onnx'"),
        bad(["b0", "--format", "coreml"], "choose from onnx, tflite, pt2, safetensors"),
        bad(["b0", "--format", "pt2", "--precision", "int8"], "choose from fp32, fp16"),
        bad(["b0", "--format", "safetensors", "--precision", "int8"], "choose from fp32, fp16"),
        bad(["b0", "--format", "onnx", "--precision", "int4"], "choose from fp32, fp16, int8"),
        bad(["b0", "--format", "onnx", "--max-drop", "-1"], "--max-drop must be 0 or more"),
        bad(["--format", "onnx"], "name the network to export"),
        bad(["b9", "--format", "onnx"], "did you mean"),
        bad(["b0", "B0", "--format", "onnx"], "would both be called b0"),
        bad(["b0", "--format", "onnx", "--head", "arg"], "did you mean 'argmax'"),
        bad(["b0", "--format", "onnx", "--input-type", "int8"], "did you mean 'uint8'"),
        bad(["b0", "--format", "safetensors", "--head", "argmax"], "leave --head"),
        bad(["b0", "--format", "safetensors", "--input-type", "uint8"], "leave --input-type"),
        bad(["sr_x2", "--format", "onnx", "--head", "argmax"], "leave --head argmax out"),
        bad(["sam_l0", "--format", "safetensors"], "promptable"),
        bad(["b0", "--format", "onnx", "--pick", "knee"], "b0 is no run folder"),
        bad(["b0", "--format", "onnx", "--pick", "ne"], "no pick 'ne'"),
        bad(["b0", "--format", "onnx", "--weights", "none.pt"], "none.pt is not there"),
        bad(["b0", "--format", "onnx", "--batch", "0"], "--batch must be 1 or more"),
        bad(["nothing#3", "--format", "onnx"], "no run folder nothing"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(words, said, fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in fails(Export, "nas.export", *words, "--quiet")
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_pick_is_refused(searched, fails):
    error = fails(Export, "nas.export", searched, "--format", "onnx")
    assert "#ID, or by --pick" in error
    error = fails(Export, "nas.export", searched, "--format", "onnx", "--pick", "<=0.001ms")
    assert "the nearest is" in error


def test_weights_of_another_network_are_refused(trained, tmp_path):
    _, weights, _ = trained(tiny())
    with pytest.raises(WeightsError, match=r"and not b .*; export it by python"):
        exported("b0", tmp_path / "out", weights=weights, format=("onnx",))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("format", "module", "extra"),
    [
        ("onnx", "onnxruntime", "device"),
        ("tflite", "ai_edge_litert", "device"),
        ("pt2", "torch", "torch"),
    ],
)
def test_a_runtime_that_is_missing_is_named_with_its_extra(
    format, module, extra, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "results.extras.find_spec", lambda name: None if name == module else find_spec(name)
    )
    with pytest.raises(UserError, match=rf"{module} is missing.*\[{extra}\]"):
        exported("b0", tmp_path / "out", format=(format,))
    assert not (tmp_path / "out").exists()


def test_pictures_of_a_folder_are_what_files_are_held_against(trained, tmp_path):
    from PIL import Image

    for number in range(3):
        for split in ("train", "val"):
            folder = tmp_path / "data" / split / f"kind{number}"
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (80, 70), (90 * number, 40 * i, 7)).save(folder / f"{i}.png")
    arch = tiny(ClassificationHead((48, 64), 3))
    file, weights, _ = trained(arch)
    done, network = exported(
        file, tmp_path / "out", weights=weights, data=tmp_path / "data", format=("onnx",),
        input_type="uint8", images=4,
    )  # fmt: skip
    assert not done.rejected
    assert network["checked_on"] == str(tmp_path / "data")
    assert network["files"][0]["pictures"] == 4
