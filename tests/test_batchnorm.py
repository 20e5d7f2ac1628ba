"""Recalibrated statistics against means and variances taken by hand."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from results.errors import UserError
from supernet.arch import Arch, ClassificationHead, PromptableHead, Stage, Stem
from supernet.evaluation.batchnorm import recalibrate
from supernet.model import build, build_task_model

STAGES = (
    Stage(8, 1),
    Stage(8, 1),
    Stage(16, 1, mixer="relu_linear", scales=(5,), head_dim=8),
    Stage(16, 1, mixer="relu_linear", scales=(5,), head_dim=8),
)
ARCH = Arch("b", (64, 64), Stem(8), STAGES, ClassificationHead((32, 32), num_classes=3))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build(ARCH).double().eval()


def batches(number=3, size=4):
    generator = torch.Generator().manual_seed(1)
    shape = (size, 3, 64, 64)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(number)]


def test_statistics_are_the_means_over_batches(network):
    seen: dict[str, list[Any]] = {
        name: [] for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)
    }
    twin = copy.deepcopy(network).train()
    for name in seen:
        twin.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: seen[name].append(inputs[0])
        )
    with torch.no_grad():
        for batch in batches():
            twin(batch)
    recalibrate(network, batches())
    assert len(seen) > 10
    for name, inputs in seen.items():
        norm = network.get_submodule(name)
        mean = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
        variance = torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0)
        assert torch.allclose(norm.running_mean, mean, rtol=1e-10)
        assert torch.allclose(norm.running_var, variance, rtol=1e-10)


def test_what_was_there_before_has_no_part(network):
    other = copy.deepcopy(network)
    norms: list[Any] = [m for m in other.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.fill_(1e6)
        norm.running_var.fill_(1e6)
    for model in (network, other, other):
        recalibrate(model, batches())
    for (name, a), b in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("training", [True, False])
def test_weights_modes_and_momenta_stay(network, training):
    network.train(training)
    network.stage1.eval()
    first = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    first.momentum = 0.25
    modes = [module.training for module in network.modules()]
    before = copy.deepcopy(dict(network.named_parameters()))
    recalibrate(network, batches())
    assert [module.training for module in network.modules()] == modes
    assert first.momentum == 0.25
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_of_segment_anything_the_image_encoder_is_run():
    arch = Arch("b", (64, 64), Stem(8), STAGES, PromptableHead(1, 1, width=16, size=8))
    model = build_task_model(arch)
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, [batch.float() for batch in batches()])
    changed = [n for n, t in model.state_dict().items() if not torch.equal(t, before[n])]
    assert changed
    assert all(name.startswith("image_encoder.") for name in changed)
    assert all("running" in name or "num_batches" in name for name in changed)


def test_too_few_pictures_are_named(network):
    with pytest.raises(UserError, match="statistics need pictures"):
        recalibrate(network, [])
    with pytest.raises(UserError, match=r"no variance; take more --recalibration-images"):
        recalibrate(network, [torch.randn(1, 3, 32, 32, dtype=torch.float64)])
    assert not network.training
