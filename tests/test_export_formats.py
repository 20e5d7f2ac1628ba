"""`nas.export` to OpenVINO and TensorRT: by OpenVINO, and by a stand-in that runs ONNX Runtime."""

import copy
import hashlib
import os
import shlex
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from lut.exporting.check import examples_of, rounding_of
from lut.exporting.job import Job
from lut.exporting.networks import plan_networks
from lut.exporting.options import ExportOptions, Wanted
from lut.exporting.run import MANIFEST
from nas.export import Export
from results.console import main
from results.errors import TargetError, UserError
from supernet.arch import Arch
from supernet.weights.files import save_weights
from supernet.weights.header import WeightsHeader
from tests.conftest import ROOT
from tests.test_export import (
    ENLARGER,
    SEEN,
    SEGMENTER,
    exported,
    far,
    pictures_for,
    pixels_for,
    run_onnx,
    seeded,
    tiny,
)

openvino = pytest.importorskip("openvino")

# Takes the documented flags of a build and of one run to the letter; its engine is the ONNX file.
TRTEXEC = """#!{python}
import json, os, sys
import numpy as np
flags = dict((argument.split("=", 1) + [None])[:2] for argument in sys.argv[1:])
print("&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] # trtexec", *sys.argv[1:])
if "--help" in flags:
    sys.exit(0)
def fail(why):
    print("[E] Error[1]:", why, file=sys.stderr)
    sys.exit(1)
if "--onnx" in flags:
    wanted = {{"--onnx", "--saveEngine", "--timingCacheFile", "--builderOptimizationLevel",
              "--skipInference"}}
    wanted |= {{"--stronglyTyped"}} if {version} < 110000 else set()
    if set(flags) != wanted:
        fail("Unknown option: " + " ".join(sorted(set(flags) ^ wanted)))
    open(flags["--saveEngine"], "wb").write(open(flags["--onnx"], "rb").read())
else:
    wanted = {{"--loadEngine", "--loadInputs", "--warmUp", "--iterations", "--duration",
              "--avgRuns", "--exportOutput"}}
    if set(flags) != wanted:
        fail("Unknown option: " + " ".join(sorted(set(flags) ^ wanted)))
    import onnxruntime
    session = onnxruntime.InferenceSession(open(flags["--loadEngine"], "rb").read())
    (entry,) = session.get_inputs()
    name, _, path = flags["--loadInputs"].partition(":")
    assert name == entry.name
    kind = np.uint8 if "uint8" in entry.type else np.float32
    given = np.fromfile(path, kind).reshape(entry.shape)
    (found,) = session.run(None, {{name: given}})
    found = found + {error} * abs(found).max()
    values = [float(value) for value in found.ravel()]
    output = dict(name="output", dimensions="x".join(map(str, found.shape)), values=values)
    json.dump([output], open(flags["--exportOutput"], "w"))
print("&&&& PASSED TensorRT.trtexec [TensorRT v{version}]")
"""


@pytest.fixture
def tensorrt(tmp_path, monkeypatch):
    """Put the stand-in on PATH, of a version, whose engines err by a share of the largest."""

    def install(version, error=0.0):
        folder = tmp_path / "bin"
        folder.mkdir()
        text = TRTEXEC.format(python=sys.executable, version=version, error=error)
        (folder / "trtexec").write_text(text)
        (folder / "trtexec").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    return install


@pytest.fixture
def network(tmp_path):
    """An Arch as a file."""
    (tmp_path / "net.json").write_text(tiny().to_json())
    return tmp_path / "net.json"


def run_openvino(path, inputs):
    """Return the first output for pictures, or for inputs by name."""
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(inputs if isinstance(inputs, dict) else [inputs])[0]


@pytest.mark.parametrize("arch", [tiny(), ENLARGER], ids=["classes", "sr"])
def test_openvino_files_are_what_pytorch_is(arch, tmp_path):
    model = seeded(arch)
    model.preprocessing = SEEN
    save_weights(model, tmp_path / "net.safetensors")
    out = tmp_path / "out"
    done, told = exported(
        tmp_path / "net.safetensors", out, format=("openvino",), precision=("fp32", "fp16")
    )
    assert not done.rejected
    pictures = pictures_for(arch)
    with torch.no_grad():
        expected = model(torch.from_numpy(pictures))
    sizes = {}
    for entry in told["files"]:
        (weights,) = entry["companions"]
        assert (entry["name"][-4:], weights["name"][-4:]) == (".xml", ".bin")
        for file in (entry, weights):
            data = (out / file["name"]).read_bytes()
            assert file["bytes"] == len(data)
            assert file["sha256"] == hashlib.sha256(data).hexdigest()
        bound = 1e-5 if entry["precision"] == "fp32" else 2e-2
        assert far(run_openvino(out / entry["name"], pictures), expected) <= bound
        sizes[entry["precision"]] = weights["bytes"]
        model_file = openvino.Core().read_model(out / entry["name"])
        said = model_file.get_rt_info(["efficientvit_nas", "arch"]).value
        assert Arch.from_json(said) == arch
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    names = {f["name"] for entry in told["files"] for f in (entry, *entry["companions"])}
    assert {path.name for path in out.iterdir()} == names | {MANIFEST}


