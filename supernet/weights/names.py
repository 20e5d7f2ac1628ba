"""Names of tensors: ours, the official code's and timm's, related block by block.

Sources: https://github.com/mit-han-lab/efficientvit and timm's efficientvit_mit.py.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from torch import Tensor

from supernet.arch import Arch
from supernet.blocks import blocks_of

ENCODER = "image_encoder."  # before all names of a promptable model's encoder


def official_name(name: str, arch: Arch) -> str:
    """Return the official name of a tensor of `supernet.model`'s."""
    return _official(name, _official_prefixes(arch), arch)


def renamed(state: Mapping[str, Tensor], arch: Arch, own: Iterable[str]) -> dict[str, Tensor]:
    """Return `state` under our names, whichever of the three namings it has.

    `own` are the names of all tensors of the model; what fits none of them keeps its name.
    """
    own = list(own)
    if not any(name.startswith(ENCODER) for name in own):  # an encoder alone takes its part
        inner = {n.removeprefix(ENCODER): t for n, t in state.items() if n.startswith(ENCODER)}
        state = inner or state
    is_official = any(name.startswith(("backbone.", f"{ENCODER}backbone.")) for name in state)
    is_timm = any(name.startswith("stem.in_conv.") for name in state)
    if not (is_official or is_timm):
        return dict(state)
    prefixes = _official_prefixes(arch)
    official = {name: _official(name, prefixes, arch) for name in own}
    ours = {_timm(theirs, arch) if is_timm else theirs: name for name, theirs in official.items()}
    return {ours.get(name, name): tensor for name, tensor in state.items()}


@lru_cache
def _official_prefixes(arch: Arch) -> dict[str, str]:
    """Return what stands before a block's tensors officially, by what stands there here."""
    names: dict[str, str] = {}
    head = _official_head_names(arch)
    for block in blocks_of(arch):
        stage, position, *_ = block.name.split(".")
        if stage == "head":
            official = head.get(block.name)
            if official is None:
                continue
        else:
            official = f"backbone.{_official_stage(arch, stage)}.op_list.{position}"
            if stage != "stem" or position != "0":
                official += _official_role(arch, stage, position, block.name)
        here = f"{block.name}.main." if block.residual else f"{block.name}."
        names[here] = f"{official}."
    return names


def _official_stage(arch: Arch, stage: str) -> str:
    number = 0 if stage == "stem" else int(stage.removeprefix("stage"))
    if arch.family == "b":
        return f"stages.{number - 1}" if number else "input_stem"
    return f"stages.{number}"


def _official_role(arch: Arch, stage: str, position: str, name: str) -> str:
    """Return what tells a mixer from a local block, which are one EfficientViT block officially."""
    if stage == "stem" or position == "0":
        return ".main"
    mixer = arch.stages[int(stage.removeprefix("stage")) - 1].mixer
    if mixer == "none":
        return ".main"
    is_mixer = name.split(".")[2].startswith(mixer)
    return ".context_module.main" if is_mixer else ".local_module.main"


def _official_head_names(arch: Arch) -> dict[str, str]:
    names: dict[str, str] = {}
    head = "neck" if arch.task == "promptable" else "head"
    blocks = [block for block in blocks_of(arch) if block.stage == "head"]
    inputs = [b.name for b in blocks if b.name.endswith(".conv") and b.name.count(".") == 2]
    expanded = any(block.name == "head.expand" for block in blocks)
    if arch.task == "classification":
        for block in blocks:
            index = {"conv": 0, "linear": 2, "classifier": 3}.get(block.name.split(".")[-1])
            if index is not None:
                names[block.name] = f"head.op_list.{index}"
        return names
    for index, name in enumerate(inputs):
        alone = arch.task == "segmentation" and index == len(inputs) - 1
        names[name] = f"{head}.input_ops.{index}" + ("" if alone else ".op_list.0")
    for block in blocks:
        position = block.name.split(".")[1]
        if position.isdecimal():
            names[block.name] = f"{head}.middle.op_list.{position}.main"
    outputs = f"{head}.output_ops.0.op_list"
    names["head.expand"] = f"{outputs}.0"
    names["head.classifier"] = f"{outputs}.{int(expanded)}"
    names["head.embed"] = f"{outputs}.0"
    names["head.norm"] = "norm"
    return names


def _official(name: str, prefixes: Mapping[str, str], arch: Arch) -> str:
    if name.startswith(ENCODER):
        return ENCODER + _official(name.removeprefix(ENCODER), prefixes, arch)
    for here, official in prefixes.items():
        if name.startswith(here):
            rest = name.removeprefix(here)
            if rest.startswith("aggreg."):
                _, scale, tail = rest.split(".", 2)
                stage = next(part for part in name.split(".") if part.startswith("stage"))
                scales = arch.stages[int(stage.removeprefix("stage")) - 1].scales
                rest = f"aggreg.{scales.index(int(scale))}.{tail}"
            return official + rest
    return name


def _timm(name: str, arch: Arch) -> str:
    """Return timm's name of a tensor by its official one."""
    name = name.removeprefix("backbone.")
    if arch.family == "b":
        name = name.replace("input_stem.op_list.", "stem.")
    else:
        name = re.sub(r"^stages\.0\.op_list\.", "stem.", name)
        name = re.sub(r"^stages\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.", name)
    name = re.sub(r"^stem\.0\.", "stem.in_conv.", name)
    name = re.sub(r"^stem\.(\d+)\.", lambda m: f"stem.res{int(m[1]) - 1}.", name)
    name = re.sub(r"^(stages\.\d+)\.op_list\.", r"\1.blocks.", name)
    for official, theirs in (
        ("head.op_list.0.", "head.in_conv."),
        ("head.op_list.2.linear.", "head.classifier.0."),
        ("head.op_list.2.norm.", "head.classifier.1."),
        ("head.op_list.3.linear.", "head.classifier.4."),
    ):
        name = name.replace(official, theirs)
    return name
