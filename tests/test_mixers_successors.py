"""Softmax attention and its attention-free successors against their definitions.

B batch, C channels, H height, W width; N heads, D head dim, T = H * W tokens. A twin computes
in float64 what stands between a mixer's first and last convolution, one query at a time.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from supernet.blocks import Block
from supernet.cost import cost_of
from supernet.layers.hyena import FASTEST, SLOWEST, Hyena, decay_rates, long_convolution
from supernet.layers.precision import LARGEST_GATED
from supernet.layers.retention import (
    LONGEST_CHUNK,
    MOST_PARALLEL_TOKENS,
    TILE,
    Retention,
    decay_sums,
    decays,
    linear_retention,
    parallel_retention,
)
from supernet.layers.rwkv import RWKV, bi_wkv, quad_shift
from supernet.layers.softmax import SoftmaxAttention

CLASSES = {"softmax": SoftmaxAttention, "hyena": Hyena, "retention": Retention, "rwkv": RWKV}
SIZES = [(1, 1), (1, 9), (7, 1), (2, 2), (5, 7), (13, 11), (9, 17)]
sides = st.integers(1, 12)
kinds = pytest.mark.parametrize("kind", CLASSES)


def block_of(kind, channels=12, out_channels=12, heads=3, dim=4):
    headed = kind in ("softmax", "retention")
    return Block(
        kind,
        channels,
        out_channels,
        14,
        14,
        num_heads=heads if headed else 0,
        head_dim=dim if headed else 0,
    )


def build(kind, seed=0, **sizes):
    """In eval mode, with no parameter or statistic at a value that hides a fault."""
    torch.manual_seed(seed)
    mixer = CLASSES[kind](block_of(kind, **sizes), 1e-5).eval()
    with torch.no_grad():
        for name, tensor in mixer.state_dict().items():
            if name == "filter.skip" or ("norm." in name and tensor.is_floating_point()):
                tensor.uniform_(0.5, 1.5)
    return mixer


def picture(height, width, *, batch=2, channels=12, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, height, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def relative_difference(found, reference):
    return float((found - reference).abs().max() / reference.abs().max())


def pixels(height, width):
    return [(y, x) for y in range(height) for x in range(width)]


def softmax_twin(mixer, x):
    batch, _, height, width = x.shape
    heads = mixer.qkv(x).view(batch, -1, 3 * mixer.head_dim, height, width)
    q, k, v = heads.split(mixer.head_dim, dim=2)
    out = torch.empty_like(v)
    for y, x in pixels(height, width):
        logits = (q[..., y, x, None, None] * k).sum(2) / math.sqrt(mixer.head_dim)
        weights = (logits - logits.amax((-2, -1), keepdim=True)).exp()
        weights = weights / weights.sum((-2, -1), keepdim=True)
        out[..., y, x] = (weights[:, :, None] * v).sum((-2, -1))
    return mixer.proj(out.flatten(1, 2))


def hyena_taps(mixer, height, width):
    """{(dy, dx): (C,)}, each from the formulas for a single position."""
    network, taps = mixer.filter, {}
    longer = max(height, width)
    channels = len(network.skip)
    rates = [SLOWEST + (FASTEST - SLOWEST) * (c * 89 % 144) / 144 for c in range(channels)]
    for dy in range(1 - height, height):
        for dx in range(1 - width, width):
            features = []
            for u in (dy / longer, dx / longer):
                features.append(u)
                for half_turns in (1, 2):
                    angle = math.pi * half_turns * u
                    features += [math.sin(angle), math.cos(angle)]
            z = torch.tensor(features, dtype=torch.float64)
            z = torch.sin(10 * (network.hidden1.weight @ z + network.hidden1.bias))
            z = torch.sin(10 * (network.hidden2.weight @ z + network.hidden2.bias))
            distance = (abs(dy) + abs(dx)) / longer
            window = torch.tensor([math.exp(-r * distance) for r in rates], dtype=torch.float64)
            taps[dy, dx] = network.out.weight @ z * window
    norm = sum(tap.abs() for tap in taps.values())
    return {offset: tap / norm for offset, tap in taps.items()}


def hyena_twin(mixer, x):
    x = mixer.short(mixer.qkv(x))
    height, width = x.shape[-2:]
    x0, x1, v = x[:, 0::3], x[:, 1::3], x[:, 2::3]
    taps = hyena_taps(mixer, height, width)
    v = x1 * v
    out = mixer.filter.skip[:, None, None] * v
    for y, x in pixels(height, width):
        for y_from, x_from in pixels(height, width):
            out[..., y, x] += taps[y - y_from, x - x_from] * v[..., y_from, x_from]
    return mixer.proj(x0 * out)


def retention_twin(mixer, x):
    batch, _, height, width = x.shape
    dim = mixer.head_dim
    heads = mixer.qkvg(x).view(batch, -1, 4 * dim, height, width)
    q, k, v, g = heads.split(dim, dim=2)
    num_heads = q.shape[1]
    gamma = torch.tensor(
        [1 - 2.0 ** -(2 + (h * 5 % 8) / 2) for h in range(num_heads)], dtype=x.dtype
    )
    rows = torch.arange(height)[:, None]
    columns = torch.arange(width)
    out = torch.empty_like(v)
    for y, x in pixels(height, width):
        decay = gamma[:, None, None] ** ((y - rows).abs() + (x - columns).abs())
        scores = (q[..., y, x, None, None] * k).sum(2) / math.sqrt(dim)
        out[..., y, x] = ((decay * scores)[:, :, None] * v).sum((-2, -1))
        out[..., y, x] /= decay.sum((-2, -1))[:, None]
    mean = out.mean(2, keepdim=True)
    out = (out - mean) / (out.var(2, keepdim=True, unbiased=False) + mixer.norm.eps).sqrt()
    weight, bias = (p.view(num_heads, dim, 1, 1) for p in (mixer.norm.weight, mixer.norm.bias))
    out = g * torch.sigmoid(g) * (out * weight + bias)
    return mixer.proj(out.flatten(1, 2))


def shift_twin(x):
    """Each channel c from its left, right, upper or lower neighbour, by c modulo 4."""
    _, channels, height, width = x.shape
    out = torch.zeros_like(x)
    for c in range(channels):
        dy, dx = [(0, -1), (0, 1), (-1, 0), (1, 0)][c % 4]
        for row, column in pixels(height, width):
            if 0 <= row + dy < height and 0 <= column + dx < width:
                out[:, c, row, column] = x[:, c, row + dy, column + dx]
    return out


def wkv_twin(k, v, decay, bonus):
    tokens = k.shape[-1]
    out = torch.empty_like(v)
    i = torch.arange(tokens, dtype=k.dtype)
    for t in range(tokens):
        exponents = k - ((i - t).abs() - 1) / tokens * decay[:, None]
        exponents[..., t] = k[..., t] + bonus
        weights = (exponents - exponents.amax(-1, keepdim=True)).exp()
        out[..., t] = (weights * v).sum(-1) / weights.sum(-1)
    return out


def rwkv_twin(mixer, x):
    shifted = shift_twin(x)
    mix_r, mix_k, mix_v = (m[:, None, None] for m in mixer.mix)
    r = mixer.receptance(mix_r * x + (1 - mix_r) * shifted)
    k = mixer.key(mix_k * x + (1 - mix_k) * shifted)
    v = mixer.value(mix_v * x + (1 - mix_v) * shifted)
    wkv = wkv_twin(k.flatten(2), v.flatten(2), mixer.decay, mixer.bonus).view_as(v)
    return mixer.proj(wkv / (1 + (-r).exp()))


TWINS = {
    "softmax": softmax_twin,
    "hyena": hyena_twin,
    "retention": retention_twin,
    "rwkv": rwkv_twin,
}


@kinds
@pytest.mark.parametrize("size", SIZES[:6])
def test_equals_its_definition(kind, size):
    if kind == "hyena" and size == (13, 11):
        size = (7, 6)  # the twin loops over pairs of pixels
    x = picture(*size)
    with torch.no_grad():
        double, single = build(kind).double(), build(kind)
        expected = TWINS[kind](double, x)
        assert relative_difference(double(x), expected) <= 1e-10
        assert relative_difference(single(x.float()), expected) <= 1e-5


@settings(max_examples=15, deadline=None)
@given(kind=st.sampled_from(["softmax", "retention", "rwkv"]), height=sides, width=sides)
def test_equals_its_definition_at_any_size(kind, height, width):
    mixer, x = build(kind).double(), picture(height, width, batch=1)
    with torch.no_grad():
        assert relative_difference(mixer(x), TWINS[kind](mixer, x)) <= 1e-10


@settings(max_examples=6, deadline=None)
@given(height=st.integers(1, 4), width=st.integers(1, 4))
def test_hyena_equals_its_definition_at_any_size(height, width):
    mixer, x = build("hyena").double(), picture(height, width, batch=1)
    with torch.no_grad():
        assert relative_difference(mixer(x), hyena_twin(mixer, x)) <= 1e-10


@kinds
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"channels": 10, "out_channels": 7, "heads": 1, "dim": 16},
        {"channels": 64, "out_channels": 64, "heads": 4, "dim": 16},
    ],
)
def test_has_as_many_parameters_as_are_counted(kind, sizes):
    mixer = CLASSES[kind](block_of(kind, **sizes), 1e-5)
    cost = cost_of(block_of(kind, **sizes))
    assert sum(p.numel() for p in mixer.parameters()) == cost.params


@kinds
@pytest.mark.parametrize("size", [*SIZES, (40, 3), (23, 29)])
def test_any_size_gives_an_output_of_that_size(kind, size):
    mixer = build(kind, out_channels=7)
    with torch.no_grad():
        out = mixer(picture(*size, dtype=torch.float32))
    assert out.shape == (2, 7, *size)
    assert out.isfinite().all()


@kinds
def test_counts_what_pytorch_counts(kind):
    block = block_of(kind)
    mixer = CLASSES[kind](block, 1e-5).eval().to("meta")
    with FlopCounterMode(display=False) as counter:
        mixer(torch.empty(1, 12, 14, 14, device="meta"))
    cost = cost_of(block)
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert convolutions == 2 * (cost.macs - cost.attention_macs)
    if kind == "softmax":
        assert counter.get_total_flops() == 2 * cost.macs


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(1, 3 * TILE),
    width=st.integers(1, 3 * TILE),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_linear_retention_equals_the_parallel_form(height, width, dtype):
    shape = (3, 2, 3, height, width, 4)
    q, k, v = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype).unbind()
    gamma = decays(3, q.device, dtype)
    expected = parallel_retention(q, k, v, gamma)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert relative_difference(linear_retention(q, k, v, gamma), expected) <= tolerance


@pytest.mark.parametrize(
    "size", [(2, TILE * LONGEST_CHUNK + 13), (LONGEST_CHUNK * TILE + 1, 3), (LONGEST_CHUNK + 1, 9)]
)
def test_linear_retention_carries_over_chunks_of_chunks(size):
    q, k, v = torch.randn(3, 1, 2, *size, 3, dtype=torch.float64).unbind()
    gamma = torch.tensor([0.9, 0.999], dtype=torch.float64)
    expected = parallel_retention(q, k, v, gamma)
    assert relative_difference(linear_retention(q, k, v, gamma), expected) <= 1e-12


def test_retention_takes_the_linear_form_where_there_are_many_tokens():
    mixer, (height, width) = build("retention").double(), (25, 24)
    assert height * width > MOST_PARALLEL_TOKENS
    x = picture(height, width, batch=1)
    with torch.no_grad():
        assert relative_difference(mixer(x), retention_twin(mixer, x)) <= 1e-10


@pytest.mark.parametrize("size", [(256, 4096), (4096, 256), (2048, 2048)])
def test_work_of_linear_retention_grows_with_its_tokens(size):
    def flops(height, width):
        q = torch.empty(1, 8, height, width, 16, device="meta")
        with FlopCounterMode(display=False) as counter:
            linear_retention(q, q, q, torch.empty(8, device="meta"))
        return counter.get_total_flops()

    longer = math.prod(size) / 256**2
    assert longer <= flops(*size) / flops(256, 256) < 1.05 * longer


def test_sums_of_decays_are_those_of_the_definition():
    gamma = decays(8, torch.device("cpu"), torch.float64)
    rows = gamma[:, None, None] ** (torch.arange(13)[:, None] - torch.arange(13)).abs()
    torch.testing.assert_close(decay_sums(gamma, 13), rows.sum(-1))


def test_leading_heads_and_channels_keep_their_decay():
    device = torch.device("cpu")
    assert torch.equal(decays(16, device, torch.float32)[:5], decays(5, device, torch.float32))
    rates = decay_rates(64, device, torch.float32)
    assert torch.equal(rates[:24], decay_rates(24, device, torch.float32))
    x = picture(3, 4)
    assert torch.equal(quad_shift(x)[:, :7], quad_shift(x[:, :7]))


@pytest.mark.parametrize("spread", [0.0, 1.0, 50.0, 1e4, 1e30])
def test_wkv_equals_its_definition_for_keys_of_any_size(spread):
    generator = torch.Generator().manual_seed(3)
    k, v = torch.randn(2, 2, 9, 37, generator=generator, dtype=torch.float64).unbind()
    decay = torch.linspace(-30, 30, 9, dtype=torch.float64)
    bonus = torch.linspace(20, -20, 9, dtype=torch.float64)
    expected = wkv_twin(k * spread, v, decay, bonus)
    assert relative_difference(bi_wkv(k * spread, v, decay, bonus), expected) <= 1e-10
    single = bi_wkv((k * spread).float(), v.float(), decay.float(), bonus.float())
    expected = wkv_twin((k * spread).float().double(), v, decay, bonus)
    assert relative_difference(single, expected) <= 1e-5 * max(1.0, spread)


def test_wkv_is_finite_for_any_decay_and_bonus():
    k, v = torch.randn(2, 1, 4, 50).unbind()
    decay, bonus = torch.tensor([1e6, -1e6, 0.0, 3e38]), torch.tensor([1e6, 0.0, -1e6, -3e38])
    out = bi_wkv(1e30 * k, v, decay, bonus)
    assert out.abs().max() <= v.abs().max() * (1 + 1e-5)


@kinds
def test_gradients_reach_the_input_and_every_parameter(kind):
    mixer, x = build(kind), picture(5, 6, dtype=torch.float32).requires_grad_()
    mixer(x).square().sum().backward()
    for name, parameter in [("x", x), *mixer.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@kinds
def test_gradients_are_right(kind):
    mixer = build(kind, channels=4, out_channels=3, heads=2, dim=2).double()
    names = [name for name, _ in mixer.named_parameters()]

    def call(x, *parameters):
        return functional_call(mixer, dict(zip(names, parameters, strict=True)), (x,))

    x = picture(2, 3, batch=1, channels=4).requires_grad_()
    assert gradcheck(call, (x, *mixer.parameters()), fast_mode=True)


def test_gradients_of_linear_retention_are_right():
    gamma = torch.tensor([0.9, 0.75], dtype=torch.float64)
    qkv = torch.randn(3, 1, 2, TILE + 2, TILE + 1, 2, dtype=torch.float64).unbind()
    inputs = [x.clone().requires_grad_() for x in qkv]
    assert gradcheck(lambda q, k, v: linear_retention(q, k, v, gamma), inputs, fast_mode=True)


def hard_pictures(channels, height, width):
    """Magnitude 1e4, where products of two leave float16 and those of four float32's half."""
    noise = picture(height, width, batch=1, channels=channels).clamp(-3, 3)
    return {
        "noise": 1e4 * noise,
        "signs": 1e4 * noise.sign(),
        "constant": torch.full_like(noise, 1e4),
        "negative": torch.full_like(noise, -1e4),
        "zero": torch.zeros_like(noise),
        "one token": 1e4 * torch.zeros_like(noise).index_fill_(3, torch.tensor([0]), 1.0),
        "subnormal": torch.full_like(noise, 1e-7),
    }