DYNAMIC = {
    "classes": (tiny(), "softmax"),
    "softmax": (tiny(mixer="softmax"), "logits"),
    "hyena": (tiny(mixer="hyena"), "logits"),
    "retention": (tiny(mixer="retention"), "logits"),
    "rwkv": (tiny(mixer="rwkv"), "logits"),
    "seg": (SEGMENTER, "argmax"),
    "sr": (ENLARGER, "logits"),
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_file_takes_any_batch(name, tmp_path):
    arch, head = DYNAMIC[name]
    (tmp_path / "net.json").write_text(arch.to_json())
    ends = {"head": head, "format": ("onnx",), "dynamic": "batch"}
    done, told = exported(tmp_path / "net.json", tmp_path / "out", **ends)
    assert not done.rejected
    assert told["files"][0]["pictures"] == 2 + 3
    path = tmp_path / "out" / told["files"][0]["name"]
    pictures = pictures_for(arch, 5)
    found = run_onnx(path, pictures)
    each = np.concatenate([run_onnx(path, picture[None]) for picture in pictures])
    assert found.shape == each.shape
    np.testing.assert_allclose(found, each, rtol=1e-4, atol=1e-5 * np.abs(each).max())


@pytest.mark.parametrize("arch", [tiny(), SEGMENTER, ENLARGER], ids=["classes", "seg", "sr"])
def test_a_file_takes_any_size(arch, tmp_path):
    """Small ones, whose attention PyTorch writes by weights of positions, and large ones."""
    model = seeded(arch)
    save_weights(model, tmp_path / "net.safetensors")
    done, told = exported(
        tmp_path / "net.safetensors", tmp_path / "out", format=("onnx",), dynamic="size"
    )
    assert not done.rejected
    assert told["files"][0]["pictures"] == 3
    assert told["dynamic"] == "size"
    for size in ((32, 64), (160, 96), (320, 256)):
        pictures = pictures_for(replace(arch, resolution=size))
        with torch.no_grad():
            expected = model(torch.from_numpy(pictures))
        found = run_onnx(tmp_path / "out" / told["files"][0]["name"], pictures)
        assert far(found, expected) <= 1e-5


@pytest.mark.parametrize(
    ("arch", "given", "said"),
    [
        (tiny(), {"format": ("tflite",)}, "tflite files are of one batch and size"),
        (tiny(), {"precision": ("fp16",)}, "leave --dynamic size or --precision fp16 out"),
        (tiny(), {"head": "softmax"}, "leave --head out"),
        (tiny(mixer="softmax"), {}, "softmax is exported for one size"),
        (tiny(resolution=(72, 64)), {}, "sizes that 32 divides"),
        (tiny(), {"dynamic": "sizes"}, "did you mean 'size'"),
    ],
)
def test_sizes_that_cannot_vary_are_refused(arch, given, said, tmp_path):
    (tmp_path / "net.json").write_text(arch.to_json())
    options = {"format": ("onnx",), "dynamic": "size"} | given
    with pytest.raises(UserError, match=said):
        exported(tmp_path / "net.json", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_openvino_takes_stored_pictures(network, tmp_path):
    done, told = exported(
        network, tmp_path / "out", format=("openvino", "onnx"), input_type="uint8", head="argmax"
    )
    assert not done.rejected
    pixels = pixels_for(tiny())
    one, other = (tmp_path / "out" / entry["name"] for entry in told["files"])
    np.testing.assert_array_equal(run_openvino(one, pixels), run_onnx(other, pixels))


def test_openvino_reports_nothing_and_leaves_the_home_alone(network, tmp_path):
    """Its package writes an identity to HOME and reports each import over the network."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "nas.export", str(network), "--format", "openvino"]
    command += ["--images", "1", "--out", str(tmp_path / "out"), "--quiet"]
    subprocess.run(command, env=environment, check=True)
    assert not (home / "intel").exists()


@pytest.mark.parametrize("version", [101200, 110000])
def test_an_engine_is_built_and_run_where_tensorrt_is(version, network, tensorrt, tmp_path):
    tensorrt(version)
    done, told = exported(network, tmp_path / "out", format=("tensorrt",), head="softmax")
    (entry,) = told["files"]
    assert not done.rejected
    assert entry["name"].endswith(".engine")
    assert [file["name"][-14:] for file in entry["companions"]] == [".tensorrt.onnx"]
    assert (
        entry["checked_with"]
        == entry["engine"]
        == f"TensorRT {version // 10000}.{version % 10000 // 100}"
    )
    assert 0 <= entry["relative_difference"] <= 1e-5


def test_an_engine_that_is_off_is_rejected_with_its_file(network, tensorrt, tmp_path):
    tensorrt(101200, error=0.01)
    done, told = exported(network, tmp_path / "out", format=("tensorrt",))
    assert done.rejected == told["files"]
    assert told["files"][0]["relative_difference"] == pytest.approx(0.01, rel=0.01)
    assert all(
        path.name.endswith(".rejected") or path.name == MANIFEST
        for path in (tmp_path / "out").iterdir()
    )


def test_a_file_may_be_off_by_what_pytorch_itself_is(
    network, tensorrt, tmp_path, monkeypatch, capsys
):
    tensorrt(101200, error=0.01)
    monkeypatch.setattr("lut.exporting.run.rounding_of", lambda *given: 0.005)
    done, told = exported(network, tmp_path / "out", format=("tensorrt",))
    assert not done.rejected
    assert told["files"][0]["pytorch_rounding"] == 0.005
    words = [
        str(network),
        "--format",
        "tensorrt",
        "--images",
        "1",
        "--out",
        str(tmp_path / "third"),
    ]
    main(Export, "nas.export", words)
    assert "(PyTorch itself 5.0e-03 from float64)" in capsys.readouterr().out
    monkeypatch.setattr("lut.exporting.run.rounding_of", lambda *given: 0.003)
    done, told = exported(network, tmp_path / "other", format=("tensorrt",))
    assert done.rejected == told["files"]


def test_rounding_is_that_of_float32_beside_float64(tmp_path):
    model = seeded(tiny())
    model.preprocessing = SEEN
    header = WeightsHeader(preprocessing=SEEN)
    save_weights(model, tmp_path / "net.safetensors", **header.to_metadata())
    options = ExportOptions(format=("onnx",), images=3, input_type="uint8")
    (plan,) = plan_networks(options, [Wanted(str(tmp_path / "net.safetensors"), "net")], print)
    job = Job(plan.make(), options.forms[0], 1, "uint8", "logits")
    examples = examples_of(job, options)
    mean, std = (torch.tensor(v).double().view(1, 3, 1, 1) for v in (SEEN.mean, SEEN.std))
    far, largest = [], []
    for example in examples:
        pictures = (torch.from_numpy(example.pictures) / 255.0 - mean) / std
        with torch.no_grad():
            exact = copy.deepcopy(model).double()(pictures.float().double())
        far.append((torch.from_numpy(example.logits) - exact).abs().max())
        largest.append(exact.abs().max())
    assert rounding_of(job, examples) == pytest.approx(float(max(far) / max(largest)), rel=0.2)
    assert 1e-8 < rounding_of(job, examples) < 1e-5


def test_an_old_tensorrt_is_refused(network, tensorrt, tmp_path):
    tensorrt(8601)
    with pytest.raises(TargetError, match=r"TensorRT 8.6 .* take --format onnx"):
        exported(network, tmp_path / "out", format=("tensorrt",))
    assert not [path for path in (tmp_path / "out").iterdir() if "net" in path.name]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_elsewhere_its_typed_file_comes_with_the_command(precision, network, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    done, told = exported(network, tmp_path / "out", format=("tensorrt",), precision=(precision,))
    assert not done.rejected
    (entry,) = told["files"]
    assert entry["engine"] is None
    assert "onnxruntime" in entry["checked_with"]
    words = {version: shlex.split(line) for version, line in entry["trtexec"].items()}
    assert words["10"] == [*words["11"], "--stronglyTyped"]
    assert words["11"][0] == "trtexec"
    assert words["11"][1] == f"--onnx={entry['name']}"
    import onnx

    model = onnx.load(tmp_path / "out" / entry["name"])
    kinds = {i.data_type for i in model.graph.initializer if len(i.dims) == 4}
    half = onnx.TensorProto.FLOAT16
    assert kinds == {half if precision == "fp16" else onnx.TensorProto.FLOAT}
