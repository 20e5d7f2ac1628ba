"""ONNX files straight from Blocks, run by ONNX Runtime, against the PyTorch model in float64."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from lut.builders.bicubic import bicubic_matrix
from lut.builders.network import build_network
from lut.builders.weights import StateWeights
from results.errors import ArchError, UserError
from supernet.arch import (
    HEADED,
    Arch,
    ClassificationHead,
    Family,
    Head,
    LocalKind,
    Mixer,
    PromptableHead,
    ReconstructionHead,
    SegmentationHead,
    Stage,
    Stem,
    SuperResolutionHead,
    attention_stages,
)
from supernet.blocks import Block, blocks_of
from supernet.model import build, module_of
from supernet.official import named_arch
from supernet.spaces import get_space
from tests.seeded import seeded_picture, seeded_state

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
FP32, FP16 = 1e-5, 2e-2


def run(file, picture, **settings):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    for name, value in settings.items():
        setattr(options, name, value)
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: picture.numpy()})
    return output


def seeded(module):
    """float64, of numbers that float32 holds exactly; and the same as a builder takes them."""
    shapes = ((name, tensor.shape) for name, tensor in module.state_dict().items())
    state = {
        name: t.float() if t.is_floating_point() else t for name, t in seeded_state(shapes).items()
    }
    module.load_state_dict(state)
    return module.double().eval(), StateWeights({name: t.numpy() for name, t in state.items()})


def picture_for(block_or_shape, batch=1):
    channels, height, width = block_or_shape
    values = np.random.default_rng(height * 1000 + width).standard_normal(
        (batch, channels, height, width)
    )
    return torch.from_numpy(values.astype(np.float32))


def difference(output, reference):
    assert output.dtype == np.float32
    assert output.shape == tuple(reference.shape)
    assert np.isfinite(output).all()
    reference = reference.detach().double().numpy()
    return np.abs(output - reference).max() / np.abs(reference).max()


def block_difference(block, *, batch=1, eps=1e-5, precision="fp32", picture=None):
    block = replace(block, name="block")
    module = torch.nn.Sequential()
    module.add_module("block", module_of(block, eps))
    module, weights = seeded(module)
    if picture is None:
        picture = picture_for((block.in_channels, block.height, block.width), batch)
    if block.kind == "linear":
        picture = picture_for((block.in_channels, 1, 1), batch)
        chain = [Block("pool", block.in_channels, block.in_channels, 1, 1), block]
    else:
        chain = [block]
    with torch.no_grad():
        source = picture.double()
        reference = module(source.flatten(1) if block.kind == "linear" else source)
    file = build_network("onnx", chain, weights=weights, precision=precision, batch=batch, eps=eps)
    return difference(run(file, picture), reference)


def local(kind, **changes):
    mid = 16 if kind == "dsconv" else 48
    block = Block(kind, 16, 16, 9, 14, mid_channels=mid, kernel_size=3, activation="hswish")
    return replace(block, **changes)


LOCAL_BLOCKS = [
    Block("conv", 3, 16, 13, 18, kernel_size=3, stride=2, activation="hswish"),
    Block("conv", 16, 24, 6, 7, norm="none"),
    Block("conv", 16, 24, 6, 7, activation="gelu_tanh"),
    *(
        local(kind, kernel_size=kernel_size)
        for kind in ("dsconv", "mbconv", "fused_mbconv", "resblock")
        for kernel_size in (3, 5, 7)
    ),
    *(
        local(kind, stride=2, out_channels=24, norm="fewer", activation="gelu_tanh")
        for kind in ("dsconv", "mbconv", "fused_mbconv", "resblock")
    ),
    local("mbconv", residual=True, height=1, width=1),
    Block("pool", 16, 16, 5, 9),
    Block("linear", 16, 40, 1, 1, norm="layer", activation="hswish"),
    Block("linear", 16, 40, 1, 1, norm="layer", activation="gelu_tanh"),
    Block("linear", 16, 40, 1, 1, norm="none"),
    Block("layer_norm", 16, 16, 5, 9, norm="layer"),
    Block("pixel_shuffle", 36, 4, 5, 9, stride=3, out_height=15, out_width=27),
]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("block", LOCAL_BLOCKS, ids=str)
def test_local_blocks_and_heads_equal_pytorch(block, batch):
    assert block_difference(block, batch=batch) < FP32


@pytest.mark.parametrize("eps", [1e-7, 1e-6, 1e-2])
@pytest.mark.parametrize("block", [local("mbconv"), LOCAL_BLOCKS[-2], LOCAL_BLOCKS[-5]], ids=str)
def test_epsilon_is_the_one_given(block, eps):
    assert block_difference(block, eps=eps) < FP32


SIZES = [((4, 5), (9, 7)), ((5, 9), (20, 36)), ((8, 8), (5, 3)), ((1, 2), (3, 7)), ((6, 6), (6, 8))]


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "out_size"), [*SIZES, ((6, 6), (6, 6))])
def test_upsampling_equals_pytorch(mode, size, out_size):
    height, width = out_size
    block = replace(Block("upsample", 8, 8, *size), norm="none", mode=mode)
    block = replace(block, out_height=height, out_width=width)
    assert block_difference(block, batch=2) < FP32


def test_bicubic_weights_sum_to_one():
    for size, out_size in ((5, 13), (13, 5), (1, 4), (64, 64)):
        np.testing.assert_allclose(bicubic_matrix(size, out_size).sum(1), 1, rtol=1e-6)


def mixer(kind, height, width, *, heads=3, dim=16, scales=(), channels=0):
    channels = channels or heads * dim
    block = Block(kind, channels, channels, height, width, residual=True)
    if kind in ("hyena", "rwkv"):
        return block
    return replace(block, num_heads=heads, head_dim=dim, scales=scales)


MIXERS = [
    *(
        mixer("relu_linear", height, width, dim=dim, scales=scales)
        for scales in ((), (3,), (5,), (3, 5))
        for height, width, dim in ((5, 7, 16), (3, 4, 16), (4, 4, 16), (7, 7, 32), (4, 7, 32))
    ),
    mixer("softmax", 5, 7),
    mixer("softmax", 14, 9, dim=32),
    mixer("softmax", 1, 1),
    mixer("softmax", 33, 32, heads=2),  # in three pieces of unequal size
    mixer("hyena", 5, 7),  # by a depthwise convolution
    mixer("hyena", 1, 1),
    mixer("hyena", 7, 16),  # by transforms
    mixer("hyena", 21, 8, channels=40),
    mixer("retention", 5, 7, heads=10),  # more heads than decays
    mixer("retention", 20, 20, dim=32),
    mixer("retention", 1, 1),
    mixer("retention", 24, 32),  # in tiles
    mixer("retention", 19, 29, heads=2),  # that do not fit
    mixer("retention", 3, 160, heads=2),
    mixer("rwkv", 5, 7),  # by one triangle
    mixer("rwkv", 14, 11, channels=40),  # in chunks
    mixer("rwkv", 1, 1),
    mixer("rwkv", 101, 1, channels=18),  # a prime; channels that four does not divide
]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("block", MIXERS, ids=str)
def test_mixers_equal_pytorch(block, batch):
    assert block_difference(block, batch=batch) < FP32


@pytest.mark.parametrize("size", [(3, 4), (6, 7)])
def test_a_token_that_sees_nothing_gets_zero(size):
    """Negative q and k everywhere: 0 / 0 in the published form."""
    block = replace(mixer("relu_linear", *size, heads=1), name="block", residual=False)
    module = torch.nn.Sequential()
    module.add_module("block", module_of(block, 1e-5))
    seeded(module)
    state = {n: t.float().numpy() for n, t in module.state_dict().items()}
    picture = picture_for((16, *size)).abs()
    state["block.qkv.conv.weight"] = -np.abs(state["block.qkv.conv.weight"])
    for precision in ("fp32", "fp16"):
        file = build_network("onnx", [block], weights=StateWeights(state), precision=precision)
        output = run(file, picture)
        nothing = run(file, 0 * picture)  # what the projection makes of zeros
        assert np.isfinite(nothing).all()
        np.testing.assert_allclose(output, nothing, atol=1e-3 if precision == "fp16" else 1e-6)


@pytest.mark.parametrize("size", [(3, 4), (6, 7)])
def test_small_queries_and_keys_keep_their_meaning(size):
    """Only their ratios matter; the published epsilon of 1e-15 would outweigh them."""
    block = replace(mixer("relu_linear", *size, heads=1), name="block", residual=False)
    module = torch.nn.Sequential()
    module.add_module("block", module_of(block, 1e-5))
    seeded(module)
    state = module.state_dict()
    state["block.qkv.conv.weight"][:32] *= 2.0**-30
    picture = picture_for((16, *size))
    weights = StateWeights({n: t.float().numpy() for n, t in state.items()})
    output = run(build_network("onnx", [block], weights=weights), picture)
    with torch.no_grad():
        assert difference(output, module(picture.double())) < FP32


HALF = [
    local("mbconv", residual=True),
    local("resblock", activation="gelu_tanh", norm="fewer"),
    Block("linear", 16, 40, 1, 1, norm="layer", activation="hswish"),
    Block("layer_norm", 16, 16, 5, 9, norm="layer"),
    Block("upsample", 8, 8, 5, 9, norm="none", mode="bicubic", out_height=10, out_width=21),
    mixer("relu_linear", 14, 14, dim=32, scales=(5,)),
    mixer("relu_linear", 3, 4, scales=(3,)),
    *(mixer(kind, 12, 12) for kind in ("softmax", "hyena", "retention", "rwkv")),
]


@pytest.mark.parametrize("block", HALF, ids=str)
def test_fp16_is_near(block):
    assert block_difference(block, precision="fp16") < FP16


@pytest.mark.parametrize("magnitude", [1e-4, 1e4])
@pytest.mark.parametrize("block", HALF[5:], ids=str)
def test_fp16_mixers_stay_finite(block, magnitude):
    """Products of activations this large leave float16 by far; so do they in the gates."""
    block = replace(block, residual=False, name="block")
    picture = magnitude * picture_for((block.in_channels, block.height, block.width))
    module = torch.nn.Sequential()
    module.add_module("block", module_of(block, 1e-5))
    module, weights = seeded(module)
    file = build_network("onnx", [block], weights=weights, precision="fp16")
    with torch.no_grad():
        reference = module.half()(picture.half())
    gates = block.kind == "hyena" and magnitude > 1  # whose bound is met: rounding flips signs
    assert difference(run(file, picture), reference) < (0.3 if gates else 5 * FP16)


@pytest.mark.parametrize("magnitude", [1e-4, 1e4])
@pytest.mark.parametrize("size", [(3, 4), (14, 14)])
def test_fp16_attention_stays_finite_where_products_are_of_float16(size, magnitude):
    """ONNX Runtime computes float16 in float32 on x86; the reference evaluator does not."""
    from onnx.reference import ReferenceEvaluator

    block = replace(mixer("relu_linear", *size, heads=1, dim=32), residual=False, name="block")
    picture = magnitude * picture_for((block.in_channels, *size))
    module = torch.nn.Sequential()
    module.add_module("block", module_of(block, 1e-5))
    module, weights = seeded(module)
    file = build_network("onnx", [block], weights=weights, precision="fp16")
    evaluator = ReferenceEvaluator(onnx.load_from_string(file))
    (output,) = evaluator.run(None, {"image": picture.numpy()})
    with torch.no_grad():
        assert difference(output, module(picture.double())) < 5 * FP16


LARGE: tuple[LocalKind, ...] = ("fused_mbconv", "fused_mbconv", "mbconv", "mbconv")


def arch(
    family: Family = "b",
    head: Head | None = None,
    mixer: Mixer = "relu_linear",
    scales: tuple[int, ...] = (5,),
    resolution: tuple[int, int] = (64, 96),
) -> Arch:
    kinds: tuple[LocalKind, ...] = LARGE if family == "l" else ("mbconv",) * 4
    stages = []
    for number, kind in enumerate(kinds, start=1):
        stage = Stage(16 * number, 2 if number == 4 else 1, expand_ratio=2, local=kind)
        if mixer != "none" and number in attention_stages(family, 4):
            stage = replace(
                stage,
                mixer=mixer,
                head_dim=16 if mixer in HEADED else 0,
                scales=scales if mixer == "relu_linear" else (),
            )
        stages.append(stage)
    stem = Stem(16, 1, stride=1 if isinstance(head, SuperResolutionHead) else 2)
    return Arch(family, resolution, stem, tuple(stages), head)


def network_difference(network, batch=1, precision="fp32"):
    model, weights = seeded(build(network))
    picture = torch.cat([seeded_picture(*network.resolution)] * batch).float()
    picture[-1] *= 0.5  # so that the pictures of a batch differ
    with torch.no_grad():
        reference = model(picture.double())
    file = build_network("onnx", network, weights=weights, precision=precision, batch=batch)
    return difference(run(file, picture), reference)


NETWORKS = [
    *(arch(mixer=mixer) for mixer in ("relu_linear", "softmax", "hyena", "retention", "rwkv")),
    arch(mixer="none"),
    arch(scales=(3, 5)),
    arch("l", scales=()),
    arch("b", ClassificationHead((48, 64), 10)),
    arch("l", ClassificationHead((48, 64), 10), resolution=(70, 41)),
    arch("b", SegmentationHead(16, 1, 2, "mbconv", 4, 7)),
    arch("b", SegmentationHead(16, 1, 2, "mbconv", 0, 7, "bilinear")),
    arch("l", SegmentationHead(16, 1, 2, "fused_mbconv", 4, 7)),
    arch("l", PromptableHead(1, 2, width=24, out_channels=32, size=11)),
    arch("b", SuperResolutionHead(16, 1, 2, 2), resolution=(33, 50)),
    arch("b", SuperResolutionHead(16, 1, 2, 3), resolution=(40, 32)),
    arch("b", ReconstructionHead()),
    arch("l", ReconstructionHead()),
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda a: f"{a.family}-{a.task}")
def test_networks_equal_pytorch(network):
    batch = 2 if network.head is None else 1
    assert network_difference(network, batch) < FP32


@pytest.mark.parametrize("network", NETWORKS, ids=lambda a: f"{a.family}-{a.task}")
def test_fp16_networks_are_near(network):
    """The file that TensorRT 10.12 and newer take with its own types, beside float64 here."""
    assert network_difference(network, precision="fp16") < FP16


@pytest.mark.slow
@pytest.mark.parametrize("name", ["b0", "b1", "b2", "b3", "l0", "l1", "sam_l0", "sr_x2"])
def test_named_networks_equal_pytorch(name):
    resolution = None if name.startswith("sam") else (192, 160)
    assert network_difference(named_arch(name, resolution=resolution)) < FP32


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(16))
def test_networks_of_the_largest_space_equal_pytorch(seed):
    network = get_space("all").sample(random.Random(seed))
    assert network_difference(replace(network, resolution=(160, 128))) < FP32


def optimised(file, tmp_path):
    """The file as ONNX Runtime runs it."""
    path = str(tmp_path / "optimised.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = path
    options.log_severity_level = 3  # without its remark that such a file is for this machine
    ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda a: f"{a.family}-{a.task}")
def test_int8_is_fused_to_integer_operators(network, tmp_path):
    file = build_network("onnx", network, precision="int8")
    kinds = optimised(file, tmp_path)
    written = [node.op_type for node in onnx.load_from_string(file).graph.node]
    cores = sum(block.kind == "hyena" for block in blocks_of(network))  # stay in float
    assert kinds.count("QLinearConv") == written.count("Conv") - cores
    assert kinds.count("QLinearAdd") >= sum(block.residual for block in blocks_of(network))
    assert "HardSigmoid" not in kinds
    output = run(file, seeded_picture(*network.resolution).float(), log_severity_level=3)
    assert np.isfinite(output).all()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_files_are_valid_and_take_and_give_float32(precision):
    for network in NETWORKS:
        model = onnx.load_from_string(build_network("onnx", network, precision=precision, batch=2))
        onnx.checker.check_model(model, full_check=True)
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
            assert value.type.tensor_type.shape.dim[0].dim_value == 2


def test_fp16_holds_no_subnormal_constants():
    """Converters and GPUs may flush them to 0, a guard's division then gives NaN."""
    for network in NETWORKS[:8]:
        file = build_network("onnx", network, precision="fp16")
        for tensor in onnx.load_from_string(file).graph.initializer:
            values = np.abs(onnx.numpy_helper.to_array(tensor))
            if values.dtype == np.float16 and values.ndim < 2:
                assert not ((values > 0) & (values < 2.0**-14)).any(), tensor.name


def test_builds_are_reproducible():
    network = NETWORKS[8]
    assert build_network("onnx", network) == build_network("onnx", network)


def test_large_maps_need_little_room():
    """No constant of T x T where T is large: 16 MB for each head at 64 x 64."""
    for kind in ("hyena", "retention", "rwkv", "softmax", "relu_linear"):
        assert len(build_network("onnx", [mixer(kind, 64, 64)])) < 8e6


def test_an_unknown_precision_names_the_nearest():
    with pytest.raises(UserError, match="fp16"):
        build_network("onnx", NETWORKS[0], precision="float16")


def test_a_network_beyond_a_file_of_protobuf_is_refused(monkeypatch):
    monkeypatch.setattr("lut.builders.onnx_ops.MOST_BYTES", 10_000)
    with pytest.raises(ArchError, match="try fp16"):
        build_network("onnx", NETWORKS[0])