@kinds
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 1), (6, 5), (26, 25)])
def test_is_finite_in_half_precision(kind, dtype, size):
    mixer = build(kind, channels=32, out_channels=32, heads=2, dim=16).to(dtype)
    for name, x in hard_pictures(32, *size).items():
        x = x.to(dtype)
        assert x.isfinite().all()
        with torch.no_grad():
            out = mixer(x)
        assert out.dtype == dtype
        assert out.isfinite().all(), name


@kinds
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close_to_single(kind, dtype):
    """Within a few roundings of inputs and weights; autocast as well."""
    mixer, x = build(kind, channels=32, out_channels=32), picture(26, 25, channels=32)
    with torch.no_grad():
        expected = mixer(x.float())
        with torch.autocast("cpu", dtype=dtype):
            automatic = mixer(x.float())
        half = build(kind, channels=32, out_channels=32).to(dtype)(x.to(dtype))
    tolerance = 30 * torch.finfo(dtype).eps
    assert relative_difference(automatic.float(), expected) < tolerance
    assert relative_difference(half.float(), expected) < tolerance


@kinds
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_is_finite(kind, dtype):
    mixer = build(kind, channels=32, out_channels=32, heads=2, dim=16)
    for name, x in hard_pictures(32, 6, 5).items():
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
            assert mixer(x.float()).isfinite().all(), name


