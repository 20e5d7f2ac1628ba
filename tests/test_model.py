"""The networks as modules: counts, gradients, determinism, export, and the names users know."""

import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from results.errors import ArchError, WeightsError
from supernet import model
from supernet.arch import Arch, ClassificationHead, Stage, Stem
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.model import (
    EfficientViT,
    FeatureExtractor,
    build,
    build_task_model,
    model_arch,
    model_names,
)
from supernet.official import BACKBONES, NAMES, named_arch
from supernet.sam.model import Sam
from supernet.weights.names import official_name
from tests.seeded import seeded_picture, seeded_tensor
from tests.strategies import any_arch

NARROW = Arch(  # every kind of stage, small enough for gradients
    "b",
    (64, 96),
    Stem(8, 1),
    (
        Stage(8, 2, 1, local="dsconv"),
        Stage(16, 1, 4, local="fused_mbconv", kernel_size=5),
        Stage(32, 1, 3, mixer="relu_linear", scales=(3, 5), head_dim=16),
        Stage(32, 1, 1, local="resblock", mixer="relu_linear", scales=(), head_dim=32),
    ),
    ClassificationHead((24, 20), 10),
)
ALL_NAMED = [(name, None, None) for name in NAMES] + [
    (name, "segmentation", dataset)
    for name, dataset in [
        *((name, "cityscapes") for name in ("b0", "b1", "b2", "b3", "l1", "l2")),
        *((name, "ade20k") for name in ("b1", "b2", "b3", "l1", "l2")),
    ]
]


def create_model(*arguments: Any, **options: Any) -> Any:
    """Typed for what a test knows of the model that it asks for."""
    return model.create_model(*arguments, **options)


def narrow(task) -> Any:
    """A small network of each task."""
    if task == "classification":
        return NARROW
    if task == "super_resolution":
        arch: Any = named_arch("sr_w075_x2", resolution=(36, 44))
        stages = tuple(replace(s, width=16, depth=1, head_dim=s.head_dim) for s in arch.stages)
        return replace(arch, stages=stages, head=replace(arch.head, depth=1))
    name, dataset = {"segmentation": ("b0", "cityscapes"), "promptable": ("sam_l0", "sa1b")}[task]
    arch = named_arch(name, task=task, dataset=dataset, resolution=(64, 64))
    stages = tuple(replace(stage, width=32, depth=1) for stage in arch.stages)
    return replace(arch, stages=stages, head=replace(arch.head, depth=1))


TASKS = ["classification", "segmentation", "super_resolution", "promptable"]


@pytest.mark.parametrize(("name", "task", "dataset"), ALL_NAMED)
def test_parameters_and_macs_equal_the_exact_counts(name, task, dataset):
    """Costs equal the published counts (test_cost.py); PyTorch counts the module's."""
    arch = named_arch(name, task=task, dataset=dataset)
    with torch.device("meta"):
        network = build(arch).eval()
        picture = torch.empty(1, 3, *arch.resolution)
        with FlopCounterMode(display=False) as counter:
            output = network(picture)
    cost = network_cost(blocks_of(arch))
    assert sum(p.numel() for p in network.parameters()) == cost.params
    assert counter.get_total_flops() == 2 * cost.macs
    last = blocks_of(arch)[-1]
    expected = (last.out_channels, *last.out_size)
    assert tuple(output.shape[1:]) in (expected, expected[:1])


@settings(max_examples=40, deadline=None)
@given(any_arch)
def test_any_arch_of_any_space_builds_with_the_parameters_that_are_counted(arch):
    with torch.device("meta"):
        network = build(arch)
    blocks = blocks_of(arch)
    assert sum(p.numel() for p in network.parameters()) == network_cost(blocks).params
    assert len({block.name for block in blocks}) == len(blocks)


