import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lut.roofline import Roofline
from results.errors import TableError
from supernet.blocks import Block, BlockKind, blocks_of
from supernet.cost import BYTES, cost_of, ops_of
from supernet.official import BACKBONES, named_arch

PHONE = Roofline(29.0, 3.0, 0.9, cache_mb=26.0)
EDGE_GPU = Roofline(19e3, 170.0, 0.02, 0.05, 20e3, product_passes=3.0, launch_us=6.0)
DATA_CENTRE_GPU = Roofline(106e3, 26.0, 0.007, 0.05, 120e3, product_passes=3.0, launch_us=2.4)
ROOFLINES = (PHONE, EDGE_GPU, DATA_CENTRE_GPU)
KINDS: tuple[BlockKind, ...] = (
    "conv",
    "dsconv",
    "mbconv",
    "fused_mbconv",
    "resblock",
    "relu_linear",
    "softmax",
    "hyena",
    "retention",
    "rwkv",
    "pool",
    "linear",
    "upsample",
    "add",
    "layer_norm",
)
rooflines = st.sampled_from(ROOFLINES)
sizes = st.integers(1, 48)


def block_of(
    kind: BlockKind, units: int, height: int, width: int, kernel_size: int = 3, expand: int = 4
) -> Block:
    """A block of `kind` whose channels are 16 * `units`, as networks contain it."""
    channels = 16 * units
    block = Block(kind, channels, channels, height, width)
    if kind in ("conv", "dsconv", "mbconv", "fused_mbconv", "resblock"):
        mid = channels if kind in ("dsconv", "resblock") else channels * expand
        mid = 0 if kind == "conv" else mid
        return replace(block, mid_channels=mid, kernel_size=kernel_size, activation="hswish")
    if kind in ("relu_linear", "softmax", "retention"):
        scales = (kernel_size,) if kind == "relu_linear" else ()
        return replace(block, num_heads=units, head_dim=16, scales=scales, residual=True)
    if kind == "upsample":
        up = replace(block, out_height=2 * height, out_width=2 * width, mode="bicubic")
        return replace(up, norm="none")
    if kind == "add":
        return replace(block, in_channels=3 * channels)
    if kind == "linear":
        return replace(block, height=1, width=1, norm="layer", activation="hswish")
    return block


blocks = st.builds(
    block_of,
    st.sampled_from(KINDS),
    st.integers(1, 40),
    sizes,
    sizes,
    st.sampled_from((3, 5, 7)),
    st.sampled_from((1, 3, 6)),
)


@given(rooflines, blocks, st.sampled_from((1, 16, 64)), st.sampled_from(sorted(BYTES)))
def test_every_block_costs_a_finite_time(roofline, block, batch, precision):
    assert 0 < roofline.block_ms(block, batch, precision) < 1e6


@given(
    rooflines,
    st.sampled_from(KINDS),
    st.tuples(st.integers(1, 20), sizes, sizes),
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)),
    st.sampled_from((1, 16)),
)
@settings(max_examples=300)
def test_more_channels_or_pixels_never_cost_less(roofline, kind, shape, more, batch):
    larger = tuple(a + b for a, b in zip(shape, more, strict=True))
    small = roofline.block_ms(block_of(kind, *shape), batch, "fp16")
    large = roofline.block_ms(block_of(kind, *larger), batch, "fp16")
    assert large >= small * (1 - 1e-12)


@given(rooflines, blocks, st.sampled_from((1, 16)))
def test_a_larger_kernel_never_costs_less(roofline: Roofline, block: Block, batch: int):
    def cost(kernel_size: int) -> float:
        scales = (kernel_size,) if block.scales else ()
        changed = replace(block, kernel_size=kernel_size, scales=scales)
        return roofline.block_ms(changed, batch, "fp16")

    if block.mid_channels or block.kind in ("conv", "relu_linear"):
        assert cost(3) < cost(5) < cost(7)


@given(rooflines, blocks)
def test_a_larger_batch_never_costs_more_per_image_without_a_cache(roofline, block):
    roofline = replace(roofline, cache_mb=0.0)
    assert roofline.block_ms(block, 16, "fp16") <= roofline.block_ms(block, 1, "fp16")


@pytest.mark.parametrize("roofline", ROOFLINES)
@pytest.mark.parametrize("name", ["b0", "b3", "l2"])
def test_a_network_costs_more_at_each_larger_resolution(roofline, name):
    # 128 to 192 crosses the switch of LiteMLA from its quadratic to its linear form.
    totals = [
        sum(roofline.block_ms(block, 1, "fp16") for block in blocks_of(arch))
        for side in range(96, 513, 32)
        for arch in [named_arch(name, resolution=(side, side))]
    ]
    assert totals == sorted(set(totals))