@pytest.mark.parametrize("kind", ["softmax", "retention", "hyena"])
def test_an_exported_graph_has_no_products_of_activations_in_float16(kind):
    """PyTorch's own kernels of such products add up in float32; a runtime's may not."""
    mixer = build(kind, channels=32, out_channels=32, heads=2, dim=16).half()
    with torch.no_grad():
        program = torch.export.export(mixer, (picture(6, 5, channels=32).half(),))
    products = [
        node
        for node in program.graph.nodes
        if any(name in str(node.target) for name in ("matmul", "bmm", "einsum", "dot_product"))
    ]
    assert products
    assert all(node.meta["val"].dtype == torch.float32 for node in products)


def test_hyenas_filter_does_not_depend_on_autocast():
    mixer, x, taps = build("hyena"), picture(6, 5, dtype=torch.float32), []
    mixer.filter.register_forward_hook(lambda _, args, out: taps.append(out))
    with torch.no_grad():
        mixer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixer(x)
    assert torch.equal(*taps)


def test_rwkv_mixes_opposite_ends_of_float16():
    mixer = build("rwkv", channels=8, out_channels=8)
    with torch.no_grad():
        for conv in (mixer.receptance, mixer.key, mixer.value):
            conv.conv.weight.mul_(0.1)
        x = picture(6, 5, batch=1, channels=8).sign() * 6e4
        assert mixer.half()(x.half()).isfinite().all()


