"""Files of weights: three namings, our own metadata, and what does not fit."""

import json
import os
import struct
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file, save_file

from results.errors import RunError, WeightsError
from supernet.arch import ClassificationHead
from supernet.model import build, build_task_model, create_model
from supernet.official import named_arch
from supernet.weights.files import (
    load_weights,
    official_state_dict,
    save_weights,
)
from supernet.weights.fitting import norm_eps, set_norm_eps
from supernet.weights.header import read_header
from tests.strategies import SPACES, archs

B0 = named_arch("b0")


def seeded(arch=B0, seed=0) -> Any:
    torch.manual_seed(seed)
    return build(arch).eval()


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", ["b0", "l0", "sr_w075_x2"])
def test_our_own_file_brings_back_the_model(name, tmp_path):
    model = seeded(named_arch(name))
    save_weights(model, tmp_path / "model.safetensors", note="mine")
    again = seeded(read_header(tmp_path / "model.safetensors").arch, seed=1)
    assert load_weights(again, tmp_path / "model.safetensors") == ()
    assert same(model, again)
    assert again.arch == model.arch


@settings(max_examples=10, deadline=None)
@given(arch=archs(SPACES["tiny"]))
def test_any_arch_comes_back(arch, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    model = seeded(arch)
    save_weights(model, path)
    again = seeded(read_header(path).arch, seed=1)
    load_weights(again, path)
    assert same(model, again)


def test_a_promptable_model_comes_back_whole_or_as_its_encoder(tmp_path):
    torch.manual_seed(0)
    arch = named_arch("sam_l0", resolution=(64, 64))
    model = build_task_model(arch)
    save_weights(model, tmp_path / "sam.safetensors")
    torch.manual_seed(1)
    again, encoder = build_task_model(arch), build(arch)
    load_weights(again, tmp_path / "sam.safetensors")
    load_weights(encoder, tmp_path / "sam.safetensors")
    assert same(model, again)
    assert same(model.image_encoder, encoder)
    torch.save(official_state_dict(model), tmp_path / "official.pt")
    torch.manual_seed(2)
    third = build_task_model(arch)
    load_weights(third, tmp_path / "official.pt")
    assert same(model, third)


def test_the_epsilon_of_the_file_counts(tmp_path):
    model = seeded()
    set_norm_eps(model, 1e-3)
    save_weights(model, tmp_path / "model.safetensors")
    again = seeded()
    assert norm_eps(again) == 1e-5
    load_weights(again, tmp_path / "model.safetensors")
    assert norm_eps(again) == 1e-3
    picture = torch.rand(1, 3, 64, 64)
    assert torch.equal(model(picture), again(picture))


def test_epsilons_that_differ_are_not_guessed(tmp_path):
    model = seeded()
    model.stem[0].conv.norm.eps = 1e-3
    with pytest.raises(WeightsError, match="2 epsilons"):
        save_weights(model, tmp_path / "model.safetensors")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_files_bare_wrapped_or_from_several_gpus(wrap, prefix, tmp_path):
    model = seeded()
    state = {prefix + name: tensor for name, tensor in official_state_dict(model).items()}
    torch.save(wrap(state), tmp_path / "b0.pt")
    again = seeded(seed=1)
    load_weights(again, tmp_path / "b0.pt")
    assert same(model, again)
    assert read_header(tmp_path / "b0.pt").arch is None


def test_official_names_are_those_of_the_checkpoints():
    """Spelt out from the official code's module structure."""
    b, l = (official_state_dict(build(named_arch(n))) for n in ("b1", "l1"))  # noqa: E741
    assert "backbone.input_stem.op_list.0.conv.weight" in b
    assert "backbone.input_stem.op_list.1.main.depth_conv.norm.running_mean" in b
    assert "backbone.stages.0.op_list.0.main.inverted_conv.conv.weight" in b
    attention = "backbone.stages.2.op_list.1.context_module.main"
    assert f"{attention}.qkv.conv.weight" in b
    assert f"{attention}.aggreg.0.0.weight" in b
    assert f"{attention}.aggreg.0.1.weight" in b
    assert f"{attention}.proj.norm.weight" in b
    assert "backbone.stages.2.op_list.1.local_module.main.depth_conv.conv.bias" in b
    assert "backbone.stages.0.op_list.1.main.conv1.conv.weight" in l
    assert "backbone.stages.1.op_list.0.main.spatial_conv.conv.weight" in l
    assert "head.op_list.2.linear.weight" in b
    assert "head.op_list.3.linear.bias" in b
    arch = named_arch("l1", task="segmentation", dataset="ade20k")
    seg = official_state_dict(build(arch))
    assert "head.input_ops.0.op_list.0.conv.weight" in seg
    assert "head.input_ops.2.conv.weight" in seg
    assert "head.middle.op_list.2.main.spatial_conv.norm.bias" in seg
    assert "head.output_ops.0.op_list.0.norm.weight" in seg
    assert "head.output_ops.0.op_list.1.conv.bias" in seg
    sam = official_state_dict(build_task_model(named_arch("sam_l0")))
    assert "image_encoder.neck.input_ops.2.op_list.0.conv.weight" in sam
    assert "image_encoder.norm.weight" in sam
    assert "prompt_encoder.no_mask_embed.weight" in sam
    assert "mask_decoder.transformer.layers.0.self_attn.q_proj.weight" in sam


def test_scales_are_numbered_officially_and_named_here(tmp_path):
    stages = tuple(replace(s, scales=(3, 5)) if s.scales else s for s in B0.stages)
    model: Any = seeded(replace(B0, stages=stages))
    official = official_state_dict(model)
    weight = model.stage3[1].relu_linear16.main.aggreg["5"][0].weight
    assert torch.equal(
        official["backbone.stages.2.op_list.1.context_module.main.aggreg.1.0.weight"], weight
    )


def test_another_number_of_classes_leaves_the_classifier(tmp_path):
    save_weights(seeded(), tmp_path / "b0.safetensors")
    with pytest.warns(UserWarning, match="2 tensors of the head .* stay at random"):
        model: Any = create_model(
            "efficientvit_b0", num_classes=5, pretrained=tmp_path / "b0.safetensors"
        )
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert torch.equal(model.stem[0].conv.conv.weight, seeded().stem[0].conv.conv.weight)
    with pytest.raises(WeightsError, match="1000x1280, not 5x1280"):
        load_weights(model, tmp_path / "b0.safetensors")
    left = load_weights(model, tmp_path / "b0.safetensors", partial=True)
    assert all("classifier" in name for name in left)
    assert len(left) == 2


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"features_only": True}])
def test_a_backbone_takes_its_part(options, tmp_path):
    torch.save(official_state_dict(seeded()), tmp_path / "b0.pt")
    model: Any = create_model("efficientvit_b0", pretrained=tmp_path / "b0.pt", **options)
    model = getattr(model, "backbone", model)
    assert torch.equal(model.stage4[0].mbconv.point_conv.conv.weight,
                       seeded().stage4[0].mbconv.point_conv.conv.weight)  # fmt: skip


