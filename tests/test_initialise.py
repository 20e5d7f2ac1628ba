"""First weights of a training."""

import random

import torch

from supernet.blocks import blocks_of
from supernet.layers.convolutions import Residual
from supernet.layers.initialise import initialise_weights
from supernet.model import build
from supernet.official import named_arch
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space


def test_every_residual_block_is_the_identity():
    torch.manual_seed(0)
    network = build(named_arch("b1")).train()
    initialise_weights(network)
    x = torch.randn(2, 3, 64, 64)
    maps = {}
    for name, module in network.named_modules():
        if isinstance(module, Residual):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: maps.update({name: (inputs[0], output)})
            )
    network(x)
    assert set(maps) == {block.name for block in blocks_of(named_arch("b1")) if block.residual}
    assert all(torch.equal(*pair) for pair in maps.values())


def test_weights_are_narrow_normals_and_gradients_still_reach_all():
    torch.manual_seed(0)
    network = build(named_arch("b0"))
    initialise_weights(network)
    (conv,) = (m for n, m in network.named_modules() if n == "stage4.0.mbconv.point_conv.conv")
    assert 0.018 < conv.weight.std().item() < 0.022
    assert conv.weight.abs().max() <= 2
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # at first the last norm alone learns within a residual block
        optimizer.zero_grad()
        network(torch.randn(4, 3, 64, 64)).square().sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_mixers_with_rules_of_their_own_keep_their_weights():
    space = get_space("all", freeze=["family=b", "stage3.mixer=hyena,retention,rwkv"])
    torch.manual_seed(0)
    supernet = Supernet(space.freeze(["stage3.depth=1", "stage4.depth=1"]))
    before = {n: p.clone() for n, p in supernet.named_parameters()}
    initialise_weights(supernet.nets)
    moved = {n for n, p in supernet.named_parameters() if not torch.equal(p, before[n])}
    own = {n for n in before if any(f".{m}" in n for m in ("hyena", "retention", "rwkv"))}
    kept = own - moved
    assert len(own) > 20
    assert all(n.endswith("norm.weight") for n in own & moved)
    assert kept
    arch = space.freeze(["stage3.depth=1", "stage4.depth=1"]).sample(random.Random(0))
    assert supernet(torch.randn(2, 3, 64, 64), arch).isfinite().all()