@pytest.mark.parametrize("task", TASKS)
def test_gradients_reach_every_parameter(task):
    torch.manual_seed(0)
    arch = narrow(task)
    network = build(arch)
    network(torch.rand(2, 3, *arch.resolution)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_gradients_reach_every_parameter_of_prompts_and_masks():
    """Over all kinds of prompts, as each has embeddings of its own."""
    torch.manual_seed(0)
    sam = build_task_model(narrow("promptable"))
    assert isinstance(sam, Sam)
    embedding = sam.image_encoder(torch.rand(2, 3, 64, 64))[:1]
    points, labels = torch.tensor([[[100.0, 200.0], [300.0, 50.0]]]), torch.tensor([[1, 0]])
    boxes, mask = torch.tensor([[10.0, 20.0, 500.0, 600.0]]), torch.rand(1, 1, 256, 256)
    loss = torch.zeros(())
    for multimask in (True, False):
        for prompts in ((points, labels, None, None), (None, None, boxes, mask)):
            logits, scores = sam.decode(embedding, *prompts, multimask=multimask)
            loss = loss + logits.square().mean() + scores.square().mean()
    loss.backward()
    for name, parameter in sam.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_is_deterministic_and_independent_of_the_batch(task):
    torch.manual_seed(0)
    arch = narrow(task)
    network = build(arch).double()
    count = 2 if task == "promptable" else 8  # pictures of 512 x 512 are slow
    pictures = torch.rand(count, 3, *arch.resolution, dtype=torch.float64)
    network(pictures)  # statistics of normalisation that let the picture through
    network.eval()
    with torch.no_grad():
        together = network(pictures)
        assert torch.equal(together, network(pictures))
        alone = torch.cat([network(picture[None]) for picture in pictures])
        assert not torch.allclose(together[0], together[1], rtol=1e-3)
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    with_gradients = network(pictures)
    torch.testing.assert_close(together, with_gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("task", TASKS)
def test_autocast_gives_the_same_with_and_without_gradients(task, dtype):
    torch.manual_seed(0)
    arch = narrow(task)
    if task == "promptable":  # half precision takes a minute on a CPU for 64 x 64 positions
        arch = replace(arch, head=replace(arch.head, size=8, width=32, out_channels=32))
    network = build(arch)
    pictures = torch.rand(2, 3, *network.arch.resolution)
    network(pictures)
    network.eval()
    with torch.autocast("cpu", dtype=dtype):
        with_gradients = network(pictures)
        with torch.no_grad():
            without = network(pictures)
    assert without.dtype == with_gradients.dtype
    assert torch.equal(without, with_gradients.detach())
    with_gradients.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_leaves_its_input_alone(task):
    arch = narrow(task)
    network = build(arch).eval()
    pictures = torch.rand(1, 3, *arch.resolution)
    before = pictures.clone()
    with torch.no_grad():
        network(pictures)
        network.forward_stages(pictures)
    assert torch.equal(pictures, before)


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (32, 160)])
def test_super_resolution_takes_any_size_and_starts_from_the_bicubic_picture(size):
    torch.manual_seed(0)
    network: Any = build(named_arch("sr_w075_x4")).eval()
    nn.init.zeros_(network.head.pixels.conv.weight)
    nn.init.zeros_(network.head.pixels.conv.bias)
    picture = torch.rand(1, 3, *size)
    with torch.no_grad():
        output = network(picture)
    expected = nn.functional.interpolate(picture, scale_factor=4, mode="bicubic")
    torch.testing.assert_close(output, expected)


def test_super_resolution_is_as_fast_as_published_by_the_calibrated_table():
    """The sizes are ours, chosen for this; the figures are Table 5's (A100, fp16, batch 1)."""
    from lut.device import find_table, get_device
    from lut.table import load_table

    table = load_table(find_table(get_device("a100"), 1))
    published = {
        ("sr_x2", (512, 512)): 17.8,
        ("sr_x2", (160, 240)): 3.2,
        ("sr_w075_x2", (512, 512)): 14.3,
        ("sr_w075_x2", (160, 240)): 2.8,
    }
    for (name, resolution), latency_ms in published.items():
        predicted = table.network_ms(blocks_of(named_arch(name, resolution=resolution)))
        assert predicted == pytest.approx(latency_ms, rel=0.05)


def test_half_precision_networks_are_finite():
    torch.manual_seed(0)
    network = build(NARROW)
    network(torch.randn(4, 3, 64, 96))
    network.eval().half()
    with torch.no_grad():
        for scale in (0, 1, 30):
            assert network(scale * torch.randn(1, 3, 64, 96).half()).isfinite().all()


def test_export_keeps_b1():
    torch.manual_seed(0)
    network = create_model("efficientvit_b1").eval()
    picture = torch.randn(1, 3, 224, 224)
    program = torch.export.export(network, (picture,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(picture), network(picture))


@pytest.mark.parametrize("task", ["classification", "segmentation", "super_resolution"])
def test_export_with_any_batch(task):
    torch.manual_seed(0)
    arch = narrow(task)
    network = build(arch).eval()
    batch = torch.export.Dim("batch", min=1, max=16)
    pictures = torch.rand(2, 3, *arch.resolution)
    program = torch.export.export(network, (pictures,), dynamic_shapes=({0: batch},))
    five = torch.rand(5, 3, *arch.resolution)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(five), network(five))


