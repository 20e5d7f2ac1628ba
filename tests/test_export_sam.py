"""`nas.export` of promptable networks: an encoder and a decoder, as `Sam` answers prompts."""

import numpy as np
import pytest
import torch

from lut.exporting.run import MANIFEST
from results.errors import ArchError
from supernet.arch import Arch, PromptableHead
from supernet.model import build_task_model
from supernet.weights.files import save_weights
from tests.seeded import seeded_state
from tests.test_export import exported, far, tiny
from tests.test_export_formats import run_openvino

ort = pytest.importorskip("onnxruntime")
litert = pytest.importorskip("ai_edge_litert.interpreter")
ARCH = tiny(PromptableHead(1, 1, width=16))
CLICK, CORNER = ((200.0, 300.0),), ((100.0, 150.0), (700.0, 650.0))


@pytest.fixture(scope="module")
def sam():
    model = build_task_model(ARCH)
    state = seeded_state((k, v.shape) for k, v in model.state_dict().items())
    model.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in state.items()})
    return model.eval()


@pytest.fixture
def weights(sam, tmp_path):
    save_weights(sam, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def run_onnx(path, inputs):
    session = ort.InferenceSession(path)
    return {
        o.name: v for o, v in zip(session.get_outputs(), session.run(None, inputs), strict=True)
    }


def run_tflite(path, inputs):
    interpreter = litert.Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    for entry in interpreter.get_input_details():
        values = inputs[entry["name"]]
        values = np.moveaxis(values, 1, -1) if values.ndim == 4 else values
        interpreter.set_tensor(entry["index"], np.ascontiguousarray(values))
    interpreter.invoke()
    outputs = {
        o["name"]: interpreter.get_tensor(o["index"]) for o in interpreter.get_output_details()
    }
    return {n: np.moveaxis(v, -1, 1) if v.ndim == 4 else v for n, v in outputs.items()}


def run_pt2(path, inputs):
    names = [name for name in ("image", "embedding", "points", "labels") if name in inputs]
    with torch.no_grad():
        module = torch.export.load(path).module()
        found = module(*(torch.from_numpy(inputs[name]) for name in names))
    if isinstance(found, tuple):
        return {"masks": found[0].numpy(), "scores": found[1].numpy()}
    return {"output": found.numpy()}


RUN = {"onnx": run_onnx, "tflite": run_tflite, "pt2": run_pt2}


def answers(sam, picture, **prompt):
    """All four masks and their scores, by the model itself."""
    with torch.no_grad():
        found = [sam(torch.from_numpy(picture), **prompt, multimask=many) for many in (False, True)]
    return [torch.cat(own, 1) for own in zip(*found, strict=True)]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_encoder_and_decoder_answer_prompts_as_sam_does(precision, sam, weights, tmp_path):
    out = tmp_path / "out"
    formats = tuple(RUN) if precision == "fp32" else ("onnx", "tflite")
    done, told = exported(weights, out, format=formats, precision=(precision,))
    assert not done.rejected
    files = {(file["format"], file["part"]): out / file["name"] for file in told["files"]}
    assert set(files) == {(format, part) for format in formats for part in ("encoder", "decoder")}
    assert {path.name for path in out.iterdir()} == {p.name for p in files.values()} | {MANIFEST}
    picture = np.random.default_rng(1).standard_normal((1, 3, 64, 64)).astype(np.float32)
    click, box = (torch.tensor([places]) for places in (CLICK, CORNER))
    prompts = [
        # a click is followed by what stands for no box
        (
            [*CLICK, (0.0, 0.0)],
            [1, -1],
            answers(sam, picture, points=click, labels=torch.ones(1, 1)),
        ),
        (CORNER, [2, 3], answers(sam, picture, boxes=box.flatten(1))),
    ]
    bound = 1e-5 if precision == "fp32" else 2e-2
    for format in formats:
        embedding = RUN[format](files[format, "encoder"], {"image": picture})["output"]
        assert embedding.shape == (1, 256, 64, 64)
        for places, labels, expected in prompts:
            inputs = {
                "embedding": embedding,
                "points": np.array([places], np.float32),
                "labels": np.array([labels], np.float32),
            }
            found = RUN[format](files[format, "decoder"], inputs)
            for name, own in zip(("masks", "scores"), expected, strict=True):
                assert found[name].dtype == np.float32
                assert far(found[name], own) <= bound, (format, name, labels)


def test_more_points_are_more_clicks(sam, weights, tmp_path):
    _, told = exported(weights, tmp_path / "out", format=("onnx", "openvino"), points=4)
    picture = np.random.default_rng(2).standard_normal((1, 3, 64, 64)).astype(np.float32)
    points = np.array([[(10, 20), (500, 700), (900, 30), (0, 0)]], np.float32)
    labels = np.array([[1, 0, 1, -1]], np.float32)
    clicks = torch.from_numpy(points[:, :3]), torch.from_numpy(labels[:, :3])
    expected, _ = answers(sam, picture, points=clicks[0], labels=clicks[1])
    with torch.no_grad():
        embedding = sam.image_encoder(torch.from_numpy(picture)).numpy()
    names = {(f["format"], f["part"]): tmp_path / "out" / f["name"] for f in told["files"]}
    inputs = {"embedding": embedding, "points": points, "labels": labels}
    assert far(run_onnx(names["onnx", "decoder"], inputs)["masks"], expected) <= 1e-5
    assert far(run_openvino(names["openvino", "decoder"], inputs), expected) <= 1e-5


def test_the_decoder_says_whose_it_is(weights, tmp_path):
    import onnx

    _, told = exported(weights, tmp_path / "out", format=("onnx",), input_type="uint8")
    texts = {}
    for file in told["files"]:
        model = onnx.load(tmp_path / "out" / file["name"])
        onnx.checker.check_model(model, full_check=True)
        texts[file["part"]] = {entry.key: entry.value for entry in model.metadata_props}
    assert {part: own["part"] for part, own in texts.items()} == {p: p for p in texts}
    assert all(Arch.from_json(own["arch"]) == ARCH for own in texts.values())
    assert len({own["weights_sha256"] for own in texts.values()}) == 1


def test_what_promptable_networks_are_not_exported_as_is_refused(weights, tmp_path):
    with pytest.raises(ArchError, match="leave --format safetensors out"):
        exported(weights, tmp_path / "out", format=("safetensors",))
    with pytest.raises(ArchError, match="take --precision fp16"):
        exported(weights, tmp_path / "out", format=("onnx",), precision=("int8",))
    assert not (tmp_path / "out").exists()