@pytest.mark.parametrize(
    ("there", "here", "cure"),
    [
        ("b1", "b0", "--arch b1"),
        ("l2", "l1", "--arch l2"),
        ("sam_l0", "b0", "--arch sam_l0"),
    ],
)
def test_the_network_that_would_fit_is_named(there, here, cure, tmp_path):
    with torch.device("meta"):
        model = build_task_model(named_arch(there))
    state = {n: torch.zeros(t.shape, dtype=t.dtype) for n, t in official_state_dict(model).items()}
    torch.save(state, tmp_path / "theirs.pt")
    with pytest.raises(WeightsError) as caught:
        load_weights(build(named_arch(here)), tmp_path / "theirs.pt")
    message = str(caught.value)
    assert message.endswith(f"They would fit {cure}")
    assert message.count(";") == 2  # three differences, then how many more
    assert " more. " in message


def test_segmentation_and_class_counts_are_told_apart(tmp_path):
    arch = named_arch("b1", task="segmentation", dataset="ade20k", num_classes=21)
    torch.save(official_state_dict(build(arch)), tmp_path / "seg.pt")
    with pytest.raises(WeightsError) as caught:
        load_weights(seeded(), tmp_path / "seg.pt")
    flags = "--arch b1 --task segmentation --dataset ade20k --num-classes 21"
    assert str(caught.value).endswith(f"They would fit {flags}")


def test_a_network_that_nobody_published_is_placed(tmp_path):
    head = ClassificationHead((1024, 1281))
    torch.save(official_state_dict(seeded(replace(B0, head=head))), tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=r"No official network.*this one, the nearest, has"):
        load_weights(seeded(), tmp_path / "odd.pt")
    save_weights(seeded(replace(B0, head=head)), tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match=r"The file says that it holds b 8x1 .* 1024\+1281"):
        load_weights(seeded(), tmp_path / "odd.safetensors")


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not weights at all",
        struct.pack("<Q", 10**9) + b"{",
        struct.pack("<Q", 2) + b"{}" + b"\0" * 3,
    ],
)
def test_damaged_files_end_in_one_line(content, tmp_path):
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"bad\.pt") as caught:
        load_weights(seeded(), tmp_path / "bad.pt")
    assert "\n" not in str(caught.value)


def test_nothing_is_unpickled_but_tensors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"x": Trap()}}, tmp_path / "trap.pt")
    with pytest.raises(WeightsError, match="holds more than tensors"):
        load_weights(seeded(), tmp_path / "trap.pt")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("value", [[1, 2], {}, {"state_dict": {"a": 1}}, torch.zeros(2)])
def test_other_things_than_a_state_dict_are_refused(value, tmp_path):
    torch.save(value, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="state_dict"):
        load_weights(seeded(), tmp_path / "other.pt")


