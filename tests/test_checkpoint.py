"""A supernet's file opens as the same supernet, and weights of one network get their place."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from predictors.shape import judged_space
from results.errors import SpaceError, WeightsError
from supernet.model import build, create_model
from supernet.official import named_arch
from supernet.sharing.checkpoint import (
    init_from,
    open_supernet,
    save_checkpoint,
)
from supernet.sharing.extremes import smallest_of
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space
from supernet.weights.files import official_state_dict, save_weights
from supernet.weights.fitting import set_norm_eps
from supernet.weights.header import read_header

TINY: dict[str, Any] = {"name": "tiny", "num_classes": 7}
SMALL_B = (
    *("stem.width=16", "stem.depth=1", "stage1.width=32", "stage1.depth=2", "stage2.width=64"),
    *("stage2.depth=3", "stage3.width=128", "stage3.depth=3", "stage3.mixer=relu_linear"),
    *("stage4.width=256", "stage4.depth=1,4"),
)


@pytest.fixture
def supernet():
    torch.manual_seed(0)
    return Supernet(get_space(**TINY)).eval()


@pytest.fixture
def path(supernet, tmp_path):
    save_checkpoint(tmp_path / "s.safetensors", supernet, metadata={"steps": "5"})
    return tmp_path / "s.safetensors"


@pytest.mark.parametrize(
    "arguments",
    [
        TINY,
        TINY | {"nearest_head": False, "freeze": ["resolution=64", "stage4.mixer=softmax,none"]},
        {"name": "tiny", "task": "segmentation", "dataset": "ade20k", "num_classes": 5},
    ],
)
@pytest.mark.parametrize("kernel_transform", [False, True])
def test_a_supernet_opens_as_it_was_saved(arguments, kernel_transform, tmp_path):
    supernet = Supernet(get_space(**arguments), kernel_transform=kernel_transform)
    file = tmp_path / "s.safetensors"
    save_checkpoint(file, supernet)
    found = open_supernet(file, expected=get_space(**arguments))
    assert not found.training
    assert found.space == supernet.space
    assert found.kernel_transform == kernel_transform
    assert list(found.state_dict()) == list(supernet.state_dict())
    for name, tensor in supernet.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    parameters = dict(found.named_parameters())
    assert parameters.keys() == dict(supernet.named_parameters()).keys()
    assert all(p.requires_grad for p in parameters.values())


def test_a_space_that_was_narrowed_later_comes_back(tmp_path):
    space = get_space("tiny").freeze(["stage1.kernel_size=5"]).freeze(["resolution=64"])
    save_checkpoint(tmp_path / "s.safetensors", Supernet(space))
    assert read_header(tmp_path / "s.safetensors").space == space
    narrowed = Supernet(judged_space(get_space("tiny")))
    with pytest.raises(WeightsError, match="narrowed by hand"):
        save_checkpoint(tmp_path / "t.safetensors", narrowed)


def test_a_single_network_is_saved_as_one(tmp_path, supernet):
    arch = supernet.largest[0]
    save_checkpoint(tmp_path / "n.safetensors", supernet.extract(arch), metadata={"seed": "3"})
    assert read_header(tmp_path / "n.safetensors").kind == "network"
    model = build(arch)
    model.load_state_dict(load_file(tmp_path / "n.safetensors"))
    with pytest.raises(WeightsError, match=r"single network, b 8x1 .*, and no supernet; evaluate"):
        open_supernet(tmp_path / "n.safetensors")
    torch.save(model.state_dict(), tmp_path / "n.pt")
    with pytest.raises(WeightsError, match="holds a single network and no supernet"):
        open_supernet(tmp_path / "n.pt")


def test_what_is_wrong_with_a_file_is_named(path, tmp_path):
    with pytest.raises(
        WeightsError, match="supernet of space tiny --num-classes 7, not of space b --task segm"
    ):
        open_supernet(path, expected=get_space("b", task="segmentation"))
    with pytest.raises(WeightsError, match="cannot read"):
        open_supernet(tmp_path / "none.safetensors")
    spec = get_space(**TINY).spec
    assert spec is not None
    metadata = {"space": json.dumps(spec.to_dict()), "kernel_transform": "false"}
    state = load_file(path)
    for name, change in (("missing", None), ("shape", torch.zeros(3))):
        first = sorted(state)[0]
        wrong = {n: t for n, t in state.items() if n != first}
        if change is not None:
            wrong[first] = change
        save_file(wrong, tmp_path / name, metadata=metadata)
        with pytest.raises(WeightsError, match=f"{name} is damaged.*{first} does not fit space"):
            open_supernet(tmp_path / name)
    for text in ("[]", "{", '{"name": "tinny"}', '{"name": "tiny", "other": 1}'):
        save_file(state, tmp_path / "x", metadata={"space": text})
        with pytest.raises(WeightsError, match="x is damaged, or of another version: its space"):
            open_supernet(tmp_path / "x")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(WeightsError, match="is damaged"):
        open_supernet(path)


def test_metadata_cannot_take_a_name_of_the_file(supernet, tmp_path):
    with pytest.raises(WeightsError, match="metadata cannot be named 'space'"):
        save_checkpoint(tmp_path / "s", supernet, metadata={"space": "b"})


@pytest.mark.parametrize("kernel_transform", [False, True])
def test_a_supernet_begins_as_the_network_it_is_given(kernel_transform, tmp_path):
    supernet = Supernet(get_space(**TINY), kernel_transform=kernel_transform).double().eval()
    rng = random.Random(1)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for _ in range(4):
        arch = supernet.space.sample(rng)
        network = build(arch).double().eval()
        with torch.no_grad():
            for tensor in network.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.rand_like(tensor))
        before = {n: t.clone() for n, t in supernet.state_dict().items()}
        save_weights(network.float(), tmp_path / "n.safetensors")
        assert init_from(supernet, tmp_path / "n.safetensors") == arch
        with torch.no_grad():
            expected = network.double()(x)
            found = supernet(x, arch)
        assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-12
        same = sum(torch.equal(t, before[n]) for n, t in supernet.state_dict().items())
        assert same > 0


def test_official_weights_tell_which_network_of_the_space_they_are(tmp_path):
    space = get_space("b", freeze=SMALL_B)
    supernet = Supernet(space).eval()
    network = create_model("b1").eval()
    torch.save(official_state_dict(network), tmp_path / "b1.pt")
    arch = init_from(supernet, tmp_path / "b1.pt")
    assert replace(arch, resolution=(224, 224)) == named_arch("b1")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(supernet(x, arch), network(x), rtol=1e-5, atol=1e-6)
    torch.save(official_state_dict(create_model("b0")), tmp_path / "b0.pt")
    with pytest.raises(WeightsError, match=r"fits no official network in space b .*it has b1\)"):
        init_from(supernet, tmp_path / "b0.pt")


def test_a_head_of_other_classes_stays_as_it_was(supernet, tmp_path):
    arch: Any = smallest_of(supernet.space)[0]
    other = build(replace(arch, head=replace(arch.head, num_classes=4)))
    save_weights(other, tmp_path / "n.safetensors")
    before = supernet.extract(arch).state_dict()
    assert init_from(supernet, tmp_path / "n.safetensors") == arch
    for name, tensor in supernet.extract(arch).state_dict().items():
        expected = before if ".classifier." in name else other.state_dict()
        assert torch.equal(tensor, expected[name]), name


def test_what_cannot_be_put_in_is_named(supernet, path, tmp_path):
    with pytest.raises(WeightsError, match="is a supernet; extract a network from it first"):
        init_from(supernet, path)
    save_weights(create_model("b1"), tmp_path / "b1.safetensors")
    with pytest.raises(SpaceError, match=r"width=.* is not in space tiny"):
        init_from(supernet, tmp_path / "b1.safetensors")
    model = build(supernet.largest[0])
    set_norm_eps(model, 1e-3)
    save_weights(model, tmp_path / "n.safetensors")
    with pytest.raises(WeightsError, match=r"epsilon of 0.001 .* this space has 1e-05"):
        init_from(supernet, tmp_path / "n.safetensors")
