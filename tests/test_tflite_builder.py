from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from lut.builders.network import build_network
from lut.builders.weights import StateWeights
from results.errors import DeviceError
from supernet.arch import (
    Arch,
    ClassificationHead,
    PromptableHead,
    ReconstructionHead,
    SegmentationHead,
    Stage,
    Stem,
    SuperResolutionHead,
)
from supernet.blocks import Activation, Block, Norm
from supernet.model import build, module_of
from supernet.official import named_arch
from tests.seeded import seeded_picture, seeded_state

EPS = 1e-5


def relative_difference(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def seeded_module(module):
    module.load_state_dict(seeded_state((k, v.shape) for k, v in module.state_dict().items()))
    return module.eval()


def name_of(block):
    fields = (block.kind, block.height, block.width, block.kernel_size, block.stride, block.norm)
    return "-".join(map(str, (*fields, block.mode, block.head_dim, *block.scales)))


def channels_last(tensor):
    return (tensor.movedim(1, -1) if tensor.ndim == 4 else tensor).numpy()


def file_of(module, block, **options):
    state = {f"block.{name}": tensor.numpy() for name, tensor in module.state_dict().items()}
    weights = StateWeights(state)
    return build_network(
        "tflite", [replace(block, name="block")], weights=weights, eps=EPS, **options
    )


def pictures(block, batch=1, scale=1.0):
    shape = (batch, block.in_channels, block.height, block.width)
    return torch.from_numpy(np.random.default_rng(7).standard_normal(shape) * scale)


def interpreter_of(data):
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def run(data, x):
    interpreter = interpreter_of(data)
    (entry,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert entry["dtype"] == out["dtype"] == np.float32
    interpreter.set_tensor(entry["index"], np.ascontiguousarray(channels_last(x), np.float32))
    interpreter.invoke()
    return interpreter.get_tensor(out["index"])


def is_one_partition(data):
    """Whether XNNPACK takes all operators at once.

    It is one node more then, which writes the output and reads nothing that another node wrote.
    """
    operators = interpreter_of(data)._get_ops_details()
    delegates = [op for op in operators if op["op_name"] == "DELEGATE"]
    (graph,) = schema.ModelT.InitFromPackedBuf(data).subgraphs
    written = {output for op in graph.operators for output in op.outputs}
    return (
        len(delegates) == 1
        and written.isdisjoint(delegates[0]["inputs"])
        and set(delegates[0]["outputs"]) == set(graph.outputs)
    )


def compare(block, batch=1, module=None):
    """Relative difference to PyTorch in float64."""
    module = module or seeded_module(module_of(block, EPS).double())
    x = pictures(block, batch)
    with torch.no_grad():
        expected = channels_last(module(x))
    data = file_of(module, block, batch=batch)
    assert is_one_partition(data)
    return relative_difference(run(data, x), expected)


CONVENTIONS: tuple[tuple[Norm, Activation], ...] = (("batch", "hswish"), ("fewer", "gelu_tanh"))
LOCAL = [
    Block("conv", 3, 8, 14, 10, kernel_size=3, stride=2, activation="hswish"),
    Block("conv", 3, 8, 13, 9, kernel_size=3, stride=2, activation="gelu_tanh"),
    Block("conv", 6, 10, 5, 7, norm="none"),
    Block("conv", 5, 12, 6, 7, kernel_size=3, norm="none"),
    Block("dsconv", 8, 8, 9, 12, mid_channels=8, kernel_size=3, activation="hswish", residual=True),
    Block("dsconv", 8, 12, 12, 13, mid_channels=8, kernel_size=5, stride=2, activation="hswish"),
    Block("mbconv", 6, 6, 8, 7, mid_channels=24, kernel_size=3, activation="hswish", residual=True),
    Block("fused_mbconv", 6, 9, 14, 9, mid_channels=12, kernel_size=3, stride=2),
    Block("resblock", 6, 6, 7, 8, mid_channels=6, kernel_size=3, residual=True),
    Block("resblock", 6, 9, 10, 9, mid_channels=6, kernel_size=3, stride=2, activation="gelu_tanh"),
    *(
        Block(
            "mbconv",
            6,
            10,
            *size,
            mid_channels=18,
            kernel_size=kernel_size,
            stride=stride,
            norm=norm,
            activation=activation,
        )
        for kernel_size, size in ((3, (12, 8)), (5, (11, 8)), (7, (9, 9)), (7, (8, 6)))
        for stride in (1, 2)
        for norm, activation in CONVENTIONS
    ),
]


@pytest.mark.parametrize("block", LOCAL, ids=name_of)
def test_a_convolutional_block_equals_pytorch(block):
    assert compare(block) <= 1e-5


HEADS = [
    Block("pool", 10, 10, 5, 7),
    Block("linear", 10, 12, 1, 1, norm="none"),
    Block("linear", 10, 16, 1, 1, norm="layer", activation="hswish"),
    Block("layer_norm", 12, 12, 6, 5, norm="layer"),
    Block("pixel_shuffle", 12, 3, 5, 7, stride=2, out_height=10, out_width=14),
    Block("pixel_shuffle", 32, 2, 3, 4, stride=4, out_height=12, out_width=16),
    *(
        Block("upsample", channels, channels, *size, out_height=height, out_width=width, mode=mode)
        for mode in ("bilinear", "bicubic")
        for channels, size, height, width in (
            (3, (30, 21), 60, 42),  # bicubic by convolution
            (3, (1, 40), 4, 160),
            (8, (7, 6), 14, 12),
            (8, (7, 5), 21, 10),
            (8, (9, 13), 31, 40),
            (4, (8, 9), 5, 9),
        )
    ),
]


@pytest.mark.parametrize("block", HEADS, ids=name_of)
def test_a_block_of_a_head_equals_pytorch(block):
    module = seeded_module(module_of(block, EPS).double())
    x = pictures(block, batch=2)
    x = x[:, :, 0, 0] if block.kind == "linear" else x
    with torch.no_grad():
        expected = channels_last(module(x))
    found = run(file_of(module, block, batch=2), x[:, :, None, None] if x.ndim == 2 else x)
    assert relative_difference(found.reshape(expected.shape), expected) <= 1e-5


def relu_linear(height, width, *, dim=16, scales=(5,), residual=False):
    return Block(
        "relu_linear", 32, 32, height, width, num_heads=32 // dim, head_dim=dim, scales=scales,
        residual=residual,
    )  # fmt: skip


def mixer(kind, height, width, *, dim=16, residual=False):
    heads = (32 // dim, dim) if kind in ("softmax", "retention") else (0, 0)
    return Block(
        kind, 32, 32, height, width, num_heads=heads[0], head_dim=heads[1], residual=residual
    )


MIXERS = [
    *(
        relu_linear(*size, dim=dim, scales=scales, residual=size == (7, 9))
        for size in ((7, 9), (4, 4), (3, 5))  # linear, quadratic, quadratic for D = 16, 32
        for dim in (16, 32)
        for scales in ((), (3,), (5,), (3, 5))
    ),
    *(
        mixer(kind, *size, dim=dim, residual=size == (7, 7))
        for kind in ("softmax", "hyena", "retention", "rwkv")
        for size in ((7, 7), (6, 9), (1, 5))
        for dim in ((16, 32) if kind in ("softmax", "retention") else (16,))
    ),
    mixer("hyena", 14, 11),
    mixer("retention", 20, 21),  # map, decays of an axis at a time
    mixer("retention", 33, 29),  # tiles, neither side a multiple
    mixer("rwkv", 20, 11),
]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("block", MIXERS, ids=name_of)
def test_a_mixer_equals_pytorch(block, batch):
    assert compare(block, batch) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relu_linear", "softmax", "hyena", "retention", "rwkv"])
def test_a_mixer_equals_pytorch_on_a_large_map(kind):
    block = mixer(kind, 64, 72)
    if kind == "relu_linear":
        block = replace(block, num_heads=2, head_dim=16, scales=(3, 5))
    assert compare(block) <= 1e-5


def test_a_token_that_sees_nothing_is_zero_as_in_pytorch():
    block = relu_linear(5, 5)
    module = seeded_module(module_of(block, EPS))
    nothing = torch.zeros(1, 32, 5, 5)
    with torch.no_grad():
        expected = channels_last(module(nothing))
    for precision in ("fp32", "fp16"):
        found = run(file_of(module, block, precision=precision), nothing)
        np.testing.assert_allclose(found, expected, atol=1e-3 if precision == "fp16" else 1e-6)


@pytest.mark.parametrize("size", [40.0, 12.0])
def test_rwkv_keeps_steep_decays(size):
    block = mixer("rwkv", 6, 7)
    module = seeded_module(module_of(block, EPS).double())
    signs = torch.arange(32).double() % 3 - 1
    module.decay.data, module.bonus.data = size * signs, size * signs.roll(1)
    module.key.conv.weight.data *= 10
    assert compare(block, module=module) <= 1e-5


STEM = Stem(8)
STAGES = (
    Stage(8, 1),
    Stage(16, 1, kernel_size=5),
    Stage(32, 1, mixer="relu_linear", scales=(3, 5), head_dim=16),
    Stage(32, 1, kernel_size=7, mixer="relu_linear", scales=(5,), head_dim=16),
)
STAGES_L = (
    Stage(8, 1, local="resblock", expand_ratio=1),
    Stage(16, 1, local="fused_mbconv"),
    Stage(16, 1),
    Stage(32, 1, mixer="relu_linear", head_dim=32),
)
ARCHS = {
    "classification": Arch("b", (65, 97), STEM, STAGES, ClassificationHead((24, 40), 10)),
    "classification l": Arch("l", (96, 64), STEM, STAGES_L, ClassificationHead((24, 40), 10)),
    "no head": Arch("b", (64, 64), STEM, STAGES, None),
    "segmentation": Arch(
        "b", (96, 128), STEM, STAGES, SegmentationHead(16, 1, 4, "mbconv", 4, 19, "bicubic")
    ),
    "segmentation l": Arch(
        "l", (64, 96), STEM, STAGES_L, SegmentationHead(16, 1, 4, "fused_mbconv", 0, 19, "bilinear")
    ),
    "promptable": Arch("l", (128, 128), STEM, STAGES_L, PromptableHead(1, 4, 16, 24, size=13)),
    "super-resolution": Arch(
        "b", (33, 40), replace(STEM, stride=1), STAGES, SuperResolutionHead(8, 1, 4, 2)
    ),
    "pre-training": Arch("b", (64, 96), STEM, STAGES, ReconstructionHead()),
}


def network(name):
    arch = ARCHS[name]
    model = seeded_module(build(arch))
    picture = seeded_picture(*arch.resolution)
    x = torch.cat([picture, picture.flip(-1)]).float()
    with torch.no_grad():
        expected = channels_last(model(x))
    return arch, StateWeights({k: v.numpy() for k, v in model.state_dict().items()}), x, expected


@pytest.mark.parametrize("name", ARCHS)
def test_a_network_equals_pytorch_at_every_precision(name):
    arch, weights, x, expected = network(name)
    allowed = {"fp32": 1e-5, "fp16": 5e-3, "int8": 2.0}  # int8: of the right order alone
    for precision, most in allowed.items():
        data = build_network("tflite", arch, weights=weights, precision=precision, batch=2)
        assert is_one_partition(data)
        assert relative_difference(run(data, x), expected) <= most


def test_b1_is_one_partition_of_xnnpack():
    data = build_network("tflite", named_arch("b1"))
    assert is_one_partition(data)


def test_input_and_output_go_by_their_names():
    data = build_network("tflite", ARCHS["segmentation"], batch=3)
    interpreter = interpreter_of(data)
    (entry,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (entry["name"], list(entry["shape"])) == ("image", [3, 96, 128, 3])
    assert (out["name"], list(out["shape"])) == ("output", [3, 12, 16, 19])


def test_fp16_holds_its_weights_in_half():
    sizes = [
        len(build_network("tflite", named_arch("b0"), precision=precision))
        for precision in ("fp32", "fp16", "int8")
    ]
    assert 0.5 < sizes[1] / sizes[0] < 0.55
    assert 0.25 < sizes[2] / sizes[0] < 0.35


@pytest.mark.parametrize("block", [relu_linear(5, 5, dim=32), *MIXERS[12::3]], ids=name_of)
def test_a_file_is_the_same_every_time_and_leaves_the_weights_alone(block):
    module = seeded_module(module_of(replace(block, residual=False), EPS))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    files = [file_of(module, replace(block, residual=False)) for _ in range(2)]
    assert files[0] == files[1]
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


def test_random_weights_run_with_finite_results():
    for precision in ("fp32", "fp16", "int8"):
        data = build_network("tflite", ARCHS["classification"], precision=precision)
        found = run(data, seeded_picture(65, 97))
        assert np.isfinite(found).all()
        assert found.std() > 0


def test_an_unknown_precision_names_the_nearest():
    with pytest.raises(DeviceError, match="did you mean 'fp16'"):
        build_network("tflite", ARCHS["no head"], precision="fp61")


@pytest.mark.parametrize("kind", ["relu_linear", "softmax", "hyena", "retention", "rwkv"])
def test_int8_keeps_what_is_between_convolutions_in_float(kind):
    """Of which the results stay within some steps of 1 / 32 where inputs are within +-4."""
    block = relu_linear(6, 7) if kind == "relu_linear" else mixer(kind, 6, 7)
    module = seeded_module(module_of(block, EPS))
    x = pictures(block, scale=0.8).float()
    with torch.no_grad():
        expected = channels_last(module(x))
    data = file_of(module, block, precision="int8")
    assert is_one_partition(data)
    found = run(data, x)
    assert np.abs(found - expected.clip(-4, 4)).mean() < 3 / 32


def test_int8_sums_rows_of_rwkv_in_float():
    """They would not fit in: with one k for all tokens they are 30 and more."""
    block = mixer("rwkv", 4, 30)
    module = seeded_module(module_of(block, EPS))
    module.key.conv.weight.data *= 0
    x = pictures(block, scale=0.8).float() + 1
    with torch.no_grad():
        expected = channels_last(module(x))
    found = run(file_of(module, block, precision="int8"), x)
    assert np.abs(found - expected).mean() < 2 / 32


def test_int8_convolves_within_its_steps():
    block = Block("conv", 8, 12, 9, 9, kernel_size=3, norm="none")
    module = seeded_module(module_of(block, EPS))
    x = pictures(block).float() / 2
    with torch.no_grad():
        expected = channels_last(module(x))
    found = run(file_of(module, block, precision="int8"), x)
    assert np.abs(found - expected).max() < 3 / 32
    np.testing.assert_array_equal(found * 32, np.rint(found * 32))


# Every operator as a device computes it that has nothing but float16: its result is rounded to
# half and flushed to 0 below the least normal number, its sums are of float32.


def flushed(x):
    half = np.asarray(x, np.float32).astype(np.float16).astype(np.float32)
    return np.where(np.abs(half) < 2.0**-14, np.float32(0), half)


def in_float16(data, x):
    """What the file computes where every constant and every result is a float16."""
    model = schema.ModelT.InitFromPackedBuf(data)
    (graph,) = model.subgraphs
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name in OPERATORS}
    dtypes = {0: np.float32, 1: np.float16, 2: np.int32}
    values = {}
    for index, tensor in enumerate(graph.tensors):
        stored = model.buffers[tensor.buffer].data
        if stored is not None:
            value = np.asarray(stored, np.uint8).view(dtypes[tensor.type]).reshape(tensor.shape)
            values[index] = value if tensor.type == 2 else flushed(value)
    values[graph.inputs[0]] = flushed(channels_last(x))
    for operator in graph.operators:
        name = names[model.operatorCodes[operator.opcodeIndex].builtinCode]
        (output,) = operator.outputs
        inputs = [values[i] for i in operator.inputs]
        with np.errstate(all="ignore"):
            result = OPERATORS[name](operator.builtinOptions, *inputs)
        assert result.shape == tuple(graph.tensors[output].shape)
        values[output] = flushed(result)
    return values[graph.outputs[0]]


def convolved(options, x, kernel, bias, *, depthwise=False):
    x, kernel, bias = (torch.from_numpy(np.ascontiguousarray(v)) for v in (x, kernel, bias))
    x = x.movedim(-1, 1)
    kernel = kernel.movedim(-1, 0) if depthwise else kernel.movedim(-1, 1)
    assert options.padding == schema.Padding.SAME
    assert options.strideH == 1
    groups = x.shape[1] // kernel.shape[1]
    out = F.conv2d(x, kernel, bias, padding=[k // 2 for k in kernel.shape[2:]], groups=groups)
    return (out.relu() if options.fusedActivationFunction else out).movedim(1, -1).numpy()


def multiplied(options, a, b):
    a, b = a.swapaxes(-1, -2) if options.adjX else a, b.swapaxes(-1, -2) if options.adjY else b
    return a @ b


def sliced(options, x, begin, size):
    return x[tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))]


def softmax(options, x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def reducing(function):
    return lambda options, x, axes: function(x, tuple(axes), keepdims=options.keepDims)


OPERATORS = {
    "DEQUANTIZE": lambda options, x: x,
    "CONV_2D": convolved,
    "DEPTHWISE_CONV_2D": lambda *inputs: convolved(*inputs, depthwise=True),
    "BATCH_MATMUL": multiplied,
    "RESHAPE": lambda options, x, shape: x.reshape(shape),
    "TRANSPOSE": lambda options, x, axes: x.transpose(axes),
    "SLICE": sliced,
    "CONCATENATION": lambda options, *inputs: np.concatenate(inputs, options.axis),
    "PAD": lambda options, x, amounts: np.pad(x, amounts),
    "ADD": lambda options, a, b: a + b,
    "SUB": lambda options, a, b: a - b,
    "MUL": lambda options, a, b: a * b,
    "DIV": lambda options, a, b: a / b,
    "MAXIMUM": lambda options, a, b: np.maximum(a, b),
    "MINIMUM": lambda options, a, b: np.minimum(a, b),
    "RELU": lambda options, x: np.maximum(x, 0),
    "NEG": lambda options, x: -x,
    "ABS": lambda options, x: np.abs(x),
    "EXP": lambda options, x: np.exp(x),
    "RSQRT": lambda options, x: x**-0.5,
    "LOGISTIC": lambda options, x: 1 / (1 + np.exp(-x)),
    "SOFTMAX": softmax,
    "MEAN": reducing(np.mean),
    "SUM": reducing(np.sum),
    "REDUCE_MAX": reducing(np.max),
    "REDUCE_MIN": reducing(np.min),
}


@pytest.mark.parametrize(
    "block",
    [
        relu_linear(9, 10, scales=(3, 5)),
        relu_linear(4, 4, dim=32),
        mixer("softmax", 9, 10),
        mixer("hyena", 9, 10),
        mixer("hyena", 28, 28),
        mixer("retention", 9, 10),
        mixer("retention", 20, 22),
        mixer("retention", 32, 35),
        mixer("rwkv", 9, 10),
        mixer("rwkv", 28, 28),
        Block("layer_norm", 24, 24, 5, 6, norm="layer"),
    ],
    ids=name_of,
)
def test_float16_alone_computes_the_same(block):
    module = seeded_module(module_of(block, EPS))
    if block.kind == "rwkv":  # somewhat beyond a new layer's
        module.decay.data = torch.linspace(-10, 3, 32)
    x = pictures(block).float()
    with torch.no_grad():
        expected = channels_last(module(x))
    found = in_float16(file_of(module, block, precision="fp16"), x)
    assert relative_difference(found, expected) <= 1e-2


@pytest.mark.parametrize("size", [1e-3, 1e2, 1e3])
@pytest.mark.parametrize("shape", [(4, 4), (24, 24)])
def test_linear_attention_of_any_size_fits_float16(size, shape):
    """Sums of 576 products of a million leave float16 unless they are scaled."""
    block = relu_linear(*shape, scales=())
    module = seeded_module(module_of(block, EPS))
    x = pictures(block, scale=size).float()
    with torch.no_grad():
        expected = channels_last(module(x))
    found = in_float16(file_of(module, block, precision="fp16"), x)
    assert relative_difference(found, expected) <= 1e-2


@pytest.mark.parametrize("size", [1e2, 2e4])
def test_a_layer_norm_of_large_values_fits_float16(size):
    block = Block("layer_norm", 24, 24, 5, 6, norm="layer")
    module = seeded_module(module_of(block, EPS))
    x = pictures(block, scale=size).float().clamp(-6e4, 6e4)
    with torch.no_grad():
        expected = channels_last(module(x))
    found = in_float16(file_of(module, block, precision="fp16"), x)
    assert relative_difference(found, expected) <= 1e-2
