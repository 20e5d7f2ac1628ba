"""ReLU linear attention against its definition, in float16 against float64, and LiteMLA by hand."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.arch import HEADED
from supernet.blocks import Block
from supernet.cost import cost_of
from supernet.layers.mixers import (
    MIXERS,
    LiteMLA,
    relu_linear_attention,
    relu_quadratic_attention,
)

FORMS = [relu_linear_attention, relu_quadratic_attention]
HALF_MAX = torch.finfo(torch.float16).max


def definition(q, k, v):
    """One token, one head at a time: the average of v with weights relu(q).relu(k), else 0."""
    q, k, v = (x.double() for x in (q, k, v))
    out = torch.zeros_like(v)
    for b, n, t in torch.cartesian_prod(*(torch.arange(s) for s in (*q.shape[:2], q.shape[3]))):
        weights = F.relu(k[b, n]).T @ F.relu(q[b, n, :, t])
        if weights.sum() > 0:
            out[b, n, :, t] = v[b, n] @ weights / weights.sum()
    return out


def published(q, k, v, eps=1e-15):
    """As EfficientViT computes it."""
    q, k = F.relu(q), F.relu(k)
    out = F.pad(v, (0, 0, 0, 1), value=1) @ k.transpose(-1, -2) @ q
    return out[:, :, :-1] / (out[:, :, -1:] + eps)


def random_qkv(*shape, seed=0, scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(3, *shape, generator=generator, dtype=torch.float64)).to(dtype)


def difference(found, expected):
    """Relative to the largest value, or absolute where all are zero."""
    largest = expected.abs().max().item() or 1.0
    return (found.double() - expected).abs().max().item() / largest


@pytest.mark.parametrize("attend", FORMS)
@pytest.mark.parametrize("shape", [(2, 3, 16, 50), (1, 2, 32, 7), (1, 1, 4, 1)])
def test_attention_equals_its_definition(attend, shape):
    q, k, v = random_qkv(*shape, dtype=torch.float64)
    assert difference(attend(q, k, v), definition(q, k, v)) < 1e-12


powers = st.tuples(*(st.floats(-4, 4) for _ in range(3)))


@settings(deadline=None, max_examples=100)
@given(dim=st.integers(1, 40), tokens=st.integers(1, 300), powers=powers)
def test_same_function_as_published_in_single_precision(dim, tokens, powers):
    q, k, v = random_qkv(1, 2, dim, tokens, dtype=torch.float64)
    q, k, v = (x * 10**power for x, power in zip((q, k, v), powers, strict=True))
    expected = published(q, k, v, eps=0.0).nan_to_num(0.0)
    for attend in FORMS:
        assert difference(attend(q.float(), k.float(), v.float()), expected) <= 1e-5


@pytest.mark.parametrize("tokens", [8192, 2048, 100])  # 1024x2048 px at strides 16 and 32
@pytest.mark.parametrize("scales", [(1, 1, 1), (1e3, 1e3, 1e3), (1e4, 1, 1e-2), (1e-2, 1e4, 1e4)])
def test_pure_half_precision_is_finite_and_right(tokens, scales):
    """Judged against float64 on the same (rounded) inputs."""
    qkv = random_qkv(1, 4, 16, tokens, dtype=torch.float64)
    q, k, v = (
        (x * scale).clamp(-HALF_MAX, HALF_MAX).half() for x, scale in zip(qkv, scales, strict=True)
    )
    found = relu_linear_attention(q, k, v)
    assert found.dtype == torch.float16
    assert found.isfinite().all()
    expected = published(q.double(), k.double(), v.double())
    assert difference(found, expected) < 3e-3


def test_the_published_form_overflows_where_ours_does_not():
    q, k, v = random_qkv(1, 4, 16, 8192, scale=20.0, dtype=torch.float16)
    assert not published(q, k, v).isfinite().all()
    assert relu_linear_attention(q, k, v).isfinite().all()


@pytest.mark.parametrize("attend", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("largest", [0.0, 6e-8, 1e-3, 6e4])
def test_any_finite_input_gives_a_finite_output(attend, dtype, largest):
    """Constant, negative, one-sided and single-token inputs, each of q, k and v in turn."""
    base = random_qkv(1, 2, 16, 31, dtype=dtype)
    for which in range(3):
        for fill in (largest, -largest):
            q, k, v = (x.clone() for x in base)
            (q, k, v)[which].fill_(fill)
            found = attend(q, k, v)
            assert found.isfinite().all()
            bound = v.abs().max().float() * (1 + 8 * torch.finfo(dtype).eps)
            assert found.abs().max().float() <= bound
    q, k, v = torch.zeros_like(base[0]), base[1], base[2]
    assert (attend(q, k, v) == 0).all()  # as published: 0 / (0 + eps)


@pytest.mark.parametrize("attend", FORMS)
def test_gradients_equal_those_of_the_published_form(attend):
    inputs = random_qkv(1, 2, 8, 20, dtype=torch.float64)
    ours, theirs = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    attend(*ours).square().sum().backward()
    published(*theirs).square().sum().backward()
    assert difference(ours.grad, theirs.grad) < 1e-10


@pytest.mark.parametrize("attend", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 65536.0])  # the largest is GradScaler's first
def test_gradients_are_finite_where_a_token_sees_nothing(attend, dtype, scale):
    q, k, v = random_qkv(1, 2, 16, 20, dtype=dtype)
    q[..., 3] = -q[..., 3].abs()
    k[:, 1] = -k[:, 1].abs()
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = attend(*inputs).float().sum() * scale
    if dtype == torch.float16:
        out = out / scale  # its own range, not ours, ends at 65504
    out.backward()
    for x in inputs:
        assert x.grad is not None
        assert x.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PyTorch's own
@pytest.mark.parametrize("attend", FORMS)
def test_a_graph_traced_in_single_precision_may_be_converted_to_half(attend):
    """What converters do: the constants of the graph become float16."""

    class Attention(torch.nn.Module):
        def forward(self, q, k, v):
            return attend(q, k, v)

    q, k, v = random_qkv(1, 2, 16, 40)
    q[..., 3] = -q[..., 3].abs()
    graph = torch.export.export(Attention(), (q, k, v)).run_decompositions().module()
    for node in list(graph.graph.nodes):
        node.args = torch.fx.node.map_aggregate(node.args, as_half)
        node.kwargs = torch.fx.node.map_aggregate(dict(node.kwargs), as_half)
    graph.recompile()
    found = graph(q.half(), k.half(), v.half())
    assert found.dtype == torch.float16
    assert found.isfinite().all()
    assert difference(found, published(q.double(), k.double(), v.double())) < 3e-3


def as_half(constant):
    """0 where float16, flushed to zero as accelerators do, has nothing."""
    if isinstance(constant, float):
        rounded = torch.tensor(constant).half().item()
        return rounded if abs(rounded) >= torch.finfo(torch.float16).tiny else 0.0
    return torch.float16 if constant is torch.float32 else constant


def test_keys_far_below_others_are_seen_beside_large_values():
    """q sees one channel alone, whose k are a fraction of the rest."""
    for largest, fraction in [(1e4, 1e-4), (6e4, 1e-3), (6e4, 1e-4)]:
        q, k, v = random_qkv(1, 1, 16, 8192, dtype=torch.float64)
        q[:, :, 1:] = -q[:, :, 1:].abs()
        q[:, :, 0] = q[:, :, 0].abs()
        k[:, :, 0] *= fraction
        v *= largest / v.abs().max()
        q, k, v = q.half(), k.half(), v.half()
        expected = published(q.double(), k.double(), v.double())
        assert difference(relu_linear_attention(q, k, v), expected) < 1e-2


def test_more_tokens_than_half_precision_can_count():
    q, k, v = (torch.full((1, 1, 4, 70_000), value).half() for value in (1.0, 2.0, 3.0))
    torch.testing.assert_close(relu_linear_attention(q, k, v), v)


def attention_block(scales=(5,), channels=32, head_dim=16, height=6, width=5):
    heads = channels // head_dim
    return Block(
        "relu_linear", channels, channels, height, width,
        num_heads=heads, head_dim=head_dim, scales=scales,
    )  # fmt: skip


def by_hand(module, x, block):
    """LiteMLA head by head and scale by scale."""
    heads, dim = block.num_heads, block.head_dim
    qkv = module.qkv.conv(x)
    branches = [qkv]
    for scale in block.scales:
        depthwise, pointwise = module.aggreg[str(scale)]
        y = F.conv2d(qkv, depthwise.weight, padding=scale // 2, groups=qkv.shape[1])
        branches.append(F.conv2d(y, pointwise.weight, groups=3 * heads))
    outputs = []
    for branch in branches:
        for head in range(heads):
            q, k, v = (
                branch[:, (3 * head + i) * dim : (3 * head + i + 1) * dim].flatten(2)[:, None]
                for i in range(3)
            )
            outputs.append(definition(q, k, v)[:, 0].view(len(x), dim, *x.shape[2:]))
    return module.proj(torch.cat(outputs, dim=1))


@pytest.mark.parametrize("scales", [(), (3,), (5,), (3, 5)])
@pytest.mark.parametrize("size", [(6, 5), (2, 4), (1, 1)])  # 30 tokens; 8 and 1 of head dim 16
def test_lite_mla_by_hand(scales, size):
    block = attention_block(scales)
    module = LiteMLA(block, 1e-5).double().eval()
    x = random_qkv(2, 32, *size, dtype=torch.float64)[0]
    assert difference(module(x), by_hand(module, x, block)) < 1e-12


def test_an_empty_batch_is_empty():
    module = LiteMLA(attention_block(), 1e-5).eval()
    assert module(torch.randn(0, 32, 6, 5)).shape == (0, 32, 6, 5)
    assert module(torch.randn(0, 32, 2, 2)).shape == (0, 32, 2, 2)


def mixer_block(kind, height, width):
    """32 channels, and what else a mixer of that kind has."""
    headed = kind in HEADED
    scales = (3, 5) if kind == "relu_linear" else ()
    heads, dim = (2, 16) if headed else (0, 0)
    return Block(kind, 32, 32, height, width, num_heads=heads, head_dim=dim, scales=scales)


@pytest.mark.parametrize("kind", MIXERS)
def test_every_mixer_keeps_the_one_interface(kind):
    """Any size, the parameters that are counted, gradients for all of them, no hidden state."""
    block = mixer_block(kind, 8, 8)
    torch.manual_seed(0)
    module = MIXERS[kind](block, 1e-5)
    assert sum(p.numel() for p in module.parameters()) == cost_of(block).params
    x = torch.randn(2, 32, 8, 8)
    module(x).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    module.eval()
    with torch.no_grad():
        for size in [(1, 1), (1, 9), (7, 3), (13, 12)]:
            x = torch.randn(8, 32, *size)
            together = module(x)
            assert together.shape == x.shape
            assert together.isfinite().all()
            assert torch.equal(together, module(x))
            torch.testing.assert_close(together[:1], module(x[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MIXERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_mixer_is_finite_in_half_precision(kind, dtype):
    torch.manual_seed(0)
    module = MIXERS[kind](mixer_block(kind, 12, 10), 1e-5).eval()
    x = torch.randn(1, 32, 12, 10)
    with torch.no_grad():
        expected = module(x)
        found = module.to(dtype)(x.to(dtype))
        assert found.dtype == dtype
        assert difference(found, expected.double()) < 64 * torch.finfo(dtype).eps
        for scale in (0.0, 1e-4, 100.0):
            assert module(scale * x.to(dtype)).isfinite().all()


def test_attention_costs_grow_linearly_where_softmax_grows_quadratically():
    small, large = (attention_block(height=s, width=s) for s in (16, 64))
    assert cost_of(large).macs == 16 * cost_of(small).macs
