"""Which weights of a checkpoint are taken: of averaged and raw ones, under whatever they nest."""

import argparse
import random
import re
from collections import OrderedDict
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from results.errors import WeightsError
from supernet.model import build, create_model
from supernet.official import named_arch
from supernet.weights.files import begin_with, load_weights, official_state_dict, read_weights
from supernet.weights.wrapped import COUNTERS, NoNetworkError, network_in

NAMES = {
    "official": ("backbone.input_stem.op_list.0.conv.weight", "head.op_list.3.linear.bias"),
    "large": ("backbone.stages.0.op_list.0.conv.weight", "head.op_list.0.norm.running_mean"),
    "timm": ("stem.in_conv.conv.weight", "stages.0.blocks.0.norm.bias", "head.classifier.4.bias"),
    "ours": ("stem.0.conv.conv.weight", "stage1.0.mbconv.conv.weight", "head.classifier.bias"),
    "sam": (
        *("image_encoder.backbone.stages.0.op_list.0.conv.weight", "image_encoder.norm.weight"),
        *("prompt_encoder.no_mask_embed.weight", "mask_decoder.iou_token.weight"),
    ),
}


def state(value=1.0, names="official"):
    return {name: torch.full((2,), value) for name in NAMES[names]}


def below(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


RAW, EMA = state(1.0), state(2.0)


def value_of(found):
    """The one value that all tensors have; the names must be the network's."""
    assert set(found) == set(RAW)
    (value,) = {tensor.unique().item() for tensor in found.values()}
    return value


@pytest.mark.parametrize(
    ("checkpoint", "place", "raw"),
    [
        ({"state_dict": RAW, "state_dict_ema": EMA}, "state_dict_ema", "state_dict"),  # timm
        ({"state_dict": RAW, "ema": {0.9998: EMA}}, "ema/0.9998", "state_dict"),  # official
        ({"model": RAW, "ema": EMA}, "ema", "model"),
        ({"state_dict": RAW, "ema_state_dict": EMA}, "ema_state_dict", "state_dict"),
        ({"params": RAW, "params_ema": EMA}, "params_ema", "params"),  # BasicSR
        ({"model": RAW, "model_ema": EMA}, "model_ema", "model"),
        ({"ema_model": EMA, "model": RAW, "epoch": 3}, "ema_model", "model"),
        ({"averaged_model": EMA, "net": RAW}, "averaged_model", "net"),
        ({"model": RAW, "swa_model": below("module.", EMA)}, "swa_model", "model"),
        ({"model": RAW, "ema": {"module": EMA, "updates": 7}}, "ema/module", "model"),
        ({"model": RAW, "ema": {"state_dict": EMA}}, "ema/state_dict", "model"),
        ({"generator": RAW, "generator_ema": EMA}, "generator_ema", "generator"),
        ({"netG": RAW, "netG_EMA": EMA, "netD": {"conv.weight": EMA}}, "netG_EMA", "netG"),
        ({"weights": RAW, "shadowParams": EMA}, "shadowParams", "weights"),
        (
            {"state_dict": {**below("model.", RAW), **below("ema_model.module.", EMA)}},
            *("state_dict/ema_model", "state_dict/model"),
        ),
        ({"model": RAW, "ema_teacher": EMA}, "ema_teacher", "model"),
        ({**RAW, **below("ema_", EMA)}, "ema_*", "the top"),  # beside each tensor
        ({"state_dict": {**below("net.", RAW), **below("net.ema_", EMA)}}, "state_dict/ema_*/net",
         "state_dict/net"),
        (
            {
                **RAW,
                **{n.replace(".", "_ema.", 1): t for n, t in EMA.items()},
                "ema_steps": torch.ones(1),
            },
            *("*_ema", "the top"),
        ),
        ({**RAW, **{f"{n}_ema": t for n, t in EMA.items()}}, "*_ema", "the top"),
        ({**RAW, **below("ema.", EMA)}, "ema", "the top"),  # a module of the network itself
        (
            {"ema": {**below("online_model.", RAW), **below("ema_model.", EMA), "step": 3}},
            *("ema/ema_model", "ema/online_model"),
        ),
        (
            {
                "state_dict": below("net.", RAW),
                "callbacks": {"StochasticWeightAveraging": {"average_model_state": EMA}},
            },
            *("callbacks/StochasticWeightAveraging/average_model_state", "state_dict/net"),
        ),
    ],
)  # fmt: skip
def test_averaged_weights_are_taken_and_said(checkpoint, place, raw):
    found, said = network_in(checkpoint)
    assert value_of(found) == 2.0
    assert said.startswith(f"took the averaged weights under {place};")
    assert f"the raw ones are under {raw}, save that part alone" in said


@pytest.mark.parametrize("key", ["ema", "model_ema", "state_dict_ema"])
def test_averaged_weights_alone_are_taken_and_said(key):
    found, said = network_in({key: EMA})
    assert value_of(found) == 2.0
    assert said == f"took the averaged weights under {key}"


@pytest.mark.parametrize(
    "key",
    ["model_state_dict", "model_state", "net", "params", "weights", "network", "state_dict",
     "generator", "modelState", "MODEL", "g_state_dict"],
)  # fmt: skip
def test_raw_weights_under_the_usual_keys_need_no_word(key):
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}
    found, said = network_in({key: RAW, "epoch": 3, "optimizer_state_dict": optimizer})
    assert value_of(found) == 1.0
    assert said == ""


