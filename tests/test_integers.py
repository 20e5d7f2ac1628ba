"""int8 files: which blocks compute in integers, between which limits, and how near that is."""

import numpy as np
import pytest
import torch

from lut.builders.integers import (
    INTEGER_PARTS,
    Quantisation,
    integer_share,
    part_of,
    steps_between,
)
from lut.builders.network import build_network
from lut.builders.pipeline import Ends, build_pipeline
from lut.builders.weights import StateWeights
from supernet.blocks import Block, blocks_of
from supernet.cost import cost_of
from tests.test_export import ARCHS, pictures_for, run_onnx, run_tflite, seeded, tiny
from tests.test_tflite_builder import is_one_partition

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
litert = pytest.importorskip("ai_edge_litert.interpreter")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
FORMATS = ("onnx", "tflite")
RUN = {"onnx": run_onnx, "tflite": run_tflite}
PICTURES = 4


def built(format, model, quantisation, precision="int8"):
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    given = (format, model.arch, StateWeights(state), Ends())
    return build_pipeline(*given, precision=precision, quantisation=quantisation)


def all_outputs(format, data, picture):
    """{name of an output: its values} of a file that is in memory."""
    if format == "onnx":
        session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, {"image": picture}), strict=True))
    interpreter = litert.Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    interpreter.set_tensor(entry["index"], np.ascontiguousarray(np.moveaxis(picture, 1, -1)))
    interpreter.invoke()
    outputs = interpreter.get_output_details()
    return {output["name"]: interpreter.get_tensor(output["index"]) for output in outputs}


def limits_of(format, model, pictures):
    data = built(format, model, Quantisation(observes=True))
    limits: dict[str, tuple[float, float]] = {}
    for picture in pictures:
        for name, value in all_outputs(format, data, picture[None]).items():
            place, _, end = name.rpartition("/")
            place = place.partition(":")[0]  # several tensors may share one
            if place:
                low, high = limits.get(place, (np.inf, -np.inf))
                number = float(np.squeeze(value))
                limits[place] = (min(low, number), high) if end == "least" else (
                    low, max(high, number))  # fmt: skip
    return limits


def written(tmp_path, format, data):
    path = tmp_path / f"net.{format}"
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module", params=ARCHS)
def network(request):
    """A module, pictures, and the limits of its activations on these, by format."""
    arch = ARCHS[request.param]
    model = seeded(arch)
    model.arch = arch
    pictures = pictures_for(arch, PICTURES)
    return model, pictures, {format: limits_of(format, model, pictures) for format in FORMATS}


@pytest.mark.parametrize("format", FORMATS)
def test_limits_are_those_of_pytorch(format, network):
    """Of what every block passes on."""
    model, pictures, limits = network[0], network[1], network[2][format]
    seen = {}
    hooks = [
        model.get_submodule(block.name).register_forward_hook(
            lambda module, given, result, name=block.name: seen.update({name: result})
        )
        for block in blocks_of(model.arch)
        if block.kind not in ("upsample", "pixel_shuffle", "add")
    ]
    with torch.no_grad():
        model(torch.from_numpy(pictures))
    for hook in hooks:
        hook.remove()
    assert limits["image/out"] == pytest.approx((pictures.min(), pictures.max()), rel=1e-6)
    checked = 0
    for name, result in seen.items():
        expected = (float(result.min()), float(result.max()))
        assert limits[f"{name}/out"] == pytest.approx(
            expected, rel=1e-3, abs=1e-3 * max(map(abs, expected))
        )
        checked += 1
    assert checked > 5


@pytest.mark.parametrize("format", FORMATS)
def test_files_between_limits_are_near_pytorch(format, network, tmp_path):
    model, pictures, limits = network[0], network[1], network[2][format]
    with torch.no_grad():
        expected = model(torch.from_numpy(pictures)).numpy()
    everything = frozenset(block.name for block in blocks_of(model.arch))
    half = frozenset(sorted(everything)[::2])
    for floats, bound in ((frozenset(), 0.25), (half, 0.25), (everything, 1e-5)):
        data = built(format, model, Quantisation(limits, floats))
        assert format == "onnx" or is_one_partition(data)
        path = written(tmp_path, format, data)
        found = np.concatenate([RUN[format](path, picture[None]) for picture in pictures])
        error = np.sqrt(np.square(found - expected).mean() / np.square(expected).mean())
        assert error < bound, floats
        assert floats == everything or error > 1e-4