@pytest.mark.parametrize(
    "metadata", [{"arch": "{}"}, {"arch": "no"}, {"norm_eps": "x"}, {"norm_eps": "-1.0"}]
)
def test_damaged_metadata_is_named(metadata, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(seeded().state_dict(), path, metadata=metadata)
    with pytest.raises(WeightsError, match="is damaged"):
        load_weights(seeded(read_header(path).arch or B0), path)


def test_a_missing_file_and_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(WeightsError, match="No such file"):
        load_weights(seeded(), tmp_path / "missing.pt")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        save_weights(seeded(), tmp_path / "file" / "model.safetensors")


def test_other_programs_read_our_files(tmp_path):
    model = seeded()
    save_weights(model, tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    assert state.keys() == model.state_dict().keys()
    raw = (tmp_path / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    metadata = json.loads(raw[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["arch"]) == json.loads(model.arch.to_json())
    assert float(metadata["norm_eps"]) == 1e-5


def test_a_failed_load_leaves_the_model_as_it_was(tmp_path):
    model = seeded()
    state = official_state_dict(seeded(seed=1))
    del state["head.op_list.3.linear.bias"]
    torch.save(state, tmp_path / "b0.pt")
    with pytest.raises(WeightsError, match="is missing"):
        load_weights(model, tmp_path / "b0.pt")
    assert same(model, seeded())


def test_a_fine_tuned_model_comes_back_with_its_classes(tmp_path):
    path = str(tmp_path / "tuned.safetensors")
    tuned = create_model("efficientvit_b0", num_classes=7)
    save_weights(tuned, path, epoch=3)
    again = create_model("b0", pretrained=path)
    assert same(tuned, again)
    torch.save(official_state_dict(tuned), tmp_path / "tuned.pt")
    assert same(tuned, create_model("efficientvit_b0", pretrained=tmp_path / "tuned.pt"))
    with pytest.raises(WeightsError, match="'arch'"):
        save_weights(tuned, path, arch="3")


def test_a_dense_task_starts_from_a_classifier(tmp_path):
    torch.save({"model": official_state_dict(seeded())}, tmp_path / "b0.pt")
    with pytest.warns(UserWarning, match="head.* stay at random"):
        segmenter: Any = create_model(
            "efficientvit_seg_b0_cityscapes", pretrained=tmp_path / "b0.pt"
        )
    assert segmenter.arch.head.num_classes == 19  # not the classifier's 1000
    kernel = segmenter.stage4[0].mbconv.point_conv.conv.weight
    assert torch.equal(kernel, seeded().stage4[0].mbconv.point_conv.conv.weight)
    with pytest.raises(WeightsError, match="is missing"):
        load_weights(segmenter, tmp_path / "b0.pt")


@pytest.mark.parametrize(
    "wrap", [torch.nn.DataParallel, lambda m: torch.compile(m, backend="eager")]
)
def test_wrapped_models_are_saved_and_loaded_as_what_they_wrap(wrap, tmp_path):
    model = seeded()
    wrapped = wrap(model)
    save_weights(wrapped, tmp_path / "model.safetensors")
    again = seeded(seed=1)
    load_weights(wrap(again), tmp_path / "model.safetensors")
    assert same(model, again)
    torch.save(wrapped.state_dict(), tmp_path / "model.pt")
    third = seeded(seed=2)
    load_weights(third, tmp_path / "model.pt")
    assert same(model, third)


def test_features_of_published_promptable_weights(tmp_path):
    torch.manual_seed(0)
    sam: Any = build_task_model(named_arch("sam_l0"))
    torch.save(official_state_dict(sam), tmp_path / "sam.pt")
    features: Any = create_model(
        "efficientvit_sam_l0", features_only=True, pretrained=tmp_path / "sam.pt"
    )
    assert torch.equal(
        features.backbone.stem[0].conv.conv.weight, sam.image_encoder.stem[0].conv.conv.weight
    )
    assert norm_eps(features) == 1e-6
    assert features.default_cfg["mean"] == sam.default_cfg["mean"]
    with pytest.raises(WeightsError, match="no whole network"):
        save_weights(features, tmp_path / "features.safetensors")


def test_integers_and_sparse_tensors_are_no_weights(tmp_path):
    state = official_state_dict(seeded())
    name = "backbone.input_stem.op_list.0.conv.weight"
    torch.save(state | {name: state[name].to(torch.int8)}, tmp_path / "int8.pt")
    with pytest.raises(WeightsError, match=r"is torch\.int8, not torch\.float32"):
        load_weights(seeded(), tmp_path / "int8.pt")
    whole = {n: t.to(torch.int8) if t.dim() > 1 else t for n, t in state.items()}
    torch.save(whole | {f"{name}.scale": torch.ones(1)}, tmp_path / "int8.pt")
    with pytest.raises(WeightsError, match="Quantised weights cannot be used; give the float ones"):
        load_weights(seeded(), tmp_path / "int8.pt")
    torch.save(state | {name: state[name].to_sparse()}, tmp_path / "sparse.pt")
    with pytest.raises(WeightsError, match="is sparse"):
        load_weights(seeded(), tmp_path / "sparse.pt")