PREFIXES = st.lists(
    st.sampled_from(["module", "_orig_mod", "model", "net", "encoder", "network", "backbone"]),
    max_size=5,
)
KEYS = st.lists(st.sampled_from(["state_dict", "model", "net", "checkpoint"]), max_size=3)


@given(prefixes=PREFIXES, keys=KEYS, names=st.sampled_from(sorted(NAMES)), counted=st.booleans())
def test_prefixes_and_keys_nest_in_any_order(prefixes, keys, names, counted):
    own = state(names=names)
    prefix = "".join(f"{part}." for part in prefixes)
    checkpoint = below(prefix, own)
    if counted:
        places = ("", prefix, f"{prefix}backbone.", f"{prefix}head.op_list.3.")
        checkpoint |= {p + name: torch.zeros(1) for p in places for name in COUNTERS}
    for key in keys:
        checkpoint = {key: checkpoint, "epoch": 3}
    found, said = network_in(checkpoint)
    assert found == own
    assert said == ""


@given(seed=st.integers(0, 2**31))
def test_wrappers_between_the_parts_of_a_name_go(seed):
    rng = random.Random(seed)
    inner = ("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
    wrapped = {}
    for name, tensor in RAW.items():
        parts = name.split(".")
        for _ in range(rng.randrange(4)):
            parts.insert(rng.randrange(len(parts)), rng.choice(inner))
        wrapped[".".join(parts)] = tensor
    assert network_in(wrapped) == (RAW, "")


def test_what_an_average_lacks_is_the_raw_one_s():
    """Averages of parameters alone, as many are, are evaluated with the network's statistics."""
    raw, average = state(1.0, "large"), state(2.0, "large")
    del average["head.op_list.0.norm.running_mean"]
    found, said = network_in({"model": raw, "ema": average})
    assert found.keys() == raw.keys()
    assert found["head.op_list.0.norm.running_mean"][0] == 1.0
    assert found["backbone.stages.0.op_list.0.conv.weight"][0] == 2.0
    assert "statistics that the average lacks are from there" in said


@pytest.mark.parametrize("key", ["model_ema", "swa_model", "ema_teacher"])
def test_an_average_of_a_part_is_not_mixed_with_raw_weights(key):
    part = {"backbone.input_stem.op_list.0.conv.weight": torch.full((2,), 2.0)}
    found, said = network_in({"model": RAW, key: part})
    assert value_of(found) == 1.0
    assert (
        said == f"took the weights under model; averaged ones under {key} lack parameters, and "
        "were left"
    )
    assert network_in({key: part})[0] == part  # whom it does not fit says so


def test_averages_beside_each_tensor_are_no_part_of_the_network():
    flat = {f"ema_{name.replace('.', '_')}": tensor for name, tensor in EMA.items()}
    for checkpoint in ({**RAW, **flat}, {"state_dict": {**RAW, **flat}}):
        found, said = network_in(checkpoint)
        assert value_of(found) == 1.0
        assert re.search(r"averaged ones under (state_dict/)?ema_\* have no names .* left$", said)
    part = {"ema_backbone.input_stem.op_list.0.conv.weight": torch.ones(2)}
    found, said = network_in({**RAW, **part})
    assert value_of(found) == 1.0
    assert said.endswith("averaged ones under ema_* lack parameters, and were left")
    raw, ema = state(1.0, "sam"), state(2.0, "sam")
    found, _ = network_in({**raw, **below("ema_", ema)})
    assert found == ema


@pytest.mark.parametrize(
    "unread",
    [
        {"ema": {"shadow_params": [torch.ones(2)], "decay": 0.9}},  # torch_ema
        {"model_ema": {"backboneinput_stemop_list0convweight": torch.ones(2)}},  # LitEma
    ],
)
def test_averages_without_names_are_not_passed_over_in_silence(unread):
    found, said = network_in({"state_dict": RAW, **unread})
    assert value_of(found) == 1.0
    assert "averaged ones under " in said
    assert next(iter(unread)) in said


def test_several_networks_that_nothing_tells_apart_are_refused():
    for checkpoint in (
        {"best": RAW, "last": EMA},
        {"ema": {0.999: RAW, 0.9999: EMA}},
        {"fold0": RAW, "fold1": EMA},
        {**below("a.", RAW), **below("b.", EMA)},
    ):
        with pytest.raises(NoNetworkError, match=r"several networks, under .*; save one"):
            network_in(checkpoint)
    found, said = network_in({"model": EMA, "state_dict": RAW})  # as before there was a choice
    assert value_of(found) == 1.0
    assert said.startswith("took the weights under state_dict; others are under model")
    found, said = network_in({"teacher": EMA, "student": RAW})
    assert value_of(found) == 1.0
    assert "others are under teacher" in said


def test_a_key_that_nobody_knows_is_said_and_optimisers_are_no_weights():
    found, said = network_in({"my_thing": RAW, "epoch": 1})
    assert value_of(found) == 1.0
    assert said == "took the weights under my_thing"
    moments = below("exp_avg.", RAW)
    assert network_in({"model": EMA, "optimizer": moments, "adamw": RAW}) == (EMA, "")
    with pytest.raises(NoNetworkError, match="its keys are 'optimizer', 'epoch'"):
        network_in({"optimizer": moments, "epoch": 3})


MOMENTS: tuple[str, ...] = (
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "square_avg",
    "expAvg",
    "momentum_buffer",
)
MOMENTS += ("exp_inf", "grad_avg", "exp_avg_sq_row", "acc_delta")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    "kept",
    [
        lambda moment: {"model": RAW, moment: EMA},
        lambda moment: {"model": RAW, moment: EMA, f"{moment}_sq": EMA},
        lambda moment: {"model": RAW, "lion": {moment: EMA}},
        lambda moment: {"model": RAW, "state": {0: {moment: EMA}}},
        lambda moment: {"model": RAW, "state": {n: {moment: t} for n, t in EMA.items()}},
        lambda moment: {"model": RAW, "lamb": {moment: list(EMA.values())}},
        lambda moment: {**below("model.", RAW), **below(f"{moment}.", EMA)},
        lambda moment: {**RAW, **{f"{name}.{moment}": t for name, t in EMA.items()}},
        lambda moment: {**RAW, **{f"{name}_{moment}": t for name, t in EMA.items()}},
        lambda moment: {**RAW, **below(f"{moment}_", EMA)},
    ],
)
def test_what_an_optimiser_keeps_is_no_average_of_weights(kept, moment):
    found, said = network_in(kept(moment))
    assert value_of(found) == 1.0
    assert said == ""
    with pytest.raises(NoNetworkError, match="no state_dict of a network"):
        network_in({moment: EMA})