def test_a_gate_is_bounded_only_where_float16_ends():
    mixer = build("hyena")
    x = picture(6, 5, dtype=torch.float32)
    with torch.no_grad():
        inside: dict[str, torch.Tensor] = {}
        mixer.proj.register_forward_pre_hook(lambda _, args: inside.update(x=args[0]))
        mixer(x)
        assert inside["x"].abs().max() < LARGEST_GATED / 100
        mixer(x * 1e4)
        assert inside["x"].abs().max() == LARGEST_GATED


@kinds
def test_images_of_a_batch_do_not_see_each_other(kind):
    mixer, x = build(kind), picture(9, 10, batch=8, dtype=torch.float32)
    with torch.no_grad():
        together = mixer(x)
        for i in range(8):
            assert relative_difference(mixer(x[i : i + 1]), together[i : i + 1]) < 1e-5


@kinds
def test_is_deterministic(kind):
    x = picture(9, 10, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(build(kind)(x), build(kind)(x))


@kinds
@pytest.mark.parametrize("size", [(3, 5), (26, 25)])
def test_can_be_exported(kind, size):
    mixer, x = build(kind), picture(*size, batch=1, dtype=torch.float32)
    with torch.no_grad():
        program = torch.export.export(mixer, (x,))
        torch.testing.assert_close(program.module()(x), mixer(x))


def test_hyena_does_not_wrap_round():
    """A single bright pixel at one border leaves no trace of the filter's other end."""
    mixer = build("hyena").double()
    v = torch.zeros(1, 12, 5, 6, dtype=torch.float64)
    v[..., 0, 0] = 1
    with torch.no_grad():
        taps = mixer.filter(5, 6, torch.float64)
        out = long_convolution(v, taps)
    torch.testing.assert_close(out[0], taps[:, :5, :6])
    torch.testing.assert_close(taps.abs().sum((1, 2)), torch.ones(12, dtype=torch.float64))
    assert not taps[:, 5].any()
    assert not taps[:, :, 6].any()


def test_the_quarters_of_the_channels_shift_four_ways():
    x = picture(4, 3, channels=10)
    assert torch.equal(quad_shift(x), shift_twin(x))
    assert torch.equal(quad_shift(x)[:, 0], F.pad(x[:, 0, :, :-1], (1, 0)))


@kinds
def test_memory_format_does_not_matter(kind):
    mixer, x = build(kind), picture(9, 10, dtype=torch.float32)
    with torch.no_grad():
        other = mixer.to(memory_format=torch.channels_last)(
            x.contiguous(memory_format=torch.channels_last)
        )
        torch.testing.assert_close(other, build(kind)(x))