@pytest.mark.parametrize("roofline", ROOFLINES)
def test_official_networks_keep_the_order_of_their_size(roofline):
    for family in (("b0", "b1", "b2", "b3"), ("l0", "l1", "l2", "l3")):
        costs = [
            sum(roofline.block_ms(b, 1, "fp16") for b in blocks_of(BACKBONES[name]))
            for name in family
        ]
        assert costs == sorted(set(costs))


def test_a_pointwise_convolution_is_the_longer_of_arithmetic_and_memory():
    block = Block("conv", 64, 128, 32, 32)
    macs = 64 * 128 * 32 * 32
    moved = 4 * cost_of(block).moved_elements
    slow_arithmetic = Roofline(1.0, 1e-6, launch_us=1e-6)
    assert slow_arithmetic.block_ms(block, 1, "fp32") == pytest.approx(macs / 1e6, rel=1e-3)
    slow_memory = Roofline(1e6, 1e6, launch_us=1e-6)  # 1 GB/s
    assert slow_memory.block_ms(block, 1, "fp32") == pytest.approx(moved / 1e6, rel=1e-3)
    even = Roofline(1.0, macs / moved, launch_us=1e-6)
    assert even.block_ms(block, 1, "fp32") == pytest.approx(2**0.25 * macs / 1e6, rel=1e-3)


def test_launches_and_weights_are_shared_by_a_batch():
    launch_bound = Roofline(1e9, 1e-3, launch_us=10.0)
    block = block_of("mbconv", 2, 8, 8)
    assert launch_bound.block_ms(block, 1, "fp16") == pytest.approx(0.03, rel=1e-3)
    assert launch_bound.block_ms(block, 10, "fp16") == pytest.approx(0.003, rel=1e-3)
    linear = block_of("linear", 64, 1, 1)
    one, many = (EDGE_GPU.block_ms(linear, batch, "fp16") for batch in (1, 64))
    assert many < one / 30


def test_a_cache_hides_the_memory_of_small_operators():
    small, large = block_of("add", 1, 8, 8), block_of("add", 16, 512, 512)
    cached = replace(PHONE, launch_us=1e-6)
    bare = replace(cached, cache_mb=0.0)
    assert cached.block_ms(small, 1, "fp32") < 0.01 * bare.block_ms(small, 1, "fp32")
    assert cached.block_ms(large, 1, "fp32") > 0.85 * bare.block_ms(large, 1, "fp32")


def test_grain_makes_long_sums_of_few_results_slow():
    attention = Block("relu_linear", 64, 64, 64, 128, num_heads=4, head_dim=16, scales=(5,))
    coarse, fine = DATA_CENTRE_GPU, replace(DATA_CENTRE_GPU, product_grain=0.0)
    assert coarse.block_ms(attention, 1, "fp16") > 1.2 * fine.block_ms(attention, 1, "fp16")
    assert coarse.block_ms(attention, 64, "fp16") < 1.05 * fine.block_ms(attention, 64, "fp16")
    conv = block_of("mbconv", 4, 64, 128)
    assert coarse.block_ms(conv, 1, "fp16") == fine.block_ms(conv, 1, "fp16")


def test_products_that_copy_their_operands_move_more():
    memory_bound = Roofline(1e9, 1e3, launch_us=1e-6)
    attention = Block("softmax", 64, 64, 16, 16, num_heads=4, head_dim=16)
    ops = ops_of(attention)
    moved, copied = (
        sum(op.in_elements + op.out_elements for op in ops if keep(op.kind))
        for keep in (lambda kind: True, lambda kind: kind == "matmul")
    )
    weights = sum(op.params for op in ops)
    once, thrice = (
        replace(memory_bound, product_passes=passes).block_ms(attention, 1, "fp16")
        for passes in (1.0, 3.0)
    )
    assert thrice / once == pytest.approx(1 + 2 * copied / (moved + weights), rel=1e-3)


@pytest.mark.parametrize("roofline", ROOFLINES)
def test_json_round_trip(roofline):
    assert Roofline.from_dict(roofline.to_dict()) == roofline


@pytest.mark.parametrize(
    "change",
    [
        {"conv_gmacs_per_s": 0.0},
        {"macs_per_byte": -1.0},
        {"launch_us": math.nan},
        {"cache_mb": -1.0},
        {"product_passes": 0.5},
        {"depthwise_speed": math.inf},
    ],
)
def test_impossible_parameters_are_named(change):
    (name,) = change
    with pytest.raises(TableError, match=name):
        Roofline.from_dict(PHONE.to_dict() | change)
    with pytest.raises(TableError, match="warp"):
        Roofline.from_dict(PHONE.to_dict() | {"warp": 1.0})