@pytest.mark.slow
def test_a_whole_network_in_half_precision_at_full_resolution():
    """B0 for Cityscapes at 1024x2048: 8,192 tokens in stage 3, all arithmetic in float16."""
    network = build(model_arch("efficientvit_seg_b0_cityscapes")).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.copy_(seeded_tensor(official_name(name, network.arch), tensor.shape))
        picture = seeded_picture(1024, 2048).float()
        expected = network(picture)
        found = network.half()(picture.half()).float()
    assert found.isfinite().all()
    error = (found - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 5e-3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compile_keeps_b1():
    torch.manual_seed(0)
    network = create_model("efficientvit_b1").eval()
    picture = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        found = torch.compile(network)(picture)
        torch.testing.assert_close(found, network(picture), rtol=1e-3, atol=1e-4)


def test_the_documented_names_exist():
    """Those of the classification zoo, of both data sets, of SAM and of super-resolution."""
    names = model_names()
    assert len(names) == len(set(names)) == len(BACKBONES) + 11 + 4
    for name in (
        "efficientvit_b1",
        "efficientvit_l1",
        "efficientvit_seg_b1_cityscapes",
        "efficientvit_seg_l2_ade20k",
        "efficientvit_sam_l0",
        "efficientvit_sam_xl1",
        "efficientvit_sr_x2",
        "efficientvit_sr_w075_x4",
    ):
        assert name in names
        assert isinstance(model_arch(name), Arch)


def test_create_model_sets_classes_and_resolution():
    network = create_model("efficientvit_b0", num_classes=7, resolution=160)
    assert isinstance(network, EfficientViT)
    assert network.arch.resolution == (160, 160)
    assert network.default_cfg["input_size"] == (3, 160, 160)
    assert network.default_cfg["num_classes"] == 7
    assert network.eval()(torch.rand(1, 3, 160, 160)).shape == (1, 7)
    assert network.forward_features(torch.rand(1, 3, 160, 160)).shape == (1, 128, 5, 5)
    assert network.num_features == 128


def test_no_classes_mean_pooled_features():
    network = create_model("efficientvit_b0", num_classes=0).eval()
    picture = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        features = network(picture)
        assert features.shape == (1, network.num_features)
        torch.testing.assert_close(features, network.forward_features(picture).mean((2, 3)))


def test_features_only_gives_every_stage():
    network = create_model("efficientvit_l1", features_only=True).eval()
    assert isinstance(network, FeatureExtractor)
    with torch.no_grad():
        maps = network(torch.rand(1, 3, 64, 128))
    assert [m.shape[1] for m in maps] == network.feature_info.channels() == [64, 128, 256, 512]
    assert [64 // m.shape[2] for m in maps] == network.feature_info.reduction() == [4, 8, 16, 32]
    assert create_model("efficientvit_sr_x2", features_only=True).feature_info.reduction()[0] == 2


def test_promptable_models_come_whole():
    network = create_model("efficientvit_sam_l0")
    assert isinstance(network, Sam)
    assert network.image_encoder.arch == named_arch("sam_l0")
    published = 34.8e6  # of the whole model, EfficientViT-SAM's Table 2
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(published, rel=1e-3)
    assert isinstance(build_task_model(named_arch("b0")), EfficientViT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "efficientvit_b7"}, "efficientvit_b0"),
        ({"name": "efficientvit_sam_l0", "num_classes": 3}, "no classes"),
        ({"name": "efficientvit_sr_x2", "num_classes": 3}, "no classes"),
        ({"name": "efficientvit_b0", "num_classes": -1}, "num_classes must be"),
        ({"name": "efficientvit_b0", "num_classes": "10"}, "not '10'"),
        ({"name": "efficientvit_b0", "num_classes": 5, "features_only": True}, "no classes"),
        ({"name": "efficientvit_b0", "resolution": 224.0}, "in pixels, not 224.0"),
        ({"name": "efficientvit_sam_l0", "resolution": (512, 1024)}, "padded to squares"),
        ({"name": "efficientvit_b0", "resolution": 7}, "height and width"),
    ],
)
def test_impossible_wishes_are_named(arguments, message):
    with pytest.raises(ArchError, match=message):
        create_model(**arguments)


def test_no_weights_are_promised():
    for pretrained in (True, 1, ["b0.pt"]):
        with pytest.raises(WeightsError, match="name a file"):
            create_model("efficientvit_b0", pretrained=pretrained)
    assert model_arch("b1") == model_arch("efficientvit_b1.r224_in1k") == named_arch("b1")


def test_pictures_are_prepared_as_the_official_code_does():
    assert create_model("efficientvit_b1").default_cfg["crop_pct"] == 0.95
    assert create_model("efficientvit_b2").default_cfg["crop_pct"] == 1.0
    assert model_arch("efficientvit_l1").norm_eps == 1e-7
    segment = create_model("efficientvit_seg_b0_cityscapes").default_cfg
    assert segment["crop_pct"] == 1.0
    assert segment["mean"] == (0.485, 0.456, 0.406)
    assert create_model("efficientvit_sr_w075_x2").default_cfg["std"] == (1.0, 1.0, 1.0)


def test_an_image_encoder_takes_its_own_size_alone():
    network = build(narrow("promptable")).eval()
    with pytest.raises(ArchError, match="takes 64 px, not 96x96; build it"):
        network(torch.rand(1, 3, 96, 96))


def test_a_named_resolution_is_only_what_the_arch_speaks_of():
    network = create_model("efficientvit_b0", resolution=224).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 100, 75)).shape == (1, 1000)