@pytest.mark.parametrize(
    "name", ["Lion", "lamb", "RMSProp", "RMSprop", "AdaGrad", "AdaFactor", "NAdam", "Muon"]
)
def test_what_stands_under_an_optimiser_is_no_network(name):
    assert network_in({"model": RAW, name: EMA, f"{name}_avg": EMA}) == (RAW, "")


@pytest.mark.parametrize("key", ["exp_avg_model", "avg_model", "exp_moving_avg", "avg_params"])
def test_averages_of_models_are_none_of_an_optimiser(key):
    assert value_of(network_in({"model": RAW, key: EMA})[0]) == 2.0


def test_trees_without_end_are_looked_at_once():
    inner: dict[str, object] = {"x": 1}
    for _ in range(60):  # 2**60 places, of 60 dicts
        inner = {"a": inner, "b": inner}
    with pytest.raises(NoNetworkError):
        network_in(inner)
    inner["itself"] = inner
    with pytest.raises(NoNetworkError):
        network_in(inner)


# --- Files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def networks():
    """Two networks and their tensors under the official names."""
    torch.manual_seed(0)
    arch = named_arch("b0", num_classes=3)
    models = [build(arch).eval() for _ in range(2)]
    return arch, [(model, official_state_dict(model)) for model in models]


def is_same(a, b):
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def load(path, arch, tell):
    model = build(arch)
    load_weights(model, path, tell=tell)
    return model


