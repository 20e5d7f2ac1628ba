"""Networks traced and exported: the eager outputs, one graph whatever grad mode chooses it in."""

import io
import warnings
from dataclasses import replace
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from supernet.arch import HEADED
from supernet.model import build, build_task_model
from supernet.official import named_arch
from tests.test_model import NARROW, narrow

TOLERANCE = 1e-6  # relative to the largest value


def mixing(mixer: Any) -> Any:
    """A narrow network whose third stage has the mixer."""
    head_dim = 16 if mixer in HEADED else 0
    stage = replace(NARROW.stages[2], depth=1, mixer=mixer, scales=(), head_dim=head_dim)
    return replace(NARROW, stages=(*NARROW.stages[:2], stage, NARROW.stages[3]))


def shallow(name: str) -> Any:
    """A named network with a block a stage."""
    arch = named_arch(name)
    return replace(arch, stages=tuple(replace(s, width=32, depth=1) for s in arch.stages))


NETWORKS = {
    "b": (lambda: NARROW, (32, 64)),
    "b, many tokens": (lambda: NARROW, (96, 160)),
    "l": (lambda: shallow("l0"), (64, 64)),
    "segmentation": (lambda: narrow("segmentation"), (64, 96)),
    "super-resolution": (lambda: narrow("super_resolution"), (20, 28)),
    "image encoder": (lambda: narrow("promptable"), (64, 64)),
    "softmax": (lambda: mixing("softmax"), (64, 96)),
    "hyena": (lambda: mixing("hyena"), (64, 96)),
    "retention": (lambda: mixing("retention"), (64, 96)),
    "retention in tiles": (lambda: mixing("retention"), (64, 96)),
    "rwkv": (lambda: mixing("rwkv"), (64, 96)),
}


def settled(network: nn.Module, *inputs: Any) -> nn.Module:
    """In evaluation, with statistics that let the picture through."""
    with torch.no_grad():
        network(*inputs)
    return network.eval()


def far(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


@pytest.fixture(params=NETWORKS)
def network_and_picture(request, monkeypatch):
    torch.manual_seed(0)
    if "tiles" in request.param:  # as for more tokens
        monkeypatch.setattr("supernet.layers.retention.MOST_PARALLEL_TOKENS", 8)
    make, size = NETWORKS[request.param]
    picture = torch.rand(1, 3, *size)
    return settled(build(make()), picture), picture


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
class TestTraced:
    def test_passes_its_own_check_and_gives_what_the_network_does(self, network_and_picture):
        network, picture = network_and_picture
        with torch.no_grad():
            expected = network(picture)
        assert far(network(picture), expected) <= TOLERANCE
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                traced = torch.jit.trace(network, picture)  # raises where its check fails
            for running in (True, False):
                with torch.set_grad_enabled(running):
                    assert far(traced(picture), expected) <= TOLERANCE

    def test_whole_promptable_network(self):
        torch.manual_seed(0)
        arch = narrow("promptable")
        picture, boxes = torch.rand(1, 3, *arch.resolution), torch.tensor([[10.0, 20.0, 500, 700]])
        network = settled(build_task_model(arch), picture, None, None, boxes)

        class FromBoxes(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = network

            def forward(self, picture: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
                masks, scores = self.network(picture, boxes=boxes)
                return masks, scores

        with torch.no_grad():
            expected = FromBoxes()(picture, boxes)
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                traced = torch.jit.trace(FromBoxes(), (picture, boxes))
            for found, wanted in zip(traced(picture, boxes), expected, strict=True):
                assert far(found, wanted) <= TOLERANCE


def operators(graph: torch.fx.GraphModule) -> list[str]:
    """Of a graph, and of those that it calls."""
    found = []
    for node in graph.graph.nodes:
        if node.op == "get_attr" and isinstance(
            inner := getattr(graph, str(node.target), None), torch.fx.GraphModule
        ):
            found += operators(inner)
        elif node.op == "call_function":
            found.append(str(node.target))
    return found


def test_exports_are_of_one_graph_with_and_without_gradients(network_and_picture):
    network, picture = network_and_picture
    found = []
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(network, (picture,))
            assert far(program.module()(picture), network(picture)) <= TOLERANCE
        found.append(operators(program.graph_module))
    assert found[0] == found[1]
    assert not any("grad_enabled" in name for name in found[0])


@pytest.mark.parametrize("name", ["b, many tokens", "segmentation", "softmax", "rwkv"])
def test_onnx_has_one_list_of_operators(name):
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    picture = torch.rand(1, 3, *size)
    network, found = build(make()).eval(), []
    for gradients in (True, False):
        file: Any = io.BytesIO()
        with torch.set_grad_enabled(gradients), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(network, (picture,), file, dynamo=False)
        graph = onnx.load_from_string(file.getvalue()).graph
        found.append([node.op_type for node in graph.node])
    assert found[0] == found[1]
    assert len(found[0]) > 50


def test_hooks_keep_what_they_saw():
    """Nothing overwrites what a block's inside gave, also where gradients are asked for."""
    torch.manual_seed(0)
    network = build(NARROW).eval()
    picture, seen = torch.rand(1, 3, 64, 96), []
    for module in network.modules():
        module.register_forward_hook(lambda _, args, out: seen.append((out, out.clone())))
        module.register_full_backward_hook(lambda *_: None)
    with torch.no_grad():
        network(picture)
    assert seen
    assert all(torch.equal(kept, then) for kept, then in seen)
    network(picture.requires_grad_()).sum().backward()
