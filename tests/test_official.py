"""Networks equal the official ones: outputs that the official code gave for seeded weights.

golden/official.json holds them (its `origin` says of which commit), computed in float64 from
the weights and pictures of tests/seeded.py. Weights come in under the official names, through
a file, so the loader is proved as well.
"""

import json
from dataclasses import replace

import pytest
import torch

from supernet.arch import parse_resolution
from supernet.model import build, model_arch
from supernet.official import BACKBONES
from supernet.weights.files import load_weights, official_state_dict
from tests.conftest import ROOT
from tests.seeded import digest, seeded_picture, seeded_tensor

SLOW = ("_xl0", "_xl1", "_l3")  # networks of which one pass takes seconds
GOLDEN = json.loads((ROOT / "tests" / "golden" / "official.json").read_text())
ORIGIN = GOLDEN.pop("origin")
BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}
HEAVY = ("_l3", "_sam_l2", "_sam_xl")  # many seconds a picture in float64


def golden_arch(name, size):
    arch = BACKBONES["l0"] if name == "efficientvit_l0 backbone" else model_arch(name)
    return replace(arch, resolution=parse_resolution(size))


def seeded_network(name, size, dtype, folder):
    """The network (of SAM the image encoder) with its seeded weights, loaded from a file."""
    model = build(golden_arch(name, size)).to(dtype).eval()
    prefix = "image_encoder." if "_sam_" in name else ""
    state = {
        prefix + key: seeded_tensor(prefix + key, tensor.shape).to(dtype)
        for key, tensor in official_state_dict(model).items()
    }
    torch.save({"state_dict": state}, folder / "weights.pt")
    load_weights(model, folder / "weights.pt")
    return model


def differences(output, golden):
    """Of the values kept, relative to the largest; and of the sums, relative to themselves."""
    found = digest(output)
    assert found["shape"] == golden["shape"]
    values, expected = torch.tensor(found["values"]), torch.tensor(golden["values"])
    yield ((values - expected).abs().max() / expected.abs().max()).item()
    yield abs(found["absolute_mean"] / golden["absolute_mean"] - 1)
    yield abs(found["square_mean"] / golden["square_mean"] - 1)


def check(name, sizes, dtype, folder):
    """One model for all sizes, as it takes any; image encoders one for each."""
    if "_sam_" in name and len(sizes) > 1:
        for size in sizes:
            check(name, [size], dtype, folder)
        return
    model = seeded_network(name, sizes[0], dtype, folder)
    run = model.forward_features if name.endswith("backbone") else model
    for size in sizes:
        with torch.no_grad():
            output = run(seeded_picture(*parse_resolution(size)).to(dtype))
        assert max(differences(output, GOLDEN[name][size])) <= BOUND[dtype], size


FIRST = {name: next(iter(sizes)) for name, sizes in GOLDEN.items()}
LIGHT = [name for name in GOLDEN if not any(part in name for part in HEAVY)]


def test_the_golden_file_covers_every_official_network():
    assert len(GOLDEN) == 7 + 1 + 11 + 5  # classification, L0's backbone, segmentation, SAM
    assert all(len(sizes) == 3 for sizes in GOLDEN.values())
    for name in GOLDEN:
        sizes = [parse_resolution(size) for size in GOLDEN[name]]
        arch = golden_arch(name, FIRST[name])
        tokens = [h // 32 * (w // 32) for h, w in sizes]  # of stage 4
        assert min(tokens) <= arch.stages[-1].head_dim < max(tokens)
        assert any(h != w for h, w in sizes)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * n.endswith(SLOW)) for n in GOLDEN]
)
def test_single_precision(name, tmp_path):
    check(name, list(GOLDEN[name]), torch.float32, tmp_path)


@pytest.mark.parametrize("name", LIGHT)
def test_double_precision(name, tmp_path):
    check(name, [FIRST[name]], torch.float64, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("name", GOLDEN)
def test_every_size_in_both_precisions(name, dtype, tmp_path):
    for size in GOLDEN[name]:
        check(name, [size], dtype, tmp_path)


@pytest.mark.parametrize("name", ["efficientvit_b0", "efficientvit_seg_b1_cityscapes"])
def test_the_comparison_sees_a_changed_weight(name, tmp_path):
    size = FIRST[name]
    model = seeded_network(name, size, torch.float32, tmp_path)
    tensor = model.stage2[1].mbconv.main.depth_conv.conv.weight
    with torch.no_grad():
        tensor[0] = tensor[0].flip(-1)  # one channel's kernel, mirrored
        output = model(seeded_picture(*parse_resolution(size)).float())
    assert max(differences(output, GOLDEN[name][size])) > 10 * BOUND[torch.float32]