def optimised(data, tmp_path):
    """The nodes as ONNX Runtime runs them."""
    path = str(tmp_path / "optimised.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = path
    options.log_severity_level = 3
    ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


def test_no_product_of_activations_is_in_integers(network, tmp_path):
    model, _, limits = network
    data = built("onnx", model, Quantisation(limits["onnx"]))
    proto = onnx.load_from_string(data)
    kinds = [node.op_type for node in proto.graph.node]
    ran = optimised(data, tmp_path)
    products = sum("MatMul" in kind and "Integer" not in kind for kind in ran)
    assert products == kinds.count("MatMul")
    assert not {"MatMulInteger", "QLinearMatMul", "MatMulIntegerToFloat", "QLinearSoftmax"} & {*ran}
    inside = {"MatMul", "Div", "Softmax", "Exp", "ReduceSum"}
    constants = {tensor.name for tensor in proto.graph.initializer}
    makers = {out: node.op_type for node in proto.graph.node for out in node.output}
    for node in proto.graph.node:
        if node.op_type in inside and not constants & {*node.input}:  # no bicubic resizing
            readers = [n.op_type for n in proto.graph.node if node.output[0] in n.input]
            assert "QuantizeLinear" not in readers
        if node.op_type == "Div":
            assert all(makers.get(name) != "DequantizeLinear" for name in node.input)
    core = sum(block.kind == "hyena" for block in blocks_of(model.arch))
    assert ran.count("QLinearConv") == kinds.count("Conv") - core

    flat = schema.ModelT.InitFromPackedBuf(built("tflite", model, Quantisation(limits["tflite"])))
    (graph,) = flat.subgraphs
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    for operator in graph.operators:
        if names[flat.operatorCodes[operator.opcodeIndex].builtinCode] in (
            "BATCH_MATMUL", "DIV", "SOFTMAX", "EXP", "RSQRT", "MUL", "SUM",
        ):  # fmt: skip
            types = {graph.tensors[i].type for i in (*operator.inputs, *operator.outputs)}
            assert schema.TensorType.INT8 not in types


def test_weights_have_a_scale_for_each_output_channel():
    model = seeded(tiny())
    model.arch = tiny()
    limits = limits_of("onnx", model, pictures_for(tiny(), 1))
    proto = onnx.load_from_string(built("onnx", model, Quantisation(limits)))
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    made = {node.output[0]: node for node in proto.graph.node}
    weighted = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]
    for node in weighted:
        stored, scale, zero = (constants[name] for name in made[node.input[1]].input)
        assert stored.dtype == np.int8
        assert scale.shape == zero.shape == (len(stored),)
        assert not zero.any()
        largest = np.abs(stored.astype(int)).reshape(len(stored), -1).max(1)
        assert (largest <= 63).all()
        assert (largest == 63).mean() > 0.95
    kernel = model.get_submodule("stem.0.conv").conv.weight.detach()
    norm = model.get_submodule("stem.0.conv").norm
    folded = kernel * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None, None]
    stored, scale, _ = (constants[name] for name in made[weighted[0].input[1]].input)
    np.testing.assert_allclose(
        stored * scale[:, None, None, None], folded.detach(), atol=float(scale.max()) / 1.9
    )


ALONE = [
    Block("conv", 8, 12, 6, 6, kernel_size=3, activation="hswish"),
    Block("mbconv", 8, 8, 6, 6, mid_channels=16, kernel_size=3, activation="hswish"),
    Block("dsconv", 8, 8, 6, 6, mid_channels=8, kernel_size=3, activation="hswish"),
    Block("resblock", 8, 8, 6, 6, mid_channels=8, kernel_size=3, activation="gelu_tanh"),
    Block("fused_mbconv", 8, 8, 6, 6, mid_channels=16, kernel_size=3, activation="gelu_tanh"),
    Block("layer_norm", 8, 8, 6, 6),
    Block("upsample", 8, 8, 6, 6, out_height=12, out_width=12, mode="bicubic"),
    Block("upsample", 8, 8, 6, 6, out_height=12, out_width=12, mode="bilinear"),
    Block("pool", 8, 8, 6, 6),
    Block("pixel_shuffle", 8, 2, 6, 6, stride=2, out_height=12, out_width=12),
    *(
        Block(kind, 32, 32, 6, 6, num_heads=2, head_dim=16)
        for kind in ("relu_linear", "softmax", "retention")
    ),
    *(Block(kind, 32, 32, 6, 6) for kind in ("hyena", "rwkv")),
]