def create(path, arch, tell):
    return create_model("b0", pretrained=path, tell=tell)


def begin(path, arch, tell):
    model = build(arch)
    begin_with(model, read_weights(path), tell=tell)
    return model


@pytest.mark.parametrize("filled", [load, create, begin])
def test_what_is_chosen_of_a_file_is_told_once_and_printed_never(
    networks, tmp_path, capsys, filled
):
    arch, ((_, raw), (model, ema)) = networks
    torch.save({"state_dict": raw, "state_dict_ema": ema}, tmp_path / "x.pt")
    lines: list[str] = []
    for tell in (None, lines.append):
        assert is_same(filled(tmp_path / "x.pt", arch, tell), model)
    assert len(lines) == 1
    assert lines[0].startswith(f"{tmp_path / 'x.pt'}: took the averaged weights under state")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("wrap", [torch.optim.swa_utils.AveragedModel, torch.nn.DataParallel])
def test_averages_that_pytorch_makes_are_read(networks, tmp_path, wrap):
    arch, ((model, _), _) = networks
    wrapped = wrap(torch.nn.Sequential(OrderedDict(net=deepcopy(model))))
    torch.save({"model": wrapped.state_dict(), "epoch": 3}, tmp_path / "x.pt")
    found = build(arch)
    load_weights(found, tmp_path / "x.pt")
    assert is_same(found, model)


def test_safetensors_of_other_programs_are_unwrapped_too(networks, tmp_path):
    from safetensors.torch import save_file

    arch, ((model, raw), _) = networks
    save_file(below("model.module.", raw), tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = build(arch)
    load_weights(found, tmp_path / "x.safetensors")
    assert is_same(found, model)


def test_what_is_no_network_names_what_is_there(tmp_path):
    torch.save({"sampler": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"no state_dict of a network; its keys are 'sampler', "):
        read_weights(tmp_path / "x.pt")
    torch.save({"state_dict": RAW, "data": Path("x")}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"more than tensors \(pathlib.*Path\); save the state"):
        read_weights(tmp_path / "x.pt")
    # timm keeps its flags beside the weights
    torch.save({"state_dict": RAW, "args": argparse.Namespace(lr=1)}, tmp_path / "x.pt")
    assert read_weights(tmp_path / "x.pt").tensors.keys() == RAW.keys()


def test_advice_does_not_name_the_flags_that_were_given(networks, tmp_path):
    arch, ((_, raw), _) = networks
    renamed = {name.replace("op_list", "layers"): tensor for name, tensor in raw.items()}
    torch.save(renamed, tmp_path / "x.pt")
    with pytest.raises(WeightsError) as caught:
        load_weights(build(arch), tmp_path / "x.pt")
    assert "--arch" not in str(caught.value)
    assert "as many as this network's; give them the names" in str(caught.value)