@pytest.mark.parametrize("block", ALONE, ids=lambda block: f"{block.kind}{block.mode}")
def test_files_for_timing_follow_the_same_rule(block):
    """Which of a block's weights are int8, and whether its result is, in either format."""
    part = part_of(block)
    proto = onnx.load_from_string(build_network("onnx", [block], precision="int8"))
    made = {node.output[0]: node for node in proto.graph.node}
    weighted = [n for n in proto.graph.node if n.op_type in ("Conv", "Gemm")]
    in_int8 = [n for n in weighted if made.get(n.input[1])]
    core = block.kind == "hyena"
    assert len(in_int8) == (0 if part == "nothing" else len(weighted) - core)

    flat = schema.ModelT.InitFromPackedBuf(build_network("tflite", [block], precision="int8"))
    (graph,) = flat.subgraphs
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    rounded = set()
    for operator in graph.operators:
        kind = names[flat.operatorCodes[operator.opcodeIndex].builtinCode]
        if graph.tensors[operator.outputs[0]].type == schema.TensorType.INT8:
            rounded.add(kind)
    moving = {"RESHAPE", "TRANSPOSE", "CONCATENATION", "PAD", "QUANTIZE", "SLICE"}
    own = rounded - moving
    if part == "nothing":
        assert not rounded
    elif part == "convolutions":
        assert own <= {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD"}
        assert "CONV_2D" in own
    elif block.kind != "pixel_shuffle":
        assert own


def test_every_kind_of_block_is_in_the_rule_and_here():
    of_networks = {block.kind for arch in ARCHS.values() for block in blocks_of(arch)}
    assert set(INTEGER_PARTS) == {block.kind for block in ALONE} | of_networks


@pytest.mark.parametrize("format", FORMATS)
def test_a_channel_of_nothing_but_a_bias_keeps_it(format, tmp_path):
    """Biases are int32 at the scale of products, so that they set that of a channel without any."""
    model = seeded(tiny())
    model.arch = tiny()
    norm = model.get_submodule("stem.0.conv").norm
    with torch.no_grad():
        norm.weight[:2] = 0
        norm.bias[:2] = torch.tensor([3.0, 1.5])
    pictures = pictures_for(tiny(), 2)
    data = built(format, model, Quantisation(limits_of(format, model, pictures)))
    path = written(tmp_path, format, data)
    if format == "onnx":
        kinds = [node.op_type for node in onnx.load_from_string(data).graph.node]
        assert optimised(data, tmp_path).count("QLinearConv") == kinds.count("Conv")
    with torch.no_grad():
        expected = model(torch.from_numpy(pictures)).numpy()
    found = np.concatenate([RUN[format](path, picture[None]) for picture in pictures])
    assert np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()) < 0.25


def test_the_share_of_integers_is_that_of_the_convolutions_in_the_file():
    """Counted from the shapes of an ONNX file's nodes."""
    model = seeded(tiny())
    model.arch = tiny()
    blocks = blocks_of(tiny())
    limits = limits_of("onnx", model, pictures_for(tiny(), 1))
    for floats in (frozenset(), frozenset(block.name for block in blocks[:3])):
        proto = onnx.load_from_string(built("onnx", model, Quantisation(limits, floats)))
        shapes = {
            value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in onnx.shape_inference.infer_shapes(proto).graph.value_info
        }
        made = {node.output[0]: node for node in proto.graph.node}
        macs = 0
        for node in proto.graph.node:
            if node.op_type in ("Conv", "Gemm") and made.get(node.input[1]):
                macs += np.prod(shapes[node.output[0]]) * np.prod(shapes[node.input[1]][1:])
        total = sum(cost_of(block).macs for block in blocks)
        assert integer_share(blocks, floats) == pytest.approx(macs / total)


@pytest.mark.parametrize("limits", [(-1.0, 3.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0)])
def test_steps_hold_both_ends_and_zero(limits):
    scale, zero = steps_between(*limits)
    assert 0 <= zero <= 255
    for number in (*limits, 0.0):
        step = np.clip(np.rint(number / scale) + zero, 0, 255)
        assert scale * (step - zero) == pytest.approx(number, abs=scale / 1.9)
    assert scale * (zero - zero) == 0
